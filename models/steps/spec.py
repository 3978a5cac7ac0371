"""What a policy decides and is paid for, and how it learns, without importing torch or numpy."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimctl.models.spec import Spec

IntegratorName = Literal["hermite", "leapfrog", "yoshida4"]
INTEGRATORS: tuple[IntegratorName, ...] = ("hermite", "leapfrog", "yoshida4")
StepControl = Literal["time_scale", "fixed"]
"""What a step parameter mu means: dt = mu T_c, or dt = mu units of time."""


Grid = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=2)]

MU_GRID = (4.64e-4, 1e-3, 2.15e-3, 4.64e-3, 1e-2, 2.15e-2, 4.64e-2, 1e-1)
"""The paper's ten values but the two smallest, which cost most and are worse than 1e-3."""
PAPER_GRID = (1e-4, 2.15e-4, *MU_GRID)
"""Ten values from 1e-4 to 1e-1, evenly spaced in the logarithm (arXiv 2502.12809)."""
TIME_GRID = (0.02, 0.03, 0.045, 0.065, 0.09, 0.12, 0.16, 0.21, 0.27, 0.35)
"""Step sizes in flow time."""


class TelescopingReward(Spec):
    """-w [g(C_k) - g(C_(k-1))] - beta [phi(D_k) - phi(D_(k-1))], phi(D) = max(0, log10(D / tol)).

    C are the evaluations so far and D the error so far, so the rewards of an episode add up to what
    it is judged by: -w [g(C) - g(C_0)] - beta phi(D). Three bodies: g = log10, C_0 = the number of
    intervals, D = sum of |E_k - E_(k-1)| / |E_0|. Flow: g(C) = C / 30, D = RMS distance to the
    exact end, known at the last step only.
    """

    kind: Literal["telescoping"] = "telescoping"
    cost_weight: float = Field(default=1.0, ge=0)
    """w, the price of evaluations."""
    error_weight: float = Field(default=2.0, ge=0)
    """beta, the price of a factor 10 of error above the tolerance."""
    tolerance: float = Field(default=1e-6, gt=0)
    """tol, the error below which less is not better."""


class PaperReward(Spec):
    """-W0 (L + 10) / |L|^3 / i + W2 / |log10 mu|, L = log10 |dE/E| at step i; 0 at the first.

    Source: arXiv 2502.12809 and its code.
    """

    kind: Literal["paper"] = "paper"
    error_weight: float = Field(default=3000.0, ge=0)
    """W0."""
    cost_weight: float = Field(default=4.0, ge=0)
    """W2."""


class _Problem(Spec):
    """Where steps are chosen."""

    @model_validator(mode="after")
    def _actions_rise(self) -> "_Problem":
        actions: tuple[float, ...] = getattr(self, "actions", ())
        for before, after in pairwise(actions):
            if after <= before:
                raise ValueError(
                    f"actions has {after:g} after {before:g}: the grid must rise\n"
                    f"  fix: write actions: {sorted(set(actions))}"
                )
        return self


class ThreeBodyProblem(_Problem):
    """Chaotic three-body systems: every 0.1 yr a policy chooses the step parameter mu.

    Source: arXiv 2502.12809, section 3.
    """

    kind: Literal["three_body"] = "three_body"
    integrator: IntegratorName = "hermite"
    """Method of one step."""
    control: StepControl = "time_scale"
    """What mu means: `time_scale` steps of mu T_c, `fixed` steps of mu units of time."""
    actions: Grid = MU_GRID
    """Values of mu to choose from, rising."""
    reward: Annotated[TelescopingReward | PaperReward, Field(discriminator="kind")] = (
        TelescopingReward(kind="telescoping")
    )
    """What a policy is paid for."""
    state: Literal["scale_free", "paper"] = "scale_free"
    """What a policy sees: eight scale-free numbers, or the paper's 13 (positions, velocities,
    energy error)."""
    horizons: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (
        100, 200, 300,
    )  # fmt: skip
    """Lengths of the training episodes, intervals of 0.1 yr; each episode draws one."""
    hold: int = Field(default=10, ge=1)
    """Intervals of 0.1 yr that a decision holds for; 1 is the paper's. Changing mu in the middle of
    an encounter spoils what Hermite's errors before and after it cancel."""
    largest_drift: float = Field(default=0.1, gt=0)
    """Energy error |dE/E| that ends an episode."""
    max_substeps: int = Field(default=1_000_000, ge=1)
    """Steps in one interval after which a system is given up."""


