"""Pipelines to start from: each is listed, written, and right as it stands."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slimctl.orchestrator.pipeline.starts import NAMES, starts

ROOT = Path(__file__).parents[3]
CONFIGS = {path.name: path.read_text() for path in (ROOT / "configs").glob("*.yaml")}


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images(tmp_path) -> Path:
    """Two classes of 60 images each, 32 px."""
    noise = np.random.default_rng(0)
    for number in range(120):
        folder = tmp_path / "images" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "images"


def test_every_pipeline_is_listed_with_what_it_is(slimctl):
    listed = json.loads(slimctl("init", "--json").out)
    assert [one["name"] for one in listed][: len(NAMES)] == list(NAMES)
    assert {one["file"] for one in listed} == set(CONFIGS)
    assert all(20 < len(one["about"]) < 140 for one in listed), listed
    table = slimctl("init")
    assert table.code == 0
    assert [one["name"] for one in listed if f"\n{one['name']} " not in table.out] == []


@pytest.mark.parametrize("name", starts())
def test_every_start_is_written_and_can_be_planned(slimctl, name):
    """Nothing is wrong with it but that a user's files are not there yet."""
    written = slimctl("init", name)
    assert (written.code, written.out) == (0, f"{name}.yaml\n")
    text = Path(f"{name}.yaml").read_text()
    assert text.splitlines()[-1] == CONFIGS[starts()[name].file].splitlines()[-1]
    assert f"configs/{starts()[name].file}" not in text
    planned = slimctl("plan", f"{name}.yaml")
    assert planned.code in (0, 2), planned.err
    assert planned.out.startswith("job "), planned.err  # a mistake in the file comes before it


def test_those_that_a_user_fills_in_say_where_to_edit():
    own = [name for name in NAMES if "EDIT" not in starts()[name].text]
    assert own == []


@pytest.mark.parametrize("name", ["digits", "my-images", "sweep", "fleet"])
def test_a_start_has_no_mistakes(slimctl, name, images):
    slimctl("init", name)
    source = [f"--set=jobs.data.source={images}"] if name == "my-images" else []
    checked = slimctl("check", f"{name}.yaml", *source)
    assert checked.code == 0, checked.err
    assert "no mistakes" in checked.out


@pytest.mark.parametrize(
    ("name", "teacher"),
    [("edm-teacher", "edm-ddpmpp-tiny.pkl"), ("slimflow-teacher", "slimflow-ncsnpp-tiny.pth")],
)
def test_a_start_from_a_teacher_takes_a_published_file(slimctl, name, teacher, images, test_data):
    assert_takes(slimctl, name, test_data / "parity" / teacher, images)


def test_a_start_from_diffusers_takes_its_folder(slimctl, images, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    network = diffusers.UNet2DModel(
        sample_size=32, block_out_channels=(32, 32), layers_per_block=1, **blocks
    )
    scheduler = diffusers.DDPMScheduler()
    diffusers.DDPMPipeline(unet=network, scheduler=scheduler).save_pretrained(tmp_path / "ddpm")
    assert_takes(slimctl, "diffusers-teacher", tmp_path / "ddpm", images)


def assert_takes(slimctl, name, teacher, images):
    slimctl("init", name)
    sets = [f"--set=jobs.teacher.path={teacher}", f"--set=jobs.data.source={images}"]
    for verb in ("check", "plan"):
        ended = slimctl(verb, f"{name}.yaml", *sets)
        assert ended.code == 0, ended.err


def test_a_file_that_is_there_is_kept(slimctl, tmp_path):
    kept = tmp_path / "digits.yaml"
    kept.write_text("name: mine\n")
    refused = slimctl("init", "digits")
    assert (refused.code, kept.read_text()) == (2, "name: mine\n")
    assert "-o" in refused.err
    assert "--force" in refused.err
    assert slimctl("init", "digits", "-o", "below/other.yaml").code == 0
    assert "slimctl submit below/other.yaml" in (tmp_path / "below/other.yaml").read_text()
    assert slimctl("init", "slimflow", "--force").code == 0
    assert kept.read_text() != "name: mine\n"


def test_an_unknown_start_is_refused_with_the_nearest(slimctl):
    refused = slimctl("init", "my-imges")
    assert refused.code == 2
    assert "'my-images'" in refused.err


@pytest.mark.slow
def test_the_wheel_has_every_pipeline(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*build, "-w", tmp_path, ROOT], check=True, timeout=240)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {Path(name).name for name in wheel.namelist() if name.startswith("slimctl/configs/")}
    assert held == set(CONFIGS)
