"""The mathematics: flows, networks, solvers and metrics. No Ray, MLflow, YAML or command line."""
