from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError, MissingFile
from slimctl.jobs.training.distances import (
    ImageDistance,
    LPIPSDistance,
    LPIPSHuberDistance,
    check_content,
    check_distance,
    fingerprint,
    require_weights,
)
from slimctl.jobs.training.perceptual import FILE, open_distance, prepare_distance
from slimctl.models.flows.spec import L2Distance
from slimctl.models.losses import pseudo_huber
from slimctl.models.perceptual.lpips import LPIPS, fill_lpips
from slimctl.models.perceptual.weight_file import read_weight_file
from slimctl.models.spec import ImageShape

PARSE = TypeAdapter(ImageDistance).validate_python
KNOWN = Facts(flip_valid=True)
CPU = torch.device("cpu")


@pytest.fixture
def context(make_context):
    return make_context("distill-1")


def test_every_kind_is_read(lpips_files):
    assert PARSE({"kind": "l2"}) == L2Distance()
    assert PARSE({"kind": "lpips", **lpips_files}).size == 64
    assert PARSE({"kind": "lpips_huber", **lpips_files, "huber_weight": 0.5}).huber_weight == 0.5
    for wrong in ({"kind": "lpips"}, {"kind": "lpips", **lpips_files, "size": 8}, {"kind": "l3"}):
        with pytest.raises(ValidationError):
            PARSE(wrong)


def test_a_missing_file_says_what_to_fetch(lpips_files):
    for field, name in (("weights", "vgg16-397923af.pth"), ("linear", "package lpips")):
        with pytest.raises(MissingFile) as caught:
            require_weights(LPIPSDistance(**lpips_files | {field: "nowhere.pth"}), KNOWN)
        assert caught.value.facts == KNOWN
        assert caught.value.field == f"distance.{field}"
        assert "'nowhere.pth'" in caught.value.what
        assert name in caught.value.fix


def test_images_that_vgg_does_not_take_are_refused(lpips_files):
    check_distance(LPIPSDistance(**lpips_files), Facts(image=ImageShape(channels=1, size=8)))
    with pytest.raises(FieldError, match="not 4 channels"):
        check_distance(LPIPSDistance(**lpips_files), Facts(image=ImageShape(channels=4, size=32)))
    with pytest.raises(FieldError, match="too small"):
        check_distance(
            LPIPSDistance(**lpips_files, size=None), Facts(image=ImageShape(channels=3, size=8))
        )
    check_distance(L2Distance(), Facts(image=ImageShape(channels=4, size=8)))


def test_the_key_is_of_the_content(lpips_files, tmp_path):
    spec = LPIPSDistance(**lpips_files)
    copy = tmp_path / "copy.pth"
    copy.write_bytes(Path(lpips_files["linear"]).read_bytes())
    assert fingerprint(spec) == fingerprint(LPIPSDistance(**lpips_files | {"linear": str(copy)}))
    assert set(fingerprint(spec)) == {"distance.weights", "distance.linear"}
    copy.write_bytes(b"other")
    assert fingerprint(spec) != fingerprint(LPIPSDistance(**lpips_files | {"linear": str(copy)}))
    assert fingerprint(L2Distance()) == {}


def test_content_that_its_name_denies_is_refused(lpips_files, tmp_path):
    check_content(LPIPSDistance(**lpips_files))
    bad = tmp_path / "vgg16-397923af.pth"
    bad.write_bytes(b"cut short")
    with pytest.raises(FieldError, match="which its name says is 397923af"):
        check_content(LPIPSDistance(**lpips_files | {"weights": str(bad)}))


def test_workers_get_the_weights_from_the_store(lpips_files, store, context):
    spec = LPIPSDistance(**lpips_files)
    prepare_distance(context, spec)
    assert context.work.exists(FILE)
    gone = LPIPSDistance(weights="gone", linear="gone")
    measure = open_distance(gone, store, context.artifact_id, CPU)
    own = LPIPS(64)
    fill_lpips(
        own,
        read_weight_file(Path(lpips_files["weights"])),
        read_weight_file(Path(lpips_files["linear"])),
    )
    x, y = torch.rand(2, 2, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(measure(x, y), own(x, y))
    both = open_distance(
        LPIPSHuberDistance(weights="gone", linear="gone", huber_weight=0.5), store, "distill-1", CPU
    )
    expected = own(x, y) + 0.5 * pseudo_huber(x, y) / 192**0.5
    torch.testing.assert_close(both(x, y), expected)


def test_other_distances_need_nothing(store, context):
    prepare_distance(context, L2Distance())
    assert not context.work.exists(FILE)
    x, y = torch.rand(2, 2, 3, 8, 8)
    measure = open_distance(L2Distance(), store, "distill-1", CPU)
    torch.testing.assert_close(measure(x, y), (x - y).square().mean(dim=(1, 2, 3)))


def test_files_of_something_else_are_refused(lpips_files, context):
    with pytest.raises(UserError, match=r"missing levels\.0\.0\.weight") as caught:
        prepare_distance(
            context, LPIPSDistance(weights=lpips_files["linear"], linear=lpips_files["linear"])
        )
    assert "vgg16-397923af.pth" in caught.value.fix
