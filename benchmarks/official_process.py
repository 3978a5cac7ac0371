"""Times SlimFlow's official code in a process of its own.

Run as a script by `benchmarks.official`, never imported: both trees have a package `models`. It
reads one JSON object a line (`{"do": "forward"}`) and answers with one. None of the official code
is here: it is imported from the checkout that the user has. Its CUDA operations, unused with `fir`
off, and its configuration library, where that is not installed, are replaced by empty stand-ins.
"""

import importlib
import importlib.util
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any


class _Settings(dict[str, Any]):
    """A dictionary whose entries are attributes: what the official configurations need."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def _stand_in(name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(contents)
    sys.modules.setdefault(name, module)


def _prepare_imports(checkout: Path) -> None:
    """Puts the official packages first on the path, this folder's modules off it."""
    sys.path[:] = [str(checkout), *(p for p in sys.path if Path(p) != Path(__file__).parent)]
    _stand_in("op", upfirdn2d=None)
    if importlib.util.find_spec("ml_collections") is None:
        _stand_in("ml_collections", ConfigDict=_Settings)


class Official:
    """The official network, optimizer and samplers on one case.

    Args:
        case: `channels`, `multipliers`, `blocks`, `size`, `batch`, `device`, `threads`, `folder`
            (with `inputs.safetensors`: x, t, x1 and, for pairs, weights), `random_weights`.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        import torch
        from safetensors.torch import load_file

        official = importlib.import_module
        official("models.ncsnpp")  # registers the network
        losses = official("reflow.losses")
        torch.set_num_threads(case["threads"])
        config = official("configs.rectified_flow.cifar10_rf_gaussian").get_config()
        config.device = torch.device(case["device"])
        config.model.nf = case["channels"]
        config.model.ch_mult = tuple(case["multipliers"])
        config.model.num_res_blocks = case["blocks"]
        config.model.dropout = 0.0
        config.data.image_size = case["size"]
        config.data.num_channels = case["image_channels"]
        config.optim.warmup = 0
        self.torch, self.case = torch, case
        self.folder = Path(case["folder"])
        inputs = load_file(self.folder / "inputs.safetensors", device=case["device"])
        torch.manual_seed(0)
        self.network = official("models.utils").create_model(config)
        weights = {
            name.removeprefix("weights."): value
            for name, value in inputs.items()
            if name.startswith("weights.")
        }
        if weights:
            left = self.network.load_state_dict(weights, strict=False)
            trained = {name for name, _ in self.network.named_parameters()}
            if left.unexpected_keys or trained & set(left.missing_keys):
                raise ValueError(f"the weights do not fit the official network: {left}")
        elif case["random_weights"]:
            self._shake()
        self.x, self.t, self.x1 = inputs["x"], inputs["t"], inputs["x1"]
        self.flow = official("reflow").RectifiedFlow(model=self.network, cfg=config)
        self.optimizer = losses.get_optimizer(config, self.network.parameters())
        self.optimize = losses.optimization_manager(config)
        average = official("models.ema").ExponentialMovingAverage
        self.ema = average(self.network.parameters(), config.model.ema_rate)
        self.steps = 0
        self.config = config

    def _shake(self) -> None:
        """Adds a little noise to every weight: fresh ones make an output of nearly 0."""
        with self.torch.no_grad():
            for weight in self.network.parameters():
                weight.add_(0.005 * self.torch.randn_like(weight))

    def save(self) -> dict[str, Any]:
        """Writes the network's weights to `official.safetensors`."""
        from safetensors.torch import save_file

        state = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        save_file(state, self.folder / "official.safetensors")
        return {"parameters": sum(p.numel() for p in self.network.parameters())}

    def forward(self) -> dict[str, Any]:
        """One evaluation of the network."""
        self.network.eval()
        with self.torch.no_grad():
            self.last = self.flow.model_forward_wrapper(self.network, self.x, self.t)
        return {}

    def write_last(self) -> dict[str, Any]:
        """Writes the last output to `output.safetensors`."""
        from safetensors.torch import save_file

        save_file({"output": self.last.contiguous()}, self.folder / "output.safetensors")
        return {}

    def step(self) -> dict[str, Any]:
        """One training step, as the official train.py takes it."""
        self.network.train()
        self.optimizer.zero_grad()
        loss = self.flow.train_step(self.x1, self.steps)
        loss.backward()
        self.optimize(self.optimizer, self.network.parameters(), step=self.steps)
        self.steps += 1
        self.ema.update(self.network.parameters())
        return {"loss": loss.item()}

    def pairs(self) -> dict[str, Any]:
        """Solves one batch with the official RK45 at 1e-5."""
        self.network.eval()
        sampler = importlib.import_module("reflow.sampling").get_flow_sampler(
            self.flow, tuple(self.x.shape), lambda x: x, "rk45", device=self.case["device"]
        )
        self.last, evaluations = sampler(self.network, z=self.x)
        return {"nfe": int(evaluations)}


def _timed(work: Callable[[], dict[str, Any]], device: str) -> dict[str, Any]:
    import torch

    wall, cpu = time.perf_counter(), time.process_time()
    answer = work()
    if device != "cpu":
        torch.accelerator.synchronize()
    return {**answer, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def main() -> None:
    """Answers requests from standard input until it ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    case = json.loads(sys.stdin.readline())
    _prepare_imports(Path(case["reference"]))
    official = Official(case)
    for line in sys.stdin:
        work = getattr(official, json.loads(line)["do"])
        answers.write(json.dumps(_timed(work, case["device"])) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
