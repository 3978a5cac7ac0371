"""What every job kind builds on: specs, references, typed handles, errors and the job's context.

Nothing here imports torch or Ray: the command line reads pipelines with it.
"""
