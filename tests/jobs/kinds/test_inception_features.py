import hashlib

import pytest
import torch

from slimctl.jobs.base.facts import Facts, FieldError, Intake
from slimctl.jobs.evaluation.features import open_features
from slimctl.jobs.kinds.inception_features import InceptionFeatures
from slimctl.models.perceptual.cost import INCEPTION_MACS
from slimctl.models.perceptual.inception import Inception


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    network = Inception()
    return dict(network.state_dict()) | {
        "fc.weight": torch.zeros(1008, 2048),
        "fc.bias": torch.zeros(1008),
    }


def test_published_weights_become_features(run_job, store, state, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    made = run_job(InceptionFeatures(weights=str(path)))
    assert (made.source, made.channels, made.size, made.dimensions) == ("inception", 3, None, 2048)
    path.unlink()
    network = Inception()
    network.load_state_dict({name: v for name, v in state.items() if not name.startswith("fc.")})
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    extract = open_features(store, made, torch.device("cpu"))
    torch.testing.assert_close(extract(images), network.eval()(images).detach())


def test_a_missing_file_says_what_to_fetch_and_where_to_put_it(refused):
    error = refused(InceptionFeatures(weights="weights/inception.pth"))
    assert error.field == "weights"
    assert "'weights/inception.pth'" in error.what
    for words in ("weights-inception-2015-12-05-6726825d.pth", "torch-fidelity", "put it there"):
        assert words in error.fix


def test_a_damaged_file_is_reported_by_its_name(tmp_path):
    content = b"weights"
    right = hashlib.sha256(content).hexdigest()[:8]
    good, bad = tmp_path / f"weights-{right}.pth", tmp_path / "weights-6726825d.pth"
    for path in (good, bad):
        path.write_bytes(content)
    assert InceptionFeatures(weights=str(good)).preflight() is None
    with pytest.raises(FieldError, match=f"sha256 {right}"):
        InceptionFeatures(weights=str(bad)).preflight()
    assert InceptionFeatures(weights=str(bad)).expect({}) == Facts(
        intake=Intake(channels=3), dimensions=2048, feature_macs=INCEPTION_MACS
    )


def test_weights_of_another_network_are_refused(attempt, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(2)}, path)
    outcome = attempt(InceptionFeatures(weights=str(path)))
    assert outcome.failure == "UserError"
    assert "471 tensors differ" in outcome.what
    assert "unexpected a (2,)" in outcome.what
    assert "torch-fidelity" in outcome.fix
    path.write_bytes(b"no weights")
    outcome = attempt(InceptionFeatures(weights=str(path)))
    assert "no file of weights" in outcome.what
