"""Precisions of sampling: speed on a large network, evaluations and end points on a trained one.

The teacher is trained first, on drawn pictures: of random weights the number of evaluations that
rk45 takes means nothing. End points are compared with those of IEEE products.
"""

import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_session.session import Session
from benchmarks.gpu_session.sizes import Case
from benchmarks.official import Official, official_weights, random_inputs
from benchmarks.teacher import (
    COUNT,
    drawn_images,
    leave_out_fast_features,
)
from benchmarks.training import Stepper
from slimctl.models.engine import Engine, choose_engine
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.networks.song_unet.network import SongUNet
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.fit_grid import ROUNDING_RMS, end_errors, fit_grid, follow
from slimctl.models.solvers.spec import GridSpec, RK45Spec, SolverSpec

EXACT, USED, OFFICIAL_START = 1e-6, 1e-4, 1e-3
"""Tolerance of the exact end points, that of pairs by default, and the official first time."""
FITTED_TO = 64
OFFICIAL_BATCH = 64
WAYS = ("ieee", "tf32", "bfloat16", "float16")


def engine_of(session: Session, way: str) -> Engine:
    """The engine of a kind of products, `compiled` behind it where it is."""
    kind, _, compiled = way.partition(", ")
    precision = "float32" if kind in ("ieee", "tf32") else kind
    chosen = choose_engine(session.device, "sampling")
    return Engine.model_validate(
        chosen.model_dump()
        | {"precision": precision, "tf32": kind == "tf32", "compiled": bool(compiled)}
    )


@dataclass(frozen=True)
class Trained:
    """The teacher, and what its end points are measured on."""

    network: nn.Module
    x0: Tensor
    exact: Tensor
    """Where rk45 at 1e-6 with IEEE products takes x0."""
    grid: GridSpec
    """Fitted to other noises."""


def sampling(session: Session) -> None:
    """Trains the teacher, then measures; the speeds of compiled sampling last."""
    kept: dict[str, Any] = {}
    session.attempt("teacher", lambda: _teach(session, kept))
    for way in WAYS:
        session.attempt(f"evaluations {way}", partial(_evaluations, session, way))
    if "network" in kept:
        session.attempt("exact end points", lambda: _exact(session, kept))
    if "trained" in kept:
        trained: Trained = kept["trained"]
        ends: dict[str, Tensor] = {}
        for way in WAYS:
            for name, solver in (("rk45", RK45Spec(tolerance=USED)), ("grid", trained.grid)):
                session.attempt(
                    f"end points {name} {way}",
                    partial(_end_points, session, trained, name, solver, way, ends),
                )
        session.attempt("official pairs", lambda: _official(session, trained))
    for way in ("float16, compiled", "tf32, compiled"):
        session.attempt(f"evaluations {way}", partial(_evaluations, session, way))


def _teach(session: Session, kept: dict[str, Any]) -> dict[str, Any]:
    """Trains for so many steps, or half of the phase if that is less."""
    sizes, case = session.sizes, session.sizes.teacher
    torch.manual_seed(0)
    network = case.network.build(case.image)
    assert isinstance(network, SongUNet)
    leave_out_fast_features(network)
    images = drawn_images(COUNT, case.image).to(session.device)
    engine = choose_engine(session.device, "training")
    until, step = time.perf_counter() + session.left_s() / 3, 0
    with engine.products():
        stepper = Stepper(
            network, case.image, images, engine, session.machine, sizes.teacher_batch, 1e-3
        )
        while step < sizes.teacher_steps and time.perf_counter() < until:
            loss = stepper.step()
            step += 1
    network.load_state_dict(stepper.average())
    kept["network"] = network.eval().requires_grad_(requires_grad=False)
    return {"case": case.name, "steps": step, "last_loss": float(loss)}


