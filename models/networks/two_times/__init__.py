"""A network of any family with a second time as input, for mean velocities."""
