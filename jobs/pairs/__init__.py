"""Noise-image pairs made by a flow on a pool of Ray actors.

Pair i is a function of (seed, i): shard and batch bounds are fixed, so any number of actors, in any
order, after any crash, writes the same bytes.
"""
