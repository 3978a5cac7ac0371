"""What is measured: quality of samples, straightness of flows, cost of networks."""
