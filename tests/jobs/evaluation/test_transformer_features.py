"""DINOv2 and CLIP from a user's folder, beside transformers' own preprocessing and networks."""

import json

import pytest
import torch
from builders import drawn

from slimctl.jobs.base.facts import FieldError
from slimctl.jobs.evaluation.features import open_features
from slimctl.jobs.kinds.import_features import ImportFeatures

transformers = pytest.importorskip("transformers")
VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip


@pytest.fixture
def save(tmp_path):
    """save(family) -> a folder of it with small random weights, and the model."""

    def make(family):
        if family == "dinov2":
            model = transformers.Dinov2Model(transformers.Dinov2Config(**VISION))
        else:
            text = {k: v for k, v in VISION.items() if k not in ("image_size", "patch_size")}
            config = transformers.CLIPConfig(
                text_config=text | {"vocab_size": 20}, vision_config=VISION, projection_dim=8
            )
            model = transformers.CLIPModel(config)
        drawn(model)
        model.eval().save_pretrained(tmp_path / family)
        return tmp_path / family, model

    return make


def expected(family, model, images):
    """What the model makes of images of its own size, normalised as it was trained."""
    mean, deviation = {
        "dinov2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    }[family]
    x = images.float() / 255
    x = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
    with torch.no_grad():
        if family == "dinov2":
            return model(pixel_values=x).pooler_output
        pooled = model.vision_model(pixel_values=x).pooler_output
        return model.visual_projection(pooled)


@pytest.mark.parametrize("family", ["dinov2", "clip"])
def test_features_are_those_of_transformers(run_job, store, save, family):
    folder, model = save(family)
    spec = ImportFeatures(path=str(folder))
    made = run_job(spec)
    assert made.source == "transformers"
    assert made.dimensions == spec.preflight().dimensions == {"dinov2": 16, "clip": 8}[family]
    extract = open_features(store, made, torch.device("cpu"))
    images = torch.randint(0, 256, (3, 3, 28, 28), dtype=torch.uint8)
    torch.testing.assert_close(extract(images), expected(family, model, images))
    grey = images[:, :1, :8, :8]
    assert extract(grey).shape == (3, made.dimensions)
    before = spec.fingerprint()
    (folder / "preprocessor_config.json").write_text(json.dumps({"crop_size": 14}))
    assert spec.fingerprint() != before


def test_what_is_no_such_folder_is_refused(attempt, save, tmp_path):
    folder, _ = save("dinov2")
    config = folder / "config.json"
    good = config.read_text()
    for text, words in (
        ("[" * 100_000, "cannot be read"),
        ('{"model_type": "bert"}', "type 'bert', not dinov2 or clip"),
        (good.replace('"hidden_size": 16', '"hidden_size": 32'), "weights"),
    ):
        config.write_text(text)
        failed = attempt(ImportFeatures(path=str(folder)))
        assert words in failed.what
    (tmp_path / "empty").mkdir()
    with pytest.raises(FieldError, match=r"has no config\.json"):
        ImportFeatures(path=str(tmp_path / "empty")).expect({})
