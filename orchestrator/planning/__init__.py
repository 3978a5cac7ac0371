"""What a submission would do and cost: the graph, the plan, the estimate. Nothing is started."""
