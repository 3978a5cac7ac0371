import pickle

import pytest

from slimctl.jobs.base.errors import DamagedArtifact, JobFailed, TrainingDiverged, WorkLost
from slimctl.jobs.base.failures import first_cause, named

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]"
NCCL = "NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited or there was a network"


@pytest.mark.parametrize(
    ("error", "cls"),
    [
        (RuntimeError(GLOO), WorkLost),
        (RuntimeError(NCCL), WorkLost),
        (ConnectionResetError("net"), WorkLost),
        (OSError(28, "No space left on device"), WorkLost),
        (FileNotFoundError("weights.pth"), JobFailed),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), JobFailed),
        (ValueError("connection closed"), JobFailed),
    ],
)
def test_what_is_raised_gets_its_class(error, cls):
    found = named(error, "job 'x'")
    assert type(found) is cls
    assert (found.where, found.what) == ("job 'x'", f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("where", ["", "flow-1"])
def test_an_error_that_has_a_class_keeps_it_and_its_words(where):
    error = TrainingDiverged(where, "the loss became nan", "lower it")
    found = pickle.loads(pickle.dumps(named(error, "job 'x'")))
    assert type(found) is TrainingDiverged
    assert found.args == (where or "job 'x'", "the loss became nan", "lower it")


def test_what_would_come_again_is_the_cause_of_what_would_not():
    lost, damaged = WorkLost("", "closed"), DamagedArtifact("", "differs")
    assert first_cause([ValueError("odd"), lost, damaged]) is damaged
    assert first_cause([lost, ValueError("odd")]) is lost
    assert first_cause([ValueError("odd")]) is None
