"""A step of the project's own training loop over local batches, formats and compilation."""

import statistics
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_session.session import Session
from benchmarks.gpu_session.sizes import Case
from benchmarks.official import Official, random_inputs
from benchmarks.teacher import drawn_images
from benchmarks.training import Stepper
from slimctl.models.engine import Engine, choose_engine
from slimctl.models.networks.song_unet.spec import SongUNetSpec

FLOP_PER_MAC = 6
"""Of a step: forward, gradient in the inputs and in the weights, two operations each."""


def training_step(session: Session) -> None:
    """The first network eager, compiled and beside the official code, then the others."""
    chosen = choose_engine(session.device, "training")
    plain = chosen.model_copy(update={"memory_format": "contiguous"})
    last = chosen.model_copy(update={"memory_format": "channels_last"})
    sizes = session.sizes
    for number, case in enumerate(sizes.students):
        for batch in sizes.batches:
            for way, engine in (("contiguous", plain), ("channels_last", last)):
                _attempt(session, case, batch, way, engine)
        for batch in sizes.compiled:
            compiled = last.model_copy(update={"compiled": True})
            _attempt(session, case, batch, "channels_last, compiled", compiled)
        if number == 0:
            session.attempt("official step", partial(_official, session, case))
    for case in sizes.students:
        compiled = plain.model_copy(update={"compiled": True})
        _attempt(session, case, sizes.compiled[0], "contiguous, compiled", compiled)


def step_name(case: str, batch: int, way: str) -> str:
    """Name of the figure of a step."""
    return f"step {case} batch {batch} {way}"


def _attempt(session: Session, case: Case, batch: int, way: str, engine: Engine) -> None:
    name = step_name(case.name, batch, way)
    session.attempt(name, lambda: _step(session, case, batch, way, engine))


def _step(session: Session, case: Case, batch: int, way: str, engine: Engine) -> dict[str, Any]:
    torch.manual_seed(0)
    torch._dynamo.reset()  # a program for each batch, as in a training  # noqa: SLF001
    network = case.network.build(case.image)
    images = drawn_images(max(batch, 64), case.image)[:batch].to(session.device)
    if session.on_gpu:
        torch.cuda.reset_peak_memory_stats(session.device)
    with engine.products():
        stepper = Stepper(network, case.image, images, engine, session.machine)
        first_s = session.machine.seconds(stepper.step)
        seconds = session.steady_s(stepper.step)
        launches = _launches(stepper) if session.on_gpu else None
    flop = FLOP_PER_MAC * case.macs * batch
    kind = "tf32" if engine.precision == "float32" and engine.tf32 else engine.precision
    rate = session.rates.get({"float32": "ieee"}.get(kind, kind))
    found = {
        "case": case.name, "batch": batch, "way": way, "precision": kind,
        "ms": 1e3 * seconds, "images_per_s": batch / seconds,
        "share_of_matrix_rate": flop / seconds / rate if rate else None,
        "launches": launches, "first_step_s": first_s,
    }  # fmt: skip
    if session.on_gpu:
        found["peak_gib"] = torch.cuda.max_memory_allocated(session.device) / 2**30
    return found


def _launches(stepper: Stepper) -> int:
    """Kernels of one step."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        stepper.step()
    events = profiled.events() or []
    return sum(event.name in ("cudaLaunchKernel", "cudaLaunchKernelExC") for event in events)


def _official(session: Session, case: Case) -> dict[str, Any]:
    """A step of the official code, by its own program, over ours of the same batch."""
    if session.official is None:
        return {"left_out": "no --official: nothing is said of the ratio"}
    assert isinstance(case.network, SongUNetSpec)
    found: dict[str, Any] = {}
    for batch in sorted(session.sizes.compiled, reverse=True):
        inputs = random_inputs(case.image, batch, session.machine)
        official = Official(session.official, case.network, case.image, inputs, session.machine)
        try:
            theirs = statistics.median([official.seconds("step") for _ in range(7)][2:])
        finally:
            official.close()
        ours = [
            line["ms"] / 1e3
            for line in session.figures
            if line.get("case") == case.name and line.get("batch") == batch and "ms" in line
        ]
        found[f"batch_{batch}"] = {
            "official_ms": 1e3 * theirs,
            "ratio": theirs / min(ours) if ours else None,
        }
    return found