def _noise(session: Session, case: Case, count: int, seed: int) -> Tensor:
    shape = (count, case.image.channels, case.image.size, case.image.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(session.device)


def _flow(session: Session, network: nn.Module, way: str) -> tuple[NetworkFlow, Engine]:
    engine = engine_of(session, way)
    placed = engine.place(network, session.device)
    return NetworkFlow(engine.runner(placed), session.sizes.teacher.image, OFFICIAL_START), engine


def _exact(session: Session, kept: dict[str, Any]) -> dict[str, Any]:
    case, sizes = session.sizes.teacher, session.sizes
    flow, engine = _flow(session, kept["network"], "ieee")
    x0 = _noise(session, case, sizes.noises, 2)
    with engine.products():
        found = solve(RK45Spec(tolerance=EXACT, max_evaluations=5000), flow, x0)
        trajectories = follow(flow, _noise(session, case, FITTED_TO, 1), None, 1e-5)
        fit = fit_grid(flow, trajectories, sizes.evaluations, rounds=0)
    kept["trained"] = Trained(kept["network"], x0, found.x1, fit.solver)
    return {"nfe": float(found.nfe.double().mean()), "grid_error_log10": fit.error}


def _end_points(
    session: Session,
    trained: Trained,
    name: str,
    solver: SolverSpec,
    way: str,
    ends: dict[str, Tensor],
) -> dict[str, Any]:
    flow, engine = _flow(session, trained.network, way)
    with engine.products():
        found = solve(solver, flow, trained.x0)
    ends[f"{name} {way}"] = found.x1
    ieee = ends.get(f"{name} ieee")
    errors = end_errors(found.x1, trained.exact)
    moved = None if ieee is None else (found.x1 - ieee).double().square().mean().sqrt().item()
    return {
        "solver": name, "way": way,
        "nfe": float(found.nfe.double().mean()),
        "rms_from_ieee": moved,
        "error_median": float(errors.median()),
        "error_p90": float(errors.quantile(0.9)),
        "share_within_rounding": float((errors <= ROUNDING_RMS).double().mean()),
    }  # fmt: skip


def _evaluations(session: Session, way: str) -> dict[str, Any]:
    case, count = session.sizes.sampler, session.sizes.sampler_batch
    engine = engine_of(session, way)
    torch.manual_seed(0)
    torch._dynamo.reset()  # noqa: SLF001
    network = case.network.build(case.image).eval().requires_grad_(requires_grad=False)
    run = engine.runner(engine.place(network, session.device))
    x, t = _noise(session, case, count, 0), torch.full((count,), 0.5, device=session.device)
    with engine.products(), torch.no_grad():
        first_s = session.machine.seconds(lambda: run(x, t, None))
        seconds = session.steady_s(lambda: run(x, t, None))
    kind = way.partition(", ")[0]
    rate = session.rates.get(kind)
    return {
        "case": case.name, "way": way, "batch": count, "ms": 1e3 * seconds,
        "evaluations_per_s": count / seconds, "first_s": first_s,
        "share_of_matrix_rate": 2.0 * case.macs * count / seconds / rate if rate else None,
    }  # fmt: skip


def _official(session: Session, trained: Trained) -> dict[str, Any]:
    """A batch of pairs by the official RK45 at 1e-5 over the fitted grid, at each precision."""
    case = session.sizes.teacher
    if session.official is None:
        return {"left_out": "no --official: nothing is said of the ratio"}
    assert isinstance(case.network, SongUNetSpec)
    inputs = random_inputs(case.image, OFFICIAL_BATCH, session.machine)
    assert isinstance(trained.network, SongUNet)
    weights = official_weights(trained.network, case.network, case.image)
    official = Official(
        session.official, case.network, case.image, inputs | weights, session.machine
    )
    try:
        nfe = official.ask("pairs")["nfe"]
        theirs = statistics.median(official.seconds("pairs") for _ in range(3))
    finally:
        official.close()
    found: dict[str, Any] = {"batch": OFFICIAL_BATCH, "official_s": theirs, "official_nfe": nfe}
    for way in WAYS:
        flow, engine = _flow(session, trained.network, way)
        run = partial(solve, trained.grid, flow, inputs["x"])
        with engine.products():
            found[f"ratio_{way}"] = theirs / session.steady_s(run)
    return found
