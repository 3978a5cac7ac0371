"""ADM of Dhariwal and Nichol (2021), for SlimFlow and for EDM. Only `spec` needs no torch."""
