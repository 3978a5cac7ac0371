"""Runs the graph on Ray: the supervisor, its scheduler, searches, and the ways to a cluster."""
