"""What the card is, and what it can do at best."""

import datetime
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_session.session import Session
from slimctl.models.engine import Engine

DTYPES = {
    "ieee": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Kind of product -> type of the matrices."""


def facts(session: Session) -> None:
    """Versions and flags, then the rates of products and copies."""
    session.attempt("machine", lambda: _machine(session))
    for kind in DTYPES:
        session.attempt(f"matrix product, {kind}", partial(_matrix, session, kind))
    session.attempt("copies", lambda: _copies(session))


def _machine(session: Session) -> dict[str, Any]:
    found: dict[str, Any] = {
        **session.machine.describe(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if session.on_gpu else None,  # type: ignore[no-untyped-call]
        "matmul_precision_by_default": torch.backends.cuda.matmul.fp32_precision,
        "convolution_precision_by_default": torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }
    if session.on_gpu:
        properties = torch.cuda.get_device_properties(session.device)
        found["memory_gib"] = round(properties.total_memory / 2**30, 1)
        found["multiprocessors"] = properties.multi_processor_count
        found["capability"] = list(torch.cuda.get_device_capability(session.device))
    return found


def _matrix(session: Session, kind: str) -> dict[str, Any]:
    size = session.sizes.matrix
    left, right = (
        torch.randn(size, size, device=session.device).to(DTYPES[kind]) for _ in range(2)
    )
    out = torch.empty_like(left)
    with Engine(tf32=kind == "tf32").products():
        seconds = session.steady_s(lambda: torch.mm(left, right, out=out))
    session.rates[kind] = 2.0 * size**3 / seconds
    return {"tflops": session.rates[kind] / 1e12, "size": size}


def _copies(session: Session) -> dict[str, Any]:
    count = session.sizes.copy_mib * 2**18
    here = torch.ones(count, device=session.device)
    there = torch.empty_like(here)
    pageable = torch.ones(count)
    found = {"device_gb_per_s": 2 * _rate(session, here, lambda: there.copy_(here))}
    found["from_pageable_gb_per_s"] = _rate(session, here, lambda: there.copy_(pageable))
    found["to_pageable_gb_per_s"] = _rate(session, here, lambda: pageable.copy_(there))
    if session.on_gpu:
        pinned = torch.ones(count, pin_memory=True)
        found["from_pinned_gb_per_s"] = _rate(session, here, lambda: there.copy_(pinned))
        found["to_pinned_gb_per_s"] = _rate(session, here, lambda: pinned.copy_(there))
    return found


def _rate(session: Session, tensor: Tensor, copy: Callable[[], object]) -> float:
    return 4 * tensor.numel() / session.steady_s(copy) / 1e9
