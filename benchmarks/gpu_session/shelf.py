"""A store with what objectives learn from: drawn images, a random flow as teacher, its "pairs".

The pairs' images are drawn ones, not the flow's: times, copies and synchronisation do not depend on
what is in them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.gpu_session.sizes import Case
from benchmarks.teacher import drawn_images
from slimctl.jobs.base.artifacts import Dataset, Flow, Handle, PairSet
from slimctl.jobs.base.context import Handles
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.match_distribution import MatchDistribution
from slimctl.jobs.kinds.match_teacher import MatchTeacher
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.objectives.anneal_reflow import AnnealedReflow
from slimctl.jobs.objectives.distill import Distillation
from slimctl.jobs.objectives.match_distribution import DistributionMatching
from slimctl.jobs.objectives.match_teacher import TeacherMatching
from slimctl.jobs.objectives.train_flow import FlowMatching
from slimctl.jobs.pairs.shards import Solved, write_shard
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training.objective import Objective
from slimctl.jobs.training.spec import TrainingSpec
from slimctl.models.counter_random import GENERATOR_VERSION
from slimctl.models.pixels import to_uint8

SHARD = 1000
IMAGES = 512


@dataclass(frozen=True)
class Shelf:
    """The store and its handles, by the names that specs call them."""

    store: Store
    handles: Handles
    case: Case

    @property
    def pairs(self) -> PairSet:
        """The pair set."""
        found = self.handles.inputs["pairs"]
        assert isinstance(found, PairSet)
        return found


def fill_shelf(folder: Path, case: Case, pairs: int) -> Shelf:
    """Writes everything into a folder."""
    store = Store(str(folder))
    images = to_uint8(drawn_images(IMAGES, case.image)).permute(0, 2, 3, 1).contiguous()
    data = Dataset(image=case.image, count=IMAGES, flip_valid=True)
    torch.manual_seed(0)
    weights = case.network.build(case.image).state_dict()
    teacher = Flow(
        source="network",
        image=case.image,
        network=case.network.model_dump(mode="json"),
        parameters=case.parameters,
        flip_valid=True,
    )
    inputs: dict[str, Handle] = {
        "data": _put(store, "load_dataset-0", data, data.file, {"images": images}),
        "teacher": _put(store, "train_flow-0", teacher, teacher.file, weights),
        "pairs": _pairs(store, case, pairs),
    }
    return Shelf(store, Handles(store, "session-0", inputs), case)


def _pairs(store: Store, case: Case, count: int) -> PairSet:
    size = min(SHARD, count)
    x1 = drawn_images(size, case.image).half()
    solved = Solved(x1, 0.0, 0.0, "none")
    names = [f"pairs/session/shard-{number:06d}" for number in range(-(-count // size))]
    return PairSet(
        image=case.image,
        count=count,
        shard_size=size,
        seed=0,
        generator_version=GENERATOR_VERSION,
        nfe=0.0,
        flip_valid=True,
        shards=tuple(write_shard(store, name, solved).file for name in names),
    )


def _put(
    store: Store, artifact: str, handle: Handle, name: str, tensors: Mapping[str, Tensor]
) -> Handle:
    folder = store.stage()
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name)
    made: dict[str, Any] = {
        "kind": artifact.partition("-")[0],
        "version": 1,
        "spec": {},
        "inputs": {},
        "wall_s": 0.0,
        "device_s": 0.0,
    }
    return store.commit(artifact, handle, folder, made)


def trainings(shelf: Shelf, steps: int, batch: int) -> dict[str, tuple[TrainingSpec, Objective]]:
    """Every kind of training on the shelf: its settings and its objective, by the kind's name."""
    network = shelf.case.network.model_dump(mode="json")
    common: dict[str, Any] = {"network": network, "steps": steps, "batch_size": batch, "seed": 0}
    specs: dict[str, TrainingSpec] = {
        "train_flow": TrainFlow(data="data", **common),
        "anneal_reflow": AnnealReflow(pairs="pairs", **common),
        "distill": Distill(pairs="pairs", guide="teacher", **common),
        "match_teacher": MatchTeacher(teacher="teacher", data="data", **common),
        "match_distribution": MatchDistribution(
            teacher="teacher", data="data", score_every=10**6, score_samples=8, **common
        ),
    }
    made: dict[str, Any] = {
        "train_flow": FlowMatching,
        "anneal_reflow": AnnealedReflow,
        "distill": Distillation,
        "match_teacher": TeacherMatching,
        "match_distribution": DistributionMatching,
    }
    return {kind: (spec, made[kind](spec, shelf.handles)) for kind, spec in specs.items()}
