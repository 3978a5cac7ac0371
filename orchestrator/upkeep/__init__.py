"""Looks after a storage and an installation: doctor, gc, verify."""
