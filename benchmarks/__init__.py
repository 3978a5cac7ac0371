"""Measurements: what the method brings here, and what the code costs."""
