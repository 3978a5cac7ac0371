"""Names of the integrators and of the ways to choose their step size."""

from typing import Literal

IntegratorName = Literal["hermite", "leapfrog", "yoshida4"]
INTEGRATORS: tuple[IntegratorName, ...] = ("hermite", "leapfrog", "yoshida4")
StepControl = Literal["time_scale", "fixed"]
"""What a step parameter mu means: dt = mu T_c, or dt = mu units of time."""
