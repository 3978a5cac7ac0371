"""A U-Net of the package diffusers, run as it is."""
