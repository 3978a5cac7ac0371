import numpy as np
import pytest
from pydantic import ValidationError

from slimctl.jobs.base.artifacts import Flow, Generator
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, Intake
from slimctl.jobs.base.keys import content_of, job_key
from slimctl.jobs.evaluation import quality
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.kinds.import_features import ImportFeatures
from slimctl.jobs.kinds.train_features import TrainFeatures
from slimctl.models.spec import ImageShape

PLAIN = ImageShape(channels=1, size=4)
EULER = {"kind": "euler", "steps": 2}
INPUTS = {"model": Facts(PLAIN, made="Flow"), "data": Facts(PLAIN, 100), "features": Facts(PLAIN)}
SMALL = {"kind": "classifier", "channels": 4, "channel_multipliers": [1], "features": 3}


def spec(**changes):
    fields = {"model": "m", "data": "d", "features": "f", "solver": EULER, "samples": 20}
    return Evaluate.model_validate(fields | {"seed": 0} | changes)


@pytest.fixture
def inputs(run_job, make_dataset, monkeypatch):
    """A labelled data set and its features."""
    monkeypatch.setattr(quality, "LATENCY_BUDGET_MS", 5.0)
    data = make_dataset(count=20, classes=2)
    training = TrainFeatures(data="d", network=SMALL, steps=2, batch_size=4, seed=0)
    return {"data": data, "features": run_job(training, data=data)}


@pytest.mark.parametrize("cls", [Flow, Generator])
def test_a_model_is_measured(run_job, store, inputs, make_model, cls):
    model = make_model(cls)
    report = run_job(spec(solver=EULER if cls is Flow else None), model=model, **inputs)
    assert (report.model, report.model_type) == (model.id, cls.__name__)
    assert report.samples == 20
    assert store.file(report, report.sheet).read_bytes()[1:4] == b"PNG"


def test_a_precision_is_recorded_and_enters_the_key_where_it_is_not_the_usual_one(
    run_job, store, inputs, make_model
):
    model = make_model(Flow)
    report = run_job(spec(precision="float16"), model=model, **inputs)
    engine = store.manifest(report.id).engine
    assert (engine["precision"], engine["tf32"], engine["compiled"]) == ("float16", False, False)
    ids = {"m": "m", "d": "d", "f": "f"}
    assert "precision" not in content_of(spec(), ids)
    assert content_of(spec(precision="float16"), ids)["precision"] == "float16"


@pytest.mark.parametrize(
    ("made", "solver", "words"),
    [("Flow", None, "needs a solver"), ("Generator", EULER, "takes no solver")],
)
def test_model_and_solver_go_together(refused, attempt, inputs, make_model, made, solver, words):
    known = INPUTS | {"model": Facts(PLAIN, made=made)}
    error = refused(spec(solver=solver), **known)
    assert error.field == "solver"
    assert words in error.what
    assert error.fix
    model = make_model(Flow if made == "Flow" else Generator)
    outcome = attempt(spec(solver=solver), model=model, **inputs)
    assert (outcome.failure, outcome.where) == ("UserError", "job 'it', solver")
    other = {"Flow": "Generator", "Generator": "Flow"}[made]
    spec(solver=solver).expect(INPUTS | {"model": Facts(PLAIN, made=other)})


@pytest.mark.parametrize("field", ["model", "features"])
@pytest.mark.parametrize("change", [{"size": 8}, {"channels": 3}])
def test_images_of_other_shapes_are_refused(refused, field, change):
    other = Facts(PLAIN.model_copy(update=change), made="Flow")
    error = refused(spec(), **INPUTS | {field: other})
    assert error.field == field
    assert "those of 'd' 4 x 4 x 1" in error.what


def test_classes_need_not_be_the_same():
    labelled = Facts(PLAIN.model_copy(update={"classes": 5}), made="Flow")
    assert spec().expect(INPUTS | {"model": labelled}) == Facts()


@pytest.mark.parametrize(
    ("changes", "real", "field"),
    [
        ({"samples": 3}, 100, "samples"),
        ({"samples": 10, "neighbours": 10}, 100, "samples"),
        ({"neighbours": 10}, 10, "data"),
        ({}, 3, "data"),
        ({"neighbours": 1}, 3, "data"),
    ],
)
def test_too_few_images_are_refused(refused, changes, real, field):
    error = refused(spec(**changes), **INPUTS | {"data": Facts(PLAIN, real)})
    assert error.field == field
    assert error.fix


@pytest.mark.parametrize(
    ("changes", "real"),
    [({"samples": 4, "neighbours": 3}, 4), ({"samples": 11, "neighbours": 10}, 11)],
)
def test_the_fewest_images_that_can_be_compared(
    run_job, inputs, make_dataset, make_model, changes, real
):
    data = make_dataset(count=real, classes=2)
    report = run_job(spec(**changes), **inputs | {"data": data, "model": make_model()})
    assert report.samples == changes["samples"]


def test_all_that_is_refused_is_reported(refused):
    known = {"model": Facts(PLAIN, made="Flow", part=1), "data": Facts(PLAIN, 3)}
    other = Facts(PLAIN.model_copy(update={"size": 8}))
    error = refused(spec(solver=None, samples=3), **known, features=other)
    fields = ["model", "solver", "features", "samples", "data"]
    assert [one.field for one in error.each] == fields


