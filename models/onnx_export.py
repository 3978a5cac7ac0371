"""Networks as ONNX files, checked against torch and timed. Needs the extra `onnx`.

    one-step network   noise float32 (B, C, H, W) [, label int64 (B,)] -> images, the same shape
    flow               xt float32 (B, C, H, W), t float32 (B,) [, label] -> velocity
    flow of two times  xt, t, end float32 (B,) [, label] -> mean velocity of the step from t to end
    decoder            latents float32 (B, C, H, W) -> images (B, K, Y, X)

B is free. Pixels are in [-1, 1], not clipped.
"""

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.flows.flow import Flow
from slimctl.models.spec import ImageShape, Spec

if TYPE_CHECKING:
    from slimctl.models.networks.autoencoder.network import Autoencoder

LARGEST_DIFFERENCE = 1e-4
BATCHES = (1, 2, 5)
"""Batch sizes that a file is checked with."""
LARGEST_BATCH = 65_536
TIMED = 7


class OnnxCheck(Spec):
    """How an ONNX file compares with the network that it was made from."""

    largest_difference: float
    """Between the outputs of onnxruntime and torch, over all numbers of all batches."""
    relative_difference: float
    """The same over the batch's largest output, where that is a velocity beyond 1: one of a flow
    that predicts noise grows with the noise level. Images are held to the plain difference."""
    latency_ms: float
    """Median time of one evaluation at batch 1 by onnxruntime, on one CPU thread."""
    torch_ms: float
    """The same by torch."""


class OnnxExportError(RuntimeError):
    """A network has no ONNX form here, or onnxruntime computes something else than torch."""


class _OneStep(nn.Module):
    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        t = noise.new_full((noise.shape[0],), self.flow.t_start)
        end, flow = torch.ones_like(t), self.flow
        velocity = flow._mean_velocity(flow.enter(noise), t, end, label)  # noqa: SLF001
        return flow.enter(noise + velocity)


class _Velocity(nn.Module):
    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, xt: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.flow._velocity(xt, t, label)  # noqa: SLF001  (labels are inputs)


class _MeanVelocity(nn.Module):
    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, xt: Tensor, t: Tensor, end: Tensor, label: Tensor | None = None) -> Tensor:
        return self.flow._mean_velocity(xt, t, end, label)  # noqa: SLF001


class _Decoder(nn.Module):
    def __init__(self, autoencoder: "Autoencoder") -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)


def _module(flow: Flow, *, one_step: bool) -> nn.Module:
    if one_step:
        return _OneStep(flow).eval()
    return (_MeanVelocity(flow) if flow.takes_end else _Velocity(flow)).eval()


@dataclass(frozen=True)
class _Part:
    """What becomes one file."""

    module: nn.Module
    inputs: Callable[[int], dict[str, Tensor]]
    """Inputs by name for a batch of so many."""
    output: str
    grows: bool
    """Whether its outputs may be far beyond 1, so that differences are held to the largest."""


def export_onnx(flow: Flow, path: Path, *, one_step: bool) -> OnnxCheck:
    """Writes an ONNX file and compares it with torch.

    Args:
        flow: on the CPU, in float32.
        path: of the file.
        one_step: whether to write the map from noise to images (or latents), else the velocity.

    Raises:
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is not installed.
        OnnxExportError: it cannot be written, or the two differ by more than 1e-4, a velocity by
            more than 1e-4 of the batch's largest; the file is removed.
    """
    return _export(_of_flow(flow, one_step=one_step), path)


def export_decoder(autoencoder: "Autoencoder", latents: ImageShape, path: Path) -> OnnxCheck:
    """Writes what decodes latents of a shape, and compares it with torch; raises as `export_onnx`.

    Images are not clipped, and held to 1e-4 of the largest where that is above 1.
    """
    return _export(_of_decoder(autoencoder, latents), path)


