"""A residual network of linear layers, for points and the smallest images."""