class FlowProblem(_Problem):
    """The flow equation from noise to image: a policy chooses each step in time, per sample.

    The base step is Bogacki and Shampine's 3(2): three evaluations a step.
    """

    kind: Literal["flow"] = "flow"
    actions: Grid = TIME_GRID
    """Step sizes in flow time to choose from, rising; the last step ends at t = 1."""
    reward: TelescopingReward = TelescopingReward(
        kind="telescoping", cost_weight=1.0, error_weight=1.0, tolerance=2.3e-3
    )
    """What a policy is paid for; the tolerance is an RMS over pixels, 2.3e-3 is 8-bit rounding,
    or over latents relative to theirs."""
    reference_tolerance: float = Field(default=1e-6, ge=1e-9, le=1e-2)
    """Tolerance of the rk45 whose ends count as exact."""
    pool: int = Field(default=1024, ge=1)
    """Noises that training draws from, with their exact paths: the memory of 66 images each."""


Problem = Annotated[ThreeBodyProblem | FlowProblem, Field(discriminator="kind")]
"""Where steps are chosen."""


class DoubleDqnSpec(Spec):
    """Double deep Q-learning on many episodes side by side.

    Source: van Hasselt et al., arXiv 1509.06461. Huber loss, AdamW (amsgrad) and a target average
    are of arXiv 2502.12809, which takes delta 1, target_rate 0.005, batch_size 128, replay 10 000,
    gamma 0.99 and a constant learning rate of 1e-3.
    """

    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (64, 64)
    """Widths of the Q-network's hidden layers."""
    action_terms: int = Field(default=100, ge=1)
    """Smooth functions of the step size that differences of worth are made of; one fewer than
    there are actions, or more = any differences."""
    advantage_scale: float = Field(default=0.1, gt=0)
    """How much smaller the differences between actions are than the worth of a state: one decision
    of hundreds changes a return by little, and is learned sooner at a scale of its own."""
    environments: int = Field(default=256, ge=1)
    """Episodes side by side."""
    decisions: int = Field(default=120_000, ge=1)
    """Decisions to learn from, over all episodes."""
    updates: int = Field(default=16, ge=1)
    """Optimizer steps after each round of decisions."""
    batch_size: int = Field(default=256, ge=1)
    """Transitions per optimizer step."""
    replay: int = Field(default=100_000, ge=1)
    """Transitions remembered."""
    warmup: int = Field(default=10_000, ge=0)
    """Decisions before the first optimizer step."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """AdamW's (amsgrad) at the start; it falls to a hundredth by a half cosine."""
    huber_delta: float = Field(default=10.0, gt=0)
    """Error of a worth from which the loss grows linearly. Below it a worth is a mean; rewards are
    skewed (a rare encounter costs as much as all else), and 1, the paper's, learns nearer to their
    median: by 1 too high in a corridor with slips whose worths are known."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount of later rewards, after what the potential and the guess know of them; 1 = an
    episode's sum counts. Where episodes are long and noisy less is better: what an action does
    shows in the next decisions, and what comes later is noise."""
    lookahead: int = Field(default=1, ge=1)
    """Decisions whose rewards are summed before the worth of what follows is added."""
    target_rate: float = Field(default=0.02, gt=0, le=1)
    """Share of the network that the target takes over at each optimizer step."""
    epsilon: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = (
        0.5, 0.1,
    )  # fmt: skip
    """Share of random decisions, at the start and after `exploration`."""
    epsilon_spread: float = Field(default=3.0, ge=0)
    """How much less the last of the episodes side by side explores than the first: the power of
    epsilon rises from 1 to 1 + spread. 0 = all alike."""
    near: float = Field(default=0.75, ge=0, le=1)
    """Share of the random decisions that take the action just below or above the best one; the
    others take any."""
    exploration: float = Field(default=0.3, gt=0, le=1)
    """Share of the decisions over which epsilon falls linearly."""
    validate_every: int = Field(default=10_000, ge=1)
    """Decisions between two looks at the validation episodes; the best network is kept."""
