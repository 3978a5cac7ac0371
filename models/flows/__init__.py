"""Flows between noise (t = 0) and images (t = 1): paths, losses, schedules, and the flows."""
