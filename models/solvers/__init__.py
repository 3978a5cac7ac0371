"""Solvers of the flow equation dx/dt = v(x, t), one method per file."""
