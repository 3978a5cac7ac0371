"""Files that start a pipeline elsewhere: a batch script of Slurm, a RayJob, a cluster of `ray up`.

They hold no secret: what is one is named, as an environment variable or a secret of the cluster.
"""
