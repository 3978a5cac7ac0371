"""Training seeds: the same each time, also after a kill."""

import torch
from builders import step_policy
from safetensors.torch import load_file

from slimctl.jobs.steps import train


def test_the_same_job_makes_the_same_policy(attempt, store):
    asked = step_policy(training_seeds=1)
    one, two = (attempt(asked, artifact=f"train_step_policy-{name}") for name in "ab")
    first, second = (
        load_file(store.file(store.load_any(each.artifact_id), "policy.safetensors"))
        for each in (one, two)
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_killed_training_goes_on_where_it_was(attempt, store, monkeypatch):
    asked = step_policy(training_seeds=1, checkpoint_s=1e-6)
    whole = attempt(asked, artifact="train_step_policy-whole")
    saves = []

    def dies(folder, state, seconds):
        kept(folder, state, seconds)
        saves.append(state.notes["counters"]["decisions"])
        if len(saves) == 7:
            raise ConnectionError("the machine is gone")

    kept = train.save_state
    monkeypatch.setattr(train, "save_state", dies)
    first = attempt(asked, artifact="train_step_policy-killed")
    assert first.retry
    monkeypatch.setattr(train, "save_state", kept)
    second = attempt(asked, artifact="train_step_policy-killed")
    assert second.failure is None
    assert saves == [4, 8, 12, 16, 20, 24, 28]
    one, two = (
        load_file(store.file(store.load_any(each.artifact_id), "policy.safetensors"))
        for each in (whole, second)
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())
