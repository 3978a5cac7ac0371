"""Drawing samples from a model and measuring them."""
