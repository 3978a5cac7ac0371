"""Searching over settings: what may be tried, what is worth training, and which one is chosen."""
