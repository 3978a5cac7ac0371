"""Whether the device computes what a CPU does, resumes bit for bit and never waits for the host."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_session.session import Session
from benchmarks.gpu_session.shelf import fill_shelf, trainings
from benchmarks.gpu_session.sizes import Case
from benchmarks.teacher import FlowOnImages, LoopSettings, drawn_images
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import Share
from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.engine import Engine, choose_engine

CPU = torch.device("cpu")
WARM = 3
"""Steps before the device may no longer be waited for."""


def correctness(session: Session) -> None:
    """Random numbers, a gradient, resuming, synchronisation."""
    case = session.sizes.teacher
    session.attempt("random numbers, CPU and device", lambda: _random(session))
    session.attempt("one gradient, CPU and device", lambda: _gradient(session, case))
    chosen = choose_engine(session.device, "training")
    session.attempt("resumed halfway, eager", lambda: _resumed(session, case, chosen))
    with tempfile.TemporaryDirectory(prefix="slimctl-session-") as folder:
        shelf = fill_shelf(Path(folder), case, session.sizes.teacher_batch * 2)
        batch = session.sizes.teacher_batch
        for kind, (spec, objective) in trainings(
            shelf, 2 * session.sizes.steps + WARM, batch
        ).items():
            trainer = _trainer(session, case, spec, objective, Path(folder) / kind, chosen)
            session.attempt(f"no waiting, {kind}", partial(_without_waiting, session, trainer))
    fast = chosen.model_copy(update={"compiled": True})
    session.attempt("resumed halfway, compiled", lambda: _resumed(session, case, fast))


def _random(session: Session) -> dict[str, Any]:
    index = torch.arange(4096)
    here, there = index, index.to(session.device)
    whole = [
        counter_random.categorical(7, Stream.PAIR_LABEL, each, (1, 2, 3)).cpu()
        for each in (here, there)
    ]
    uniform = [counter_random.uniform(7, Stream.TIME, each, (16,)).cpu() for each in (here, there)]
    normal = [counter_random.normal(7, Stream.NOISE, each, (16,)).cpu() for each in (here, there)]
    return {
        "whole_numbers_equal": torch.equal(*whole),
        "uniforms_equal": torch.equal(*uniform),
        "normals_largest_difference": float((normal[0] - normal[1]).abs().max()),
    }


def _gradient(session: Session, case: Case) -> dict[str, Any]:
    found = {}
    exact = _gradient_on(CPU, case, Engine())
    kinds = {"ieee": Engine(), "tf32": Engine(tf32=True), "bfloat16": Engine(precision="bfloat16")}
    for name, engine in kinds.items():
        gradient = _gradient_on(session.device, case, engine)
        found[f"relative_difference_{name}"] = float((gradient - exact).norm() / exact.norm())
    return found


def _gradient_on(device: torch.device, case: Case, engine: Engine) -> Tensor:
    """The gradient of a mean square in all weights, as one vector on the CPU."""
    torch.manual_seed(0)
    network: nn.Module = case.network.build(case.image)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    x = torch.randn(8, case.image.channels, case.image.size, case.image.size)
    t = torch.linspace(0.1, 0.9, 8)
    placed = engine.place(network, device)
    with engine.products():
        engine.runner(placed)(x.to(device), t.to(device), None).square().mean().backward()
    gradients = [weight.grad for weight in placed.parameters()]
    return torch.cat([g.flatten().cpu() for g in gradients if g is not None])


def _trainer(
    session: Session, case: Case, spec: Any, objective: Any, folder: Path, engine: Engine
) -> Trainer:
    torch.manual_seed(0)
    network = case.network.build(case.image).to(session.device)
    share = Share(0, spec.batch_size, spec.batch_size, session.device)
    return Trainer(
        spec, network, objective, share, LocalBlobs(folder), lambda step, metrics: None,
        engine=engine,
    )  # fmt: skip


def _resumed(session: Session, case: Case, engine: Engine) -> dict[str, Any]:
    """Weights after all steps in one go, and after half and, from the checkpoint, the rest."""
    batch = session.sizes.teacher_batch
    images = drawn_images(4 * batch, case.image).to(session.device)

    def train(folder: Path, steps: int) -> dict[str, Tensor]:
        torch._dynamo.reset()  # as in a process of its own  # noqa: SLF001
        spec = LoopSettings(steps=steps, batch_size=batch, learning_rate=1e-3)
        objective = FlowOnImages(images, case.image)
        trainer = _trainer(session, case, spec, objective, folder, engine)
        trainer.run()
        return {name: value.cpu() for name, value in trainer.network.state_dict().items()}

    with tempfile.TemporaryDirectory(prefix="slimctl-session-") as folder:
        steps = session.sizes.steps
        whole = train(Path(folder) / "whole", steps)
        train(Path(folder) / "halves", steps // 2)
        halves = train(Path(folder) / "halves", steps)
    apart = max(float((whole[name] - halves[name]).abs().max()) for name in whole)
    return {"bit_equal": all(torch.equal(whole[n], halves[n]) for n in whole), "largest": apart}


def _without_waiting(session: Session, trainer: Trainer) -> dict[str, Any]:
    steps = trainer.steps()
    for _ in range(WARM):
        next(steps)
    with _no_synchronisation(session):
        for _ in range(session.sizes.steps):
            next(steps)
    return {"steps": session.sizes.steps, "waited": False, "checked": session.on_gpu}


@contextmanager
def _no_synchronisation(session: Session) -> Iterator[None]:
    """Makes every wait for the device an error; a CPU has none."""
    set_mode: Callable[[str], None] = (
        torch.cuda.set_sync_debug_mode if session.on_gpu else lambda mode: None
    )
    set_mode("error")
    try:
        yield
    finally:
        set_mode("default")
