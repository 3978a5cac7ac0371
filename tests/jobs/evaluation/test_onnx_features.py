import sys

import numpy as np
import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Intake
from slimctl.jobs.evaluation.onnx_features import open_onnx


def node(op, inputs, **attributes):
    from onnx import helper

    return helper.make_node(op, inputs, ["features"], **attributes)


def test_features_are_what_the_graph_says(make_onnx):
    network = open_onnx(make_onnx())
    assert (network.intake, network.dimensions) == (Intake(1, 4), 2)
    images = np.random.default_rng(0).uniform(-1, 1, (5, 1, 4, 4)).astype(np.float32)
    expected = np.stack([images.mean((1, 2, 3)), images.max((1, 2, 3))], axis=1)
    np.testing.assert_allclose(network(images), expected, atol=1e-6)


def test_a_network_of_any_size_and_colour(make_onnx):
    network = open_onnx(make_onnx(shape=("b", "c", "h", "w")))
    assert network.intake == Intake(None, None)
    assert str(network.intake) == "images of any size with any number of channels"
    assert network(np.zeros((2, 1, 7, 7), np.float32)).shape == (2, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"shape": ("b", 1, 4), "nodes": "flat"},
            r"input 'images' is tensor\(float\) of shape \(b, 1, 4\)",
        ),
        ({"shape": (1, 1, 4, 4)}, "takes batches of 1 only"),
        ({"shape": ("b", 1, 4, 5)}, "4 x 5, not square"),
        ({"kind": 11}, r"input 'images' is tensor\(double\)"),
        ({"extra_input": True}, "has 2 inputs and 1 outputs"),
        ({"out": ("b", 1, 1, "d"), "nodes": "keep"}, "output 'features' is"),
        ({"out": None, "nodes": "keep"}, r"output.*\(b, 1, 1, 1\)|of shape \(2, 1, 1, 1\)"),
        ({"nodes": "mean"}, r"output of shape \(\)"),
        ({"nodes": "log"}, "NaN or infinity"),
    ],
)
def test_networks_of_another_shape_are_refused(make_onnx, changes, words):
    graphs = {
        "keep": lambda: [node("ReduceMean", ["images", "axes"], keepdims=1)],
        "mean": lambda: [node("ReduceMean", ["images"], keepdims=0)],
        "flat": lambda: [node("Flatten", ["images"])],
        "log": _flat_log,
    }
    changes = {**changes}
    if changes.get("nodes"):
        changes["nodes"] = graphs[changes["nodes"]]()
    path = make_onnx(**changes)
    with pytest.raises(UserError, match=words) as caught:
        open_onnx(path)
    assert caught.value.where == str(path)
    assert caught.value.fix


def _flat_log():
    from onnx import helper

    return [helper.make_node("Flatten", ["images"], ["flat"]), node("Log", ["flat"])]


def test_what_is_no_onnx_is_refused_in_one_line(tmp_path, make_onnx, capfd):
    whole = make_onnx().read_bytes()
    for content in (b"", b"PK\x03\x04 not a network", whole[: len(whole) // 2]):
        path = tmp_path / "bad.onnx"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"no ONNX file that onnxruntime can run|instead of"):
            open_onnx(path)
    assert capfd.readouterr().err == ""


def test_weights_in_files_beside_it_are_not_read(tmp_path, make_onnx, monkeypatch):
    import onnx

    path = make_onnx()
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="secret.bin", size_threshold=0)
    assert (tmp_path / "secret.bin").exists()
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match="can run"):
        open_onnx(path)


def test_without_onnxruntime_it_says_what_to_install(make_onnx, monkeypatch):
    path = make_onnx()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"slimctl\[onnx\]"):
        open_onnx(path)
