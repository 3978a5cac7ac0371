"""`slimctl export` and the card that it writes."""

import json

import pytest
from ruamel.yaml import YAML
from safetensors.torch import save_file

from slimctl.jobs.base.artifacts import Dataset, Flow, Generator
from slimctl.models.networks.registry import parse_network
from slimctl.models.spec import ImageShape

NETWORK = {
    "kind": "song_unet", "channels": 4, "channel_multipliers": [1], "blocks": 1,
    "attention_resolutions": [], "middle_attention": False,
}  # fmt: skip
IMAGE = ImageShape(channels=1, size=8)


def put_model(store, cls, artifact, spec, inputs):
    network = parse_network(NETWORK)
    folder = store.stage()
    weights = network.build(IMAGE).state_dict()
    save_file(weights, folder / "weights.safetensors")
    handle = cls(
        **({"source": "network"} if cls is Flow else {}),
        image=IMAGE, network=network.model_dump(mode="json"), parameters=1234,
    )  # fmt: skip
    kind = artifact.partition("-")[0]
    made = {"kind": kind, "version": 1, "spec": spec, "inputs": inputs}
    store.commit(artifact, handle, folder, {**made, "wall_s": 1.0, "device_s": 1.0})


@pytest.fixture
def model(store):
    folder = store.stage()
    (folder / "data.safetensors").write_bytes(b"x")
    data = Dataset(
        image=ImageShape(channels=1, size=8, classes=2),
        count=5,
        class_names=("cat", "dog"),
        flip_valid=False,
    )
    made = {"kind": "load_dataset", "version": 1, "spec": {"source": "here"}, "inputs": {}}
    store.commit("load_dataset-d9", data, folder, {**made, "wall_s": 1.0, "device_s": 1.0})
    spec = {"data": "d", "network": NETWORK, "steps": 7}
    put_model(store, Flow, "train_flow-t", spec, {"d": "load_dataset-d9"})
    put_model(
        store,
        Generator,
        "distill-g",
        {"pairs": "p", "start": "s", "guide": "s", "steps": 9},
        {"s": "train_flow-t"},
    )
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
