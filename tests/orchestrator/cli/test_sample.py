import pytest
from builders import RUN

from slimctl.jobs.export.samples import Asked


@pytest.fixture
def written(monkeypatch) -> list:
    calls: list = []
    monkeypatch.setattr(
        "slimctl.jobs.export.samples.write_samples",
        lambda *said, **more: calls.append((said[1:], more)),
    )
    return calls


def test_a_model_is_named_by_its_job_or_its_artifact(slimctl, store, written, tmp_path):
    target = tmp_path / "x.npz"
    ended = slimctl(
        "sample", f"{RUN}/quality", "-n", 5, "--seed", 1, "--label", 2, "--nfe", 3, "-o", target
    )
    assert (ended.code, ended.out) == (0, f"{target}\n")
    assert written == [
        (("evaluate-q0", target), {"count": 5, "seed": 1, "label": 2, "nfe": 3, "asked": Asked()}),
    ]
    assert slimctl("sample", "evaluate").code == 0
    assert written[1][1] == {"count": 64, "seed": 0, "label": None, "nfe": None, "asked": Asked()}


def test_a_run_is_no_model(slimctl, store, written):
    ended = slimctl("sample", RUN)
    assert ended.code == 2
    assert f"{RUN}/JOB" in ended.err
    assert written == []


def test_what_is_no_model_is_refused(slimctl, store, tmp_path):
    ended = slimctl("sample", "evaluate-q0", "-o", tmp_path / "x.npz")
    assert ended.code == 2
    assert "is a QualityReport, which has no samples" in ended.err


@pytest.mark.parametrize("option", ["--seed", "-n", "--label", "--nfe"])
@pytest.mark.parametrize("value", [-1, 2**63, 2**64])
def test_options_have_bounds(slimctl, store, written, option, value):
    ended = slimctl("sample", "evaluate", option, value)
    assert ended.code == 2
    assert option in ended.err
    assert written == []