def _of_flow(flow: Flow, *, one_step: bool) -> _Part:
    made = "images" if flow.autoencoder is None else "latents"
    return _Part(
        _module(flow, one_step=one_step),
        partial(_inputs, flow, one_step=one_step),
        made if one_step else "velocity",
        grows=not one_step,
    )


def _of_decoder(autoencoder: "Autoencoder", latents: ImageShape) -> _Part:
    shape = (latents.channels, latents.size, latents.size)

    def inputs(count: int) -> dict[str, Tensor]:
        index = torch.arange(count)
        return {"latents": counter_random.normal(0, Stream.SAMPLE_NOISE, index, shape)}

    return _Part(_Decoder(autoencoder).eval(), inputs, "images", grows=True)


def _export(part: _Part, path: Path) -> OnnxCheck:
    example = part.inputs(2)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of axes with one name, and of torch's own deprecations
        noisy = logging.getLogger("torch.onnx")
        level = noisy.level
        noisy.setLevel(logging.ERROR)  # torchvision is not needed
        try:
            program = torch.onnx.export(
                part.module,
                tuple(example.values()),
                input_names=list(example),
                output_names=[part.output],
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in example),
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, NotImplementedError) as error:
            raise OnnxExportError(f"torch cannot write it as ONNX: {_last_line(error)}") from error
        finally:
            noisy.setLevel(level)
        assert program is not None
        program.save(str(path))
    try:
        return _check(part, path)
    except OnnxExportError:
        path.unlink(missing_ok=True)
        raise


def check_onnx(flow: Flow, path: Path, *, one_step: bool) -> OnnxCheck:
    """Compares a file with the flow that it was made from, and times both.

    Raises:
        OnnxExportError: they differ by more than 1e-4.
    """
    return _check(_of_flow(flow, one_step=one_step), path)


@torch.no_grad()
def _check(part: _Part, path: Path) -> OnnxCheck:
    import onnxruntime  # noqa: PLC0415  (an extra)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no base class of their own
        raise OnnxExportError(f"onnxruntime cannot run it: {_last_line(error)}") from error
    largest = relative = 0.0
    for size in BATCHES:
        inputs = part.inputs(size)
        wanted = part.module(**inputs)
        found = torch.from_numpy(session.run(None, _arrays(inputs))[0])
        if found.shape != wanted.shape:
            raise OnnxExportError(f"the output is {tuple(found.shape)}, not {tuple(wanted.shape)}")
        difference = float((found - wanted).abs().max())
        output = max(1.0, float(wanted.abs().max())) if part.grows else 1.0
        allowed = LARGEST_DIFFERENCE * output
        if not difference <= allowed:
            raise OnnxExportError(
                f"onnxruntime and torch differ by {difference:.2g}, more than {allowed:.2g}"
            )
        largest = max(largest, difference)
        relative = max(relative, difference / output)
    one = part.inputs(1)
    arrays = _arrays(one)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return OnnxCheck(
            largest_difference=largest,
            relative_difference=relative,
            latency_ms=_median_ms(lambda: session.run(None, arrays)),
            torch_ms=_median_ms(lambda: part.module(**one)),
        )
    finally:
        torch.set_num_threads(threads)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _inputs(flow: Flow, count: int, *, one_step: bool) -> dict[str, Tensor]:
    """Inputs by name, the same for the same count."""
    image = flow.image
    index = torch.arange(count)
    shape = (image.channels, image.size, image.size)
    noise = counter_random.normal(0, Stream.SAMPLE_NOISE, index, shape)
    inputs = {"noise": noise} if one_step else {"xt": noise, "t": (index + 1) / (count + 1)}
    if flow.takes_end and not one_step:
        inputs["end"] = (1.0 + inputs["t"]) / 2.0
    if image.classes:
        inputs["label"] = index % image.classes
    return inputs


def _arrays(inputs: dict[str, Tensor]) -> dict[str, Any]:
    return {name: value.numpy() for name, value in inputs.items()}


def _median_ms(run: Any) -> float:
    times = []
    for _ in range(TIMED):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3
