"""A feature network as an ONNX file: what it must look like, and running it by onnxruntime.

The model is given to onnxruntime as bytes, so that weights in files beside it are not found: one
file is the whole network.
"""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Intake

NEEDED = "input (B, C, H, W) float32 in [-1, 1], output (B, D)"
FIX = f"export a network with {NEEDED}, all in one file"
PROBE_SIZE = 32
"""Height of the images that a network of any size is tried on, px."""


@dataclass(frozen=True)
class OnnxFeatures:
    """An opened network that gives one feature vector an image."""

    session: Any
    intake: Intake
    dimensions: int

    def __call__(self, images: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Features float32 (B, D) of images float32 (B, C, H, W) in [-1, 1]."""
        return _evaluate(self.session, images)


def open_onnx(path: Path, threads: int = 1, where: str | None = None) -> OnnxFeatures:
    """Opens a network and tries it on two images.

    Raises:
        UserError: not an ONNX file, not of the needed shape, or onnxruntime is not installed.
        OSError: the file cannot be read.
    """
    where = str(path) if where is None else where
    session = _open_session(path.read_bytes(), threads, where)
    intake = _read_intake(session, where)
    return OnnxFeatures(session, intake, _probe(session, intake, where))


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime  # noqa: PLC0415  (an extra, and heavy)
    except ImportError as error:
        raise UserError(
            "", "onnxruntime is not installed, it runs ONNX files", "pip install 'slimctl[onnx]'"
        ) from error
    runtime: ModuleType = onnxruntime
    return runtime


def _open_session(model: bytes, threads: int, where: str) -> Any:
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what is wrong is raised; nothing is to be printed besides
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in runtime.get_available_providers()]
    try:
        return runtime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's own classes share no base of their own
        said = str(error).strip().splitlines()[-1]
        raise UserError(where, f"is no ONNX file that onnxruntime can run ({said})", FIX) from error


def _read_intake(session: Any, where: str) -> Intake:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        what = f"has {len(inputs)} inputs and {len(outputs)} outputs instead of one of each"
        raise UserError(where, what, FIX)
    given, made = inputs[0], outputs[0]
    if given.type != "tensor(float)" or len(given.shape) != 4:
        raise UserError(where, f"its input '{given.name}' is {_described(given)}", FIX)
    if made.type != "tensor(float)" or len(made.shape) not in (0, 2):  # 0: the file does not say
        raise UserError(where, f"its output '{made.name}' is {_described(made)}", FIX)
    batch, channels, height, width = (n if isinstance(n, int) else None for n in given.shape)
    if batch is not None:
        what = f"its input takes batches of {batch} only"
        raise UserError(where, what, "export it with a dynamic first axis")
    if None not in (height, width) and height != width:
        raise UserError(where, f"its images are {height} x {width}, not square", FIX)
    return Intake(channels, height or width)


def _described(value: Any) -> str:
    shape = ", ".join(map(str, value.shape))
    return f"{value.type} of shape ({shape})"


def _probe(session: Any, intake: Intake, where: str) -> int:
    """Length of a feature vector, from two images of noise."""
    size, channels = intake.size or PROBE_SIZE, intake.channels or 3
    noise = np.random.default_rng(0).uniform(-1, 1, (2, channels, size, size))
    try:
        made = _evaluate(session, noise.astype(np.float32))
    except Exception as error:
        said = str(error).strip().splitlines()[-1]
        what = f"fails on two images of {size} x {size} with {channels} channels ({said})"
        raise UserError(where, what, FIX) from error
    if made.ndim != 2 or len(made) != 2 or made.shape[1] == 0:
        raise UserError(where, f"makes an output of shape {made.shape} of two images", FIX)
    if not np.isfinite(made).all():
        raise UserError(where, "makes NaN or infinity of images of noise", FIX)
    return int(made.shape[1])


def _evaluate(session: Any, images: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    (made,) = session.run(None, {session.get_inputs()[0].name: images})
    features: np.ndarray[Any, Any] = made
    return features
