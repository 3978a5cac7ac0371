"""NCSN++ of Song et al. (2021) as SlimFlow configures it. Only `spec` imports without torch."""
