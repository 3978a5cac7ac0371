"""One worker against two on one device, with gloo: the weights, and the time of a step.

python -m benchmarks.gpu_session.two_workers real|dry
"""

import json
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from benchmarks.gpu_session.sizes import DRY, REAL, Sizes
from benchmarks.teacher import FlowOnImages, LoopSettings, drawn_images
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import Share
from slimctl.models.engine import Engine

WARM = 3


def train(rank: int, world: int, sizes: Sizes, port: int, folder: str) -> None:
    """One worker's part; the first one leaves the weights and the time of a step."""
    if world > 1:
        address = f"tcp://127.0.0.1:{port}"
        torch.distributed.init_process_group(
            "gloo", init_method=address, rank=rank, world_size=world
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    case, batch = sizes.teacher, sizes.teacher_batch
    torch.manual_seed(0)
    network = case.network.build(case.image).to(device)
    share = Share(rank * batch // world, batch // world, batch, device)
    trainer = Trainer(
        LoopSettings(steps=WARM + sizes.steps, batch_size=batch, learning_rate=1e-3),
        network,
        FlowOnImages(drawn_images(4 * batch, case.image).to(device), case.image),
        share,
        LocalBlobs(Path(folder) / f"work-{world}"),
        lambda step, metrics: None,
        rank,
        world,
        Engine(),
    )
    losses, began = [], 0.0
    for step, loss in enumerate(trainer.steps()):
        losses.append(loss)
        if step + 1 == WARM:
            losses[-1].item()  # waits for the device
            began = time.perf_counter()
    losses[-1].item()
    if rank == 0:
        ms = torch.tensor(1e3 * (time.perf_counter() - began) / sizes.steps)
        state = {f"model.{name}": value for name, value in trainer.network.state_dict().items()}
        save_file(state | {"ms": ms}, Path(folder) / f"{world}.safetensors")
    if world > 1:
        torch.distributed.destroy_process_group()


def main() -> None:
    """Trains with one worker and with two, and prints the comparison as a line of JSON."""
    sizes = REAL if sys.argv[1] == "real" else DRY
    found: dict[int, dict[str, Tensor]] = {}
    with tempfile.TemporaryDirectory(prefix="slimctl-session-") as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        train(0, 1, sizes, port, folder)
        spawn(train, (2, sizes, port, folder), nprocs=2)  # type: ignore[no-untyped-call]
        for world in (1, 2):
            found[world] = load_file(Path(folder) / f"{world}.safetensors")
    names = [name for name in found[1] if name != "ms"]
    apart = max(float((found[1][n] - found[2][n]).abs().max()) for n in names)
    print(
        json.dumps(
            {
                "one_ms": float(found[1]["ms"]),
                "two_ms": float(found[2]["ms"]),
                "largest_difference_of_weights": apart,
            }
        )
    )


if __name__ == "__main__":
    main()
