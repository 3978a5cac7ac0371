"""The one training loop, its objectives, and Ray Train around it.

Random numbers and data order are functions of (seed, step, position in the global batch), so a
resumed run is bit-equal to an uninterrupted one and the number of workers changes only rounding.
"""
