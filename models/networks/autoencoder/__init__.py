"""The autoencoder between images and latents."""
