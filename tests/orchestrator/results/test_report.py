"""The page about a run: whole, self-contained, escaped."""

import base64
import re
import shutil
import subprocess

import pytest
from builders import IMAGE, RUN, dataset, feature_net, pair_set
from measured import put, put_report, put_run, put_student
from PIL import Image

from slimctl.jobs.base.artifacts import Flow, SubsetQuality
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.results.report import MOST_POINTS, curves_of, gather, render
from slimctl.orchestrator.runs.events import Event, EventLog
from slimctl.orchestrator.runs.runs import save_pipeline

LATER = "digits-20260103-120000-bbbb"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def store(tmp_path) -> Store:
    """What students are made from."""
    made = Store(str(tmp_path / "store"))
    for name in ("d0", "other"):
        data = dataset()
        put(made, f"load_dataset-{name}", data, {"source": "digits"}, {})
    features = feature_net()
    put(made, "train_features-f0", features, {"data": "data"}, {"data": "load_dataset-d0"}, 1.0)
    teacher = Flow(source="data", image=IMAGE, dataset=data)
    put(made, "analytic_flow-t0", teacher, {"data": "data"}, {"data": "load_dataset-d0"})
    pairs = pair_set()
    spec = {"flow": "teacher", "count": 100, "seed": 0}
    put(made, "generate_pairs-p0-100", pairs, spec, {"teacher": "analytic_flow-t0"}, 1.0)
    return made


def put_measured(store, name, model, **changes):
    """A report with its picture."""
    artifact = put_report(store, name, model, **changes)
    path = store.blobs.local(f"artifacts/{artifact}/artifact.json").parent / "samples.png"
    Image.new("RGB", (68, 34), "white").save(path)
    return artifact


@pytest.fixture
def page_store(store, monkeypatch):
    """A run that trained a student and measured it twice; a later one that reuses the student."""
    student = put_student(store, "s1")
    classes = tuple(
        SubsetQuality(
            labels=(at,), samples=9, real=9, fid=7.5 + at, fid_real=1.0, precision=None, recall=None
        )
        for at in range(2)
    )
    one = put_measured(store, "q1", student, nfe=1.0, fid=4.0, classes=classes)
    two = put_measured(store, "q2", student, nfe=8.0, fid=3.0, parameters=200)
    log = EventLog(store.blobs, RUN)
    jobs = {"student": student, f"one{SCRIPT}": one, "many": two, "late": "evaluate-none"}
    fields = {
        name: {"kind": artifact.partition("-")[0], "key": "k", "artifact": artifact}
        for name, artifact in jobs.items()
    }
    log.add("run_started", name="digits", jobs=fields)
    log.add("job_started", "student", attempt=1)
    for step in range(1, 6):
        metrics = {"loss": 1.0 / step, "learning_rate": 1e-3}
        log.add("progress", "student", done=step, total=5, metrics=metrics)
    log.add("job_done", "student", wall_s=1.0, device_s=1.0)
    log.add("job_reused", f"one{SCRIPT}")
    log.add("job_reused", "many")
    log.add("job_failed", "late", failure="JobFailed", what=f"it broke {SCRIPT}")
    log.add("run_ended", state="failed")
    log.flush()
    save_pipeline(store.blobs, RUN, f"name: digits # {SCRIPT}\n")
    put_run(store, LATER, {"student": student, "quality": one}, {})
    save_pipeline(store.blobs, LATER, "name: digits\n")
    monkeypatch.setattr(
        type(store), "file", lambda self, handle, name: self.blobs.local(
            f"artifacts/{handle.id}/{name}"
        )
    )  # fmt: skip
    return store


@pytest.fixture
def text(page_store):
    return render(gather(page_store, RUN, trajectories=False))


def test_the_page_has_every_part(text):
    for part in (
        "4.00 with 100 weights", "the best of all has 3.00", "FID and what a sample costs",
        "Training: loss", "class 0", "8.50", "it broke",
        "every default spelt out", "name: digits",
    ):  # fmt: skip
        assert part in text
    assert text.count("data:image/png;base64,") == 2
    assert text.count("<svg") == 2
    pictures = re.findall(r"base64,([A-Za-z0-9+/=]+)", text)
    assert all(base64.b64decode(one).startswith(b"\x89PNG") for one in pictures)


def test_the_page_needs_nothing_from_outside_and_runs_nothing(text):
    assert SCRIPT not in text
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    links = set(re.findall(r"""(?:src|href)=["']([^"']+)""", text))
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert "@import" not in text
    assert "url(http" not in text
    assert "currentColor" in text
    assert "#010203" not in text


def test_what_was_trained_earlier_has_its_curve(page_store):
    page = gather(page_store, LATER, trajectories=False)
    assert page.curves == {"loss": {"student": [(step, 1.0 / step) for step in range(1, 6)]}}
    assert page.status.jobs["student"].state == "reused"


def test_a_run_that_measured_nothing_has_a_page(page_store):
    put_run(page_store, "empty-20260104-120000-cccc", {}, {"data": "no such file"})
    save_pipeline(page_store.blobs, "empty-20260104-120000-cccc", "name: empty\n")
    text = render(gather(page_store, "empty-20260104-120000-cccc"))
    assert "no such file" in text
    assert "FID and size" not in text


def test_fids_that_do_not_compare_are_no_table(page_store):
    other = put_measured(
        page_store, "q3", "anneal_reflow-s1", reference="load_dataset-other", nfe=1.0
    )
    put_run(page_store, LATER, {"a": "evaluate-q1", "b": other}, {})
    page = gather(page_store, LATER, trajectories=False)
    assert page.comparison is None
    assert any("no common table" in remark for remark in page.remarks)
    assert "no common table" in render(page)


def test_long_curves_are_thinned_and_keep_their_ends():
    log = [event(step, {"loss": float(step), "noise": 1.0}) for step in range(1, 10 * MOST_POINTS)]
    curve = curves_of(log)["loss"]["a"]
    assert len(curve) <= MOST_POINTS + 1
    assert (curve[0][0], curve[-1][0]) == (1, 10 * MOST_POINTS - 1)
    assert set(curves_of(log)) == {"loss"}


def event(step, metrics):
    details = {"done": step, "total": 9, "metrics": metrics}
    return Event(number=step, time=1.0, name="progress", job="a", details=details)


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.mark.skipif(BROWSER is None, reason="no chromium here to open the page in")
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_it(text, tmp_path, width):
    """It fits a wide and a narrow window: nothing but tables and charts scrolls sideways."""
    page = tmp_path / "page.html"
    page.write_text(text)
    picture = tmp_path / "page.png"
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu",
        f"--window-size={width},2000", f"--screenshot={picture}", page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    shown = Image.open(picture)
    assert shown.width == width
    assert len(shown.convert("RGB").getcolors(2**24)) > 10
