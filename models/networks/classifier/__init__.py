"""A small convolutional classifier, trained in seconds, whose features measure sample quality."""
