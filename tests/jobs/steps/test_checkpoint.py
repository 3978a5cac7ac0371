import json

import torch

from slimctl.jobs.steps.train import load_state, save_state
from slimctl.models.steps.double_dqn import LearnerState


def test_a_checkpoint_is_believed_whole_or_not_at_all(store):
    folder = store.work("train_step_policy-x").below("seed-0")
    assert load_state(folder) is None
    save_state(folder, LearnerState({"a": torch.ones(3)}, {"n": 2**100}), 1.5)
    save_state(folder, LearnerState({"a": torch.zeros(3)}, {"n": 2**101}), 2.5)
    state, seconds = load_state(folder)
    assert (seconds, state.notes["n"], state.tensors["a"].tolist()) == (2.5, 2**101, [0, 0, 0])
    assert len(folder.names()) == 2
    pointer = json.loads(folder.read("state.json"))
    folder.write(pointer["file"], b"damaged")
    assert load_state(folder) is None
