"""The losses that networks are trained with, each on the data of its job."""
