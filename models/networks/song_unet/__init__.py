"""NCSN++ and DDPM++ of Song et al. (2021), for SlimFlow and for EDM. Only `spec` needs no torch."""