@pytest.mark.parametrize(
    ("changes", "real", "width", "reported"),
    [
        ({}, 60, 64, [("data", "only 60 images for 64 features"), ("data", "with 100 images")]),
        ({}, 100, None, []),
        ({}, 99, None, [("data", "only 99 images,")]),
        ({}, 99, 2, [("data", "only 99 images,"), ("data", "100 images or more")]),
        ({}, 2048, 2048, [("data", "covariance is singular"), ("data", "2049 images or more")]),
        ({}, 2049, 2048, []),
        ({}, None, 2048, []),
        ({"samples": 2048}, 5000, 2048, [("samples", "only 2048 samples for 2048 features")]),
        ({"samples": 99}, 5000, 64, [("samples", "only 99 samples,"), ("samples", "KID")]),
    ],
)
def test_a_frechet_distance_of_few_images_is_doubtful(changes, real, width, reported):
    known = INPUTS | {"data": Facts(PLAIN, real), "features": Facts(PLAIN, dimensions=width)}
    warnings = spec(**{"samples": 5000} | changes).warnings(known)
    assert {one.field for one in warnings} == {field for field, _ in reported}
    for field, words in reported:
        assert any(field == one.field and words in one.what + one.fix for one in warnings), words


def test_statistics_from_outside_are_not_of_the_few_images(statistics):
    known = INPUTS | {"data": Facts(PLAIN, 60), "features": Facts(PLAIN, dimensions=3)}
    assert spec(reference=str(statistics), samples=5000).warnings(known) == []


def test_doubts_are_kept_with_the_report(run_job, store, inputs, make_model, recorder):
    report = run_job(spec(), model=make_model(), **inputs)
    data, samples = store.manifest(report.id).notes
    assert data.startswith("data: 'd' has only 20 images, and a FID against them says little; ")
    assert samples.startswith("samples: a draw has only 20 samples")
    assert {"message": data} in recorder.said("warning")


def test_settings_that_cannot_be():
    for fields in ({"samples": 1}, {"neighbours": 0}, {"batch_size": 0}, {"solver": ["euler"]}):
        with pytest.raises(ValidationError):
            spec(**fields)


# Feature networks from outside, and statistics of someone else


@pytest.mark.parametrize(
    ("intake", "words"),
    [
        (Intake(3, None), "images of any size with 3 channels"),
        (Intake(None, 8), "images of 8 x 8 with any number of channels"),
    ],
)
def test_features_for_other_images_are_refused(refused, intake, words):
    error = refused(spec(), **INPUTS | {"features": Facts(intake=intake)})
    assert error.field == "features"
    assert words in error.what
    assert "4 x 4 x 1" in error.what
    spec().expect(INPUTS | {"features": Facts(intake=Intake(1, 4))})


@pytest.fixture
def statistics(tmp_path):
    file = tmp_path / "stats.npz"
    np.savez(file, mu=np.zeros(3), sigma=np.eye(3))
    return file


def test_a_reference_of_other_features_is_refused(refused, statistics):
    known = INPUTS | {"features": Facts(PLAIN, dimensions=4)}
    error = refused(spec(reference=str(statistics)), **known)
    assert error.field == "reference"
    assert "statistics of 3 features, 'f' makes 4" in error.what
    spec(reference=str(statistics)).expect(INPUTS | {"features": Facts(PLAIN, dimensions=3)})


def test_a_missing_or_wrong_reference_is_refused(refused, tmp_path):
    error = refused(spec(reference="nowhere.npz"), **INPUTS)
    assert (error.field, "'nowhere.npz'" in error.what) == ("reference", True)
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, mean=np.zeros(3))
    error = refused(spec(reference=str(wrong)), **INPUTS)
    assert "no array 'mu'" in error.what
    np.savez(wrong, mu=np.zeros(3), sigma=np.eye(2))
    with pytest.raises(UserError, match=r"sigma of shape \(2, 2\)"):
        spec(reference=str(wrong)).preflight()


def test_the_key_is_of_the_statistics_and_not_of_their_place(statistics, tmp_path):
    copy = tmp_path / "copy.npz"
    copy.write_bytes(statistics.read_bytes())
    ids = {"m": "1", "d": "2", "f": "3"}
    keys = {job_key(spec(reference=str(path)), ids) for path in (statistics, copy)}
    assert len(keys) == 1
    assert job_key(spec(), ids) not in keys
    assert job_key(spec(draws=2), ids) != job_key(spec(), ids)


def test_samples_are_measured_with_a_network_from_outside(run_job, inputs, make_model, make_onnx):
    features = run_job(ImportFeatures(path=str(make_onnx())))
    model = make_model(Generator)
    given = {"model": model, "data": inputs["data"], "features": features}
    report = run_job(spec(solver=None, draws=2), **given)
    assert report.protocol.features == features.id
    assert len(report.fids) == 2


def test_features_that_chose_the_weights_are_said_to_flatter():
    chosen = Facts(PLAIN, made="Flow", chosen_by=("f", "g"))
    known = INPUTS | {
        "data": Facts(PLAIN, 5000),
        "model": chosen,
        "features": Facts(PLAIN, dimensions=3),
    }
    named = spec(samples=5000, features="f").warnings(known)
    assert [one.field for one in named] == ["features"]
    assert "judge_features" in named[0].fix
    assert spec(samples=5000, features="other").warnings(known) == []
