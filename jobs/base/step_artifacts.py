"""Handles of what chooses the steps of an integration: fitted grids, learned policies."""

from typing import Any, Literal

from pydantic import Field

from slimctl.jobs.base.handle import Handle
from slimctl.models.solvers.spec import GridSpec
from slimctl.models.spec import ImageShape, Spec

ADAPTIVE = ("rk45", "rk23")
"""Groups of rows that choose their steps as they go, though nothing was learned."""


FITTED = "fitted grid"
"""Group of the rows of `StepGrid`."""


class StepGrid(Handle):
    """A solver of fixed times and weights, fitted to a flow's exact end points."""

    image: ImageShape
    solver: GridSpec
    """The times and weights."""
    flow: str
    """Artifact id of the flow that it was fitted to."""
    nfe: int
    """Network evaluations per sample."""
    error_median: float
    """Median over held-out samples of the RMS difference from the exact end, in [-1, 1] units."""
    error_p90: float
    error_p99: float
    share_within_rounding: float
    """Share of held-out samples with an error below 2.3e-3, that of rounding to 8 bits, 0..1."""
    samples: int
    """Held-out samples."""
    exact_nfe: float
    """Mean evaluations of rk45 at the tolerance of the fit, uninterrupted, on the same samples."""


class StepPolicy(Handle):
    """Policies that choose step sizes, one per training seed."""

    problem: dict[str, Any]
    """Spec of the problem that it was trained on."""
    problem_kind: Literal["three_body", "flow"]
    image: ImageShape | None = None
    """Shape of the images of its flow; None for three bodies."""
    flow: str = ""
    """Artifact id of the flow that it was trained on; "" for three bodies."""
    hidden: tuple[int, ...]
    """Widths of the Q-network's hidden layers."""
    observation_size: int
    """Numbers that a policy sees."""
    training_seeds: tuple[int, ...]
    validation: tuple[float, ...]
    """Highest mean return of each training seed on the validation episodes."""
    best_at: tuple[int, ...]
    """Decisions after which each was reached."""
    chosen: int
    """Number of the training seed whose policy is used: the best on the validation episodes."""
    best_return: float
    """Its mean return there."""
    decisions: int
    """Decisions that each training seed learned from."""
    file: str = "policy.safetensors"
    """Weights, named `<number of the training seed>.layers...`."""
    curves: str = "curves.png"


class StepRow(Spec):
    """One way to choose steps, measured on the test episodes."""

    name: str
    """In words, such as `mu 0.01`, `policy`, `rk45 1e-3`."""
    group: str
    """What it belongs to, such as `hermite, time_scale`."""
    learned: bool = False
    """Whether a policy chose the steps."""
    cost: float
    """Median evaluations of an episode."""
    mean_cost: float
    """Mean evaluations of an episode."""
    error: float | None
    """Median error; None = infinite."""
    error_p90: float | None
    """90th percentile of the error; None = infinite."""
    bad_share: float
    """Share of episodes with a larger error than `StepReport.bad_error`, 0..1."""
    mean_return: float | None
    """Mean return of the decision process; None where it has none."""
    return_low: float | None = None
    return_high: float | None = None
    """95 % bootstrap interval of the mean return."""


class StepReport(Handle):
    """Learned steps against fixed and adaptive ones."""

    policy: str
    """Artifact id of the policy."""
    problem_kind: Literal["three_body", "flow"]
    episodes: int
    """Test episodes, none of them seen in training."""
    bad_error: float
    """Error that counts as bad."""
    rows: tuple[StepRow, ...] = Field(repr=False)
    """The policy's own problem: every policy, every fixed value, every other method."""
    transfer: tuple[StepRow, ...] = Field(default=(), repr=False)
    """Other integrators, without retraining."""
    policy_return: float
    """Mean return of the policies of all training seeds."""
    best_fixed: str
    """Fixed value with the highest mean return."""
    best_fixed_return: float
    advantage: float | None = None
    """`policy_return` less `best_fixed_return`; None in a report of an earlier version."""
    advantage_low: float | None = None
    advantage_high: float | None = None
    """Its 95 % bootstrap interval over episodes, each paired with itself."""
    policy_cost: float
    """Mean evaluations of the chosen policy."""
    policy_bad_share: float
    pictures: tuple[str, ...] = ()
