"""A small critic of images, which judges them with or without noise."""
