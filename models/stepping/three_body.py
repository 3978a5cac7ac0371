"""`integrate`: the paper's three-body systems with one step parameter from beginning to end."""

from collections.abc import Iterable

from slimctl.models.stepping.advance import Method, advance
from slimctl.models.stepping.bodies import Bodies, Floats, Integers
from slimctl.models.stepping.motion import MAX_SUBSTEPS, Motion
from slimctl.models.stepping.names import IntegratorName, StepControl


def integrate(
    seeds: Iterable[int] | None = None,
    mu: float | Floats = 1e-2,
    intervals: int = 300,
    integrator: IntegratorName = "hermite",
    control: StepControl = "time_scale",
    max_substeps: int = MAX_SUBSTEPS,
    bodies: Bodies | None = None,
) -> tuple[Floats, Integers]:
    """Integrates three-body systems over `intervals` x 0.1 yr.

    Args:
        seeds: of the systems; or give `bodies`.
        mu: step parameter of all systems, or of each (N,).
        intervals: number of intervals of 0.1 yr.
        integrator: `hermite`, `leapfrog` or `yoshida4`.
        control: `time_scale` for steps of mu T_c, `fixed` for steps of mu units of time.
        max_substeps: steps in one interval after which a system is given up; its error is infinite.
        bodies: systems of one's own instead of the paper's.

    Returns:
        |dE/E| at the end, and force evaluations: steps plus one per interval; both (N,).

    Raises:
        ValueError: not exactly one of `seeds` and `bodies`, or numbers that cannot be integrated.

    Source: arXiv 2502.12809, section 3, with Hut, Makino and McMillan's Hermite integrator.
    """
    if (seeds is None) == (bodies is None):
        raise ValueError("give either seeds or bodies")
    motion = Motion.start(bodies) if bodies is not None else Motion.of_seeds(seeds or ())
    advance(motion, mu, intervals, Method(integrator, control, max_substeps))
    return motion.error(), motion.evaluations
