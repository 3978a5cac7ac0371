"""Mosaics for slimctl. Nothing here is imported before a pipeline asks for it."""
