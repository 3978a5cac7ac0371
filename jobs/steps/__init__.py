"""Training and measuring policies that choose step sizes."""
