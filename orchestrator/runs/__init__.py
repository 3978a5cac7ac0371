"""What the storage knows of runs: their events, the status that follows, their pipelines.

Below `results` and `running`, which both read it.
"""
