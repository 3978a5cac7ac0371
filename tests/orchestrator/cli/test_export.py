"""`slimctl export` and the card that it writes."""

import json

import pytest
from builders import IMAGE, NETWORK, dataset, put
from ruamel.yaml import YAML

from slimctl.jobs.base.artifacts import Flow, Generator
from slimctl.models.networks.registry import parse_network
from slimctl.models.spec import ImageShape


def put_model(store, cls, artifact, **made):
    network = parse_network(NETWORK)
    source = {"source": "network"} if cls is Flow else {}
    handle = cls(**source, image=IMAGE, network=network.model_dump(mode="json"), parameters=1234)
    weights = network.build(IMAGE).state_dict()
    put(store, artifact, handle, {"weights.safetensors": weights}, **made)


@pytest.fixture
def model(store):
    image = ImageShape(channels=1, size=8, classes=2)
    data = dataset(image, class_names=("cat", "dog"))
    put(store, "load_dataset-d9", data, {"data.safetensors": b"x"}, spec={"source": "here"})
    spec = {"data": "d", "network": NETWORK, "steps": 7}
    put_model(store, Flow, "train_flow-t", spec=spec, inputs={"d": "load_dataset-d9"})
    spec = {"pairs": "p", "start": "s", "guide": "s", "steps": 9}
    put_model(store, Generator, "distill-g", spec=spec, inputs={"s": "train_flow-t"})
    return "distill-g"


def test_a_model_is_exported_with_its_card(slimctl, model, tmp_path):
    folder = tmp_path / "out"
    ended = slimctl("export", model, "-o", folder, "--licence", "mit", "--name", "tiny")
    assert (ended.code, ended.out) == (0, f"{folder}\n"), ended.err
    known = json.loads((folder / "model.json").read_text())
    assert (known["name"], known["class_names"]) == ("tiny", [])
    card = (folder / "README.md").read_text()
    for part in (
        'license: "mit"', "# tiny", "load_generator", "5 images of 8 x 8 x 1",
        "2 classes: cat, dog",
        "train_flow-t", "steps 7", "Not measured",
    ):  # fmt: skip
        assert part in card
    assert card.index("load_dataset-d9` (") < card.index("train_flow-t` (")
    again = slimctl("export", model, "-o", folder)
    assert again.code == 2
    assert "--force" in again.err
    assert slimctl("export", model, "-o", folder, "--force").code == 0


def test_a_licence_cannot_break_the_card(slimctl, model, tmp_path):
    words = ["--licence", "mit: yes\nfoo: [bar", "--name", "a\n# b"]
    assert slimctl("export", model, "-o", tmp_path / "o", *words).code == 0
    _, front, rest = (tmp_path / "o" / "README.md").read_text().split("---\n", 2)
    assert YAML(typ="safe").load(front)["license"] == "mit: yes\nfoo: [bar"
    assert "# a # b\n" in rest


def test_a_damaged_report_stops_no_export(slimctl, store, model, tmp_path):
    path = store.blobs.local("artifacts/evaluate-q0/artifact.json")
    path.write_text("garbage")
    assert slimctl("export", model, "-o", tmp_path / "o").code == 0


def test_a_number_of_steps_is_for_flows(slimctl, model, tmp_path):
    ended = slimctl("export", model, "--nfe", 5, "-o", tmp_path / "o")
    assert ended.code == 2
    assert "makes images in one step, not 5" in ended.err
    assert slimctl("export", "train_flow-t", "--nfe", 5, "-o", tmp_path / "f").code == 0
    assert "by euler 5" in (tmp_path / "f" / "README.md").read_text()


def test_onnx_tells_how_close_and_how_fast(slimctl, model, tmp_path):
    ended = slimctl("export", model, "--to", "onnx", "-o", tmp_path / "o", "--json")
    (check,) = json.loads(ended.out)["checks"].values()
    assert check["largest_difference"] <= 1e-4
    assert "model.onnx" in (tmp_path / "o" / "README.md").read_text()


def test_what_is_no_model_is_refused(slimctl, store, tmp_path):
    ended = slimctl("export", "evaluate-q0", "-o", tmp_path / "x")
    assert ended.code == 2
    assert "is a QualityReport, no model" in ended.err
    assert not (tmp_path / "x").exists()
