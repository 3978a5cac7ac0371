"""What lies around the network: data, metrics, checkpoints, two processes on one device."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu_session.session import Session
from benchmarks.gpu_session.shelf import SHARD, fill_shelf
from benchmarks.gpu_session.sizes import DRY
from benchmarks.measure import this_machine
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.training import sources
from slimctl.jobs.training.checkpoint import Checkpoint, save_checkpoint
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.objective import Share
from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.engine import Engine
from slimctl.models.metrics.frechet import frechet_distance
from slimctl.models.metrics.gaussians import Gaussian
from slimctl.models.perceptual.inception import Inception

COPIES = 4
"""Tensors of a training's state for each weight: itself, its average, two moments."""


def around(session: Session) -> None:
    """One figure after the other, the ones that settle something first."""
    session.attempt("frechet", lambda: _frechet(session))
    session.attempt("inception", lambda: _inception(session))
    session.attempt("philox", lambda: _philox(session))
    with tempfile.TemporaryDirectory(prefix="slimctl-session-") as folder:
        session.attempt("pairs of a step", lambda: _pairs(session, Path(folder)))
    session.attempt("adam", lambda: _adam(session))
    with tempfile.TemporaryDirectory(prefix="slimctl-session-") as folder:
        session.attempt("checkpoint", lambda: _checkpoint(session, Path(folder)))
    session.attempt("two processes", lambda: _two_processes(session))


def _frechet(session: Session) -> dict[str, Any]:
    """Two sets of features to a distance, on the device and on the CPU with four threads."""
    rows, width = session.sizes.features, session.sizes.dimensions
    one, other = (torch.randn(rows, width) for _ in range(2))

    def distance(device: torch.device) -> float:
        sets = (Gaussian.from_features(each.to(device)) for each in (one, other))
        return frechet_distance(*sets)

    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        cpu_s = this_machine(4, "cpu").seconds(lambda: distance(torch.device("cpu")))
    finally:
        torch.set_num_threads(threads)
    distance(session.device)
    device_s = session.machine.seconds(lambda: distance(session.device))
    return {"rows": rows, "dimensions": width, "cpu_s": cpu_s, "device_s": device_s}


def _inception(session: Session) -> dict[str, Any]:
    count = session.sizes.inception
    network = Inception().eval().requires_grad_(requires_grad=False).to(session.device)
    images = torch.zeros(count, 3, 32, 32, dtype=torch.uint8, device=session.device)
    found: dict[str, Any] = {"batch": count}
    for kind in ("ieee", "tf32"):
        with Engine(tf32=kind == "tf32").products(), torch.no_grad():
            seconds = session.steady_s(lambda: network(images))
        found[f"{kind}_images_per_s"] = count / seconds
    return found


def _philox(session: Session) -> dict[str, Any]:
    count, image = session.sizes.philox, session.sizes.students[0].image
    index = torch.arange(count, device=session.device)
    shape = (image.channels, image.size, image.size)
    seconds = session.steady_s(lambda: counter_random.normal(0, Stream.NOISE, index, shape))
    own = session.steady_s(lambda: torch.randn(count, *shape, device=session.device))
    return {"batch": count, "ms": 1e3 * seconds, "torch_randn_ms": 1e3 * own}


def _pairs(session: Session, folder: Path) -> dict[str, Any]:
    """A step's pairs from the device's memory, and from disk through the host."""
    case, batch = session.sizes.students[0], session.sizes.batches[0]
    shelf = fill_shelf(folder, case, session.sizes.pairs)
    share = Share(0, batch, batch, session.device)
    found: dict[str, Any] = {"pairs": session.sizes.pairs, "batch": batch, "shard": SHARD}
    for where, kept in (("memory", True), ("disk", False)):
        with mock.patch.object(sources, "fits", lambda pairs, device, kept=kept: kept):
            source = sources.PairSource(shelf.store, shelf.pairs, session.device)
        draws = Draws(0, share, case.image)
        steps = iter(range(10**6))
        seconds = session.steady_s(lambda: source.of_step(draws, next(steps), flip=True))  # noqa: B023
        found[f"{where}_ms"] = 1e3 * seconds
    return found


def _adam(session: Session) -> dict[str, Any]:
    case = session.sizes.sampler
    found: dict[str, Any] = {"parameters": case.parameters}
    for name in ("fused", "foreach"):
        network = case.network.build(case.image).to(session.device)
        for weight in network.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizer = torch.optim.Adam(
            network.parameters(), fused=name == "fused", foreach=name == "foreach"
        )
        found[f"{name}_ms"] = 1e3 * session.steady_s(optimizer.step)
    return found


def _checkpoint(session: Session, folder: Path) -> dict[str, Any]:
    """The state of the largest network to the host, and from there into a checkpoint."""
    case = session.sizes.large
    state = {
        f"{copy}.weights": torch.zeros(case.parameters, device=session.device)
        for copy in range(COPIES)
    }
    gigabytes = sum(4 * value.numel() for value in state.values()) / 1e9
    hosts = {name: _host(value, pinned=False) for name, value in state.items()}
    found: dict[str, Any] = {"parameters": case.parameters, "gigabytes": gigabytes}
    found["to_pageable_s"] = session.machine.seconds(_copy(state, hosts))
    if session.on_gpu:
        pinned: dict[str, Tensor] = {}

        def pin() -> None:
            pinned.update({name: _host(value, pinned=True) for name, value in state.items()})

        found["pinning_s"] = session.machine.seconds(pin)
        found["to_pinned_s"] = session.machine.seconds(_copy(state, pinned))
    checkpoint = Checkpoint(1, 0.0, hosts)
    found["write_s"] = session.machine.seconds(
        lambda: save_checkpoint(LocalBlobs(folder), checkpoint)
    )
    return found


def _host(value: Tensor, *, pinned: bool) -> Tensor:
    return torch.empty(value.shape, pin_memory=pinned)


def _copy(state: dict[str, Tensor], hosts: dict[str, Tensor]) -> Callable[[], None]:
    def copy() -> None:
        for name, value in state.items():
            hosts[name].copy_(value, non_blocking=True)

    return copy


def _two_processes(session: Session) -> dict[str, Any]:
    """Two gloo workers on this device: the same weights as one, and the time of a step."""
    limit = max(1.0, session.left_s())
    size = "dry" if session.sizes is DRY else "real"
    command = [sys.executable, "-m", "benchmarks.gpu_session.two_workers", size]
    finished = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit)
    if finished.returncode != 0:
        raise RuntimeError(finished.stderr.strip().splitlines()[-1])
    found: dict[str, Any] = json.loads(finished.stdout.strip().splitlines()[-1])
    return found
