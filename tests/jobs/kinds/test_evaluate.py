import pytest
from pydantic import ValidationError

from jobs.base.artifacts import Flow, Generator
from jobs.base.facts import Facts
from jobs.evaluation import quality
from jobs.kinds.evaluate import Evaluate
from jobs.kinds.train_features import TrainFeatures
from models.spec import ImageShape

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


def test_settings_that_cannot_be():
    for fields in ({"samples": 1}, {"neighbours": 0}, {"batch_size": 0}, {"solver": ["euler"]}):
        with pytest.raises(ValidationError):
            spec(**fields)
