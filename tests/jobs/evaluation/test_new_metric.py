"""A metric that nobody here knows of: one file and one line, or another package's entry point.

Its declaration alone brings it into the report, MLflow, `compare`, the page, the card and the
front.
"""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from builders import RUN
from measured import put_run
from test_tracking import Tracked

from slimctl.jobs.base.artifacts import FeatureNet, Generator, QualityReport
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.kinds.sweep import Sweep
from slimctl.models import metrics as registry
from slimctl.models.networks.classifier.spec import ClassifierSpec
from slimctl.orchestrator.cli.main import main
from slimctl.orchestrator.runs.runs import save_pipeline

FILE = '''"""Standard deviation of the samples' features."""

from slimctl.models.metrics import Metric

METRIC = Metric(
    name="spread", label="feature spread", better="higher", measure="spread_metric:measure",
    format=".4f", beside=("spread_real",),
)


def measure(evidence):
    real = float(evidence.real.std())
    return {"spread": float(evidence.own.std()), "spread_real": real}
'''


@pytest.fixture(params=["one line", "entry point"])
def spread(request, monkeypatch, tmp_path):
    """The metric `spread`, declared in one of the two ways."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "spread_metric.py").write_text(FILE)
    monkeypatch.syspath_prepend(folder)
    if request.param == "one line":
        metric = importlib.import_module("spread_metric").METRIC
        monkeypatch.setattr(registry, "METRICS", (*registry.METRICS, metric))
    else:
        about = folder / "other-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n"
        )
        entry = "[slimctl.metrics]\nspread = spread_metric:METRIC\n"
        (about / "entry_points.txt").write_text(entry)
        importlib.invalidate_caches()
    registry.metrics.cache_clear()
    yield registry.metrics()["spread"]
    sys.modules.pop("spread_metric", None)
    registry.metrics.cache_clear()


@pytest.fixture
def reports(spread, run_job, make_dataset, make_model, commit, store):
    """Two generators of unlike size, measured; and a run that has both results."""
    data = make_dataset(count=20)
    torch.manual_seed(0)
    network = ClassifierSpec(channels=8, channel_multipliers=(1,), features=4)
    image = data.image.model_copy(update={"classes": 2})
    weights = network.build(image).state_dict()
    made = FeatureNet(image=image, network=network.model_dump(mode="json"), dimensions=4)
    features = commit(made, "train_features-f", weights=weights)
    spec = Evaluate(model="m", data="d", features="f", seed=1, samples=30)
    models = {
        name: make_model(Generator, seed=seed, channels=channels)
        for name, seed, channels in (("small", 0, 4), ("large", 1, 8))
    }
    found = {
        name: run_job(spec, model=model, data=data, features=features)
        for name, model in models.items()
    }
    put_run(store, RUN, {name: report.id for name, report in found.items()}, {})
    save_pipeline(store.blobs, RUN, "name: digits\n")
    return found


@pytest.fixture
def slimctl(monkeypatch, capsys, store):
    monkeypatch.setenv("SLIMCTL_STORAGE", store.uri)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["slimctl", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert not ended.value.code, said.err
        return said.out

    return run


def test_a_new_metric_is_everywhere(reports, slimctl, store, tmp_path, capsys, monkeypatch):
    report = reports["small"]
    stored = json.loads(store.blobs.read(f"artifacts/{report.id}/artifact.json"))["handle"]
    assert stored["spread"] == report.number("spread") > 0
    assert stored["spread_real"] > 0
    shown = {name: f"{one.number('spread'):.4f}" for name, one in reports.items()}

    head, _, *lines = slimctl("compare").splitlines()
    assert head.index("recall") < head.index("feature spread") < head.index("latency")
    found = {row["name"]: row for row in json.loads(slimctl("compare", "--json"))["rows"]}
    for name, text in shown.items():
        assert any(name in line and text in line for line in lines)
        assert found[name]["spread"]["mean"] == reports[name].number("spread")
        assert text in slimctl("show")
    assert "spread" in slimctl("compare", "--format", "csv").splitlines()[0].split(",")

    page = tmp_path / "page.html"
    slimctl("report", "--no-trajectories", "-o", page)
    assert "<th>feature spread</th>" in page.read_text()
    assert all(f"<td>{text}</td>" in page.read_text() for text in shown.values())

    slimctl("export", report.model, "-o", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| recall | feature spread | samples |" in card
    assert f"| {shown['small']} |" in card


def test_the_front_is_of_any_metric(reports, slimctl, tmp_path):
    wide = max(reports, key=lambda name: reports[name].number("spread"))
    front = ("compare", "--front", "spread,parameters", "--plot", tmp_path / "front.png")
    rows = {row["name"]: row["front"] for row in json.loads(slimctl(*front, "--json"))["rows"]}
    assert rows == {"small": True, "large": wide == "large"}
    assert "a higher feature spread with no more parameters" in slimctl(*front)
    assert (tmp_path / "front.png").exists()
    assert "with no less feature spread" in slimctl("compare", "--front", "nfe,spread")


def test_a_sweep_may_look_for_it(spread):
    jobs = {"quality": {"kind": "evaluate", "model": "m", "data": "d", "features": "f"}}
    space = {"steps": {"choice": [1, 2]}}
    jobs["quality"]["solver"] = {"kind": "euler", "steps": "${steps}"}
    goals = ["quality.spread", "quality.parameters"]
    found = Sweep.model_validate({"space": space, "jobs": jobs, "pareto": goals, "seed": 0})
    assert found.objectives == tuple(goals)


def test_mlflow_has_it(reports, store):
    tracked = Tracked(Path(store.uri))
    tracked.client.search_experiments()  # makes the database, which takes seconds
    jobs = [
        tracked.planned(name, "evaluate").model_copy(update={"artifact": report.id})
        for name, report in reports.items()
    ]
    tracked.plan = tracked.plan.model_copy(update={"jobs": tuple(jobs)})
    for name in reports:
        tracked.log.add("job_reused", name)
    tracked.log.add("run_ended", state="done")
    assert tracked.track() == ""
    for name, report in reports.items():
        logged = tracked.runs()[name].data.metrics
        assert logged["spread"] == report.number("spread")
        assert logged["spread_real"] == report.number("spread_real")


def test_a_result_without_it_has_another_key_and_still_shows(reports, slimctl, store):
    spec = Evaluate(model="m", data="d", features="f")
    assert spec.fingerprint() == {"metric spread": "1"}
    old = reports["small"].model_dump(exclude={"spread", "spread_real", "id"})
    manifest = {"kind": "evaluate", "version": 2, "spec": {}, "inputs": {}, "wall_s": 1}
    earlier = QualityReport(**old | {"fid": 1.0})
    store.commit("evaluate-old", earlier, store.stage(), {**manifest, "device_s": 1})
    jobs = {"old": "evaluate-old", "small": reports["small"].id}
    put_run(store, "later-20260102-120000-aaaa", jobs, {})
    shown = json.loads(slimctl("compare", "later", "--front", "spread,parameters", "--json"))
    rows = {row["name"]: row for row in shown["rows"]}
    assert rows["old"]["spread"] is None
    assert {name: row["front"] for name, row in rows.items()} == {"old": False, "small": True}
