"""Models of the store as files that work without it."""
