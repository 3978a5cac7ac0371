"""What a pipeline can ask for, and the machinery that does it on workers."""
