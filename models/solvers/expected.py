"""How many evaluations a solver takes, before it runs."""

from slimctl.models.solvers.spec import SolverSpec

RK45_NFE, RK45_TOLERANCE, RK45_ORDER = 127.0, 1e-5, 5
"""Published for the 1-rectified flow of CIFAR-10 (Liu et al., arXiv 2209.03003, table 1)."""


def expected_nfe(solver: SolverSpec) -> tuple[float, str | None]:
    """Evaluations per sample, and what had to be assumed for it (None = it is exact).

    A solver that chooses its steps takes as many as its error asks for: the published count of one
    flow stands for any, and grows as tolerance^(-1 / order) does.
    """
    if solver.kind == "rk45":
        nfe = RK45_NFE * (RK45_TOLERANCE / solver.tolerance) ** (1 / RK45_ORDER)
        return nfe, f"rk45 at {solver.tolerance:g} takes {nfe:.0f} evaluations a sample"
    if solver.kind == "heun":
        return 2.0 * solver.steps - (solver.last_step == "euler"), None
    if solver.kind == "grid":
        return float(len(solver.times)), None
    if solver.kind == "edm_heun":
        return 2.0 * solver.steps - 1, None
    return float(solver.steps), None
