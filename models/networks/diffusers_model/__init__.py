"""Networks of the package diffusers that work on latents, run as they are."""
