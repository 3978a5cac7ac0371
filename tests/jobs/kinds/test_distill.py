import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from slimctl.jobs.base.artifacts import Generator
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.base.keys import job_key
from slimctl.jobs.kinds.distill import RECIPES, Distill
from slimctl.jobs.storage.flows import open_network
from slimctl.models.spec import ImageShape

NETWORK = {
    "kind": "song_unet",
    "channels": 4,
    "channel_multipliers": [1],
    "blocks": 1,
    "attention_resolutions": [],
    "middle_attention": False,
}
PLAIN = ImageShape(channels=1, size=4)
LABELLED = ImageShape(channels=1, size=4, classes=3)


def spec(**changes):
    fields = {"pairs": "p", "start": "s", "guide": "g", "steps": 2, "batch_size": 4, "seed": 0}
    return Distill.model_validate(fields | changes)


@pytest.mark.parametrize("classes", [0, 3])
def test_a_generator_is_distilled_from_a_flow(run_job, store, make_input, make_model, classes):
    pairs = make_input(classes)
    flow = make_model(label_counts=pairs.label_counts)
    generator = run_job(spec(two_step_batch=2), pairs=pairs, start=flow, guide=flow)
    assert isinstance(generator, Generator)
    assert (generator.image, generator.network) == (flow.image, flow.network)
    assert (generator.label_counts, generator.flip_valid) == (pairs.label_counts, True)
    assert (generator.t_start, generator.parameters) == (0.0, flow.parameters)
    network = open_network(store, generator, torch.device("cpu"))
    assert generator.parameters == sum(weight.numel() for weight in network.parameters())
    engine = store.manifest(generator.id).engine
    assert {"student_one_step_error", "guide_two_step_error"} <= set(engine)


def test_a_student_starts_from_the_flow(run_job, store, make_input, make_model):
    flow = make_model()
    generator = run_job(spec(learning_rate=1e-9), pairs=make_input(), start=flow, guide=flow)
    before, after = (load_file(store.file(each, each.file)) for each in (flow, generator))
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-7)


def test_naive_distillation_needs_no_flow_at_all(run_job, store, make_input):
    naive = spec(start=None, guide=None, network=NETWORK, two_step_weight=0)
    generator = run_job(naive, pairs=make_input())
    assert generator.network["channels"] == 4
    assert "guide_two_step_error" not in store.manifest(generator.id).engine


def test_a_guide_of_no_weight_is_not_used(run_job, store, make_input, make_model):
    flow = make_model()
    asked = spec(two_step_weight=0)
    generator = run_job(asked, pairs=make_input(), start=flow, guide=flow)
    assert "guide_two_step_error" not in store.manifest(generator.id).engine


def test_both_errors_of_a_guide_are_noted_without_a_verdict(
    run_job, store, make_input, make_model, recorder
):
    flow = make_model()
    manifest = store.manifest(run_job(spec(), pairs=make_input(), start=flow, guide=flow).id)
    assert {"student_one_step_error", "guide_two_step_error"} <= manifest.engine.keys()
    assert not manifest.notes
    assert recorder.said("warning") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start": None}, "give either start"),
        ({"network": NETWORK}, "give either start"),
        ({"guide": None}, "two_step_weight needs a guide"),
        ({"pair_weight": 0, "two_step_weight": 0}, "cannot both be 0"),
        ({"pair_weight": -1}, "greater than or equal to 0"),
        ({"two_step_times": (0.8, 0.2)}, "two rising times between 0 and 1"),
        ({"two_step_times": (0.0, 0.5)}, "two rising times"),
        ({"two_step_times": (0.5, 1.0)}, "two rising times"),
        ({"two_step_batch": 3, "workers": 2}, "two_step_batch 3 cannot be split"),
        ({"distance": {"kind": "l3"}}, "'l2', 'huber', 'lpips', 'lpips_huber'"),
        ({"distance": {"kind": "lpips"}}, r"distance\.lpips\.weights"),
    ],
)
def test_settings_that_contradict_each_other(changes, words):
    with pytest.raises(ValidationError, match=words):
        spec(**changes)


def test_flows_of_other_images_are_refused(refused, attempt, make_input, make_model):
    known = Facts(PLAIN, 10, flip_valid=True)
    for field in ("start", "guide"):
        inputs = {"pairs": known, "start": Facts(PLAIN), "guide": Facts(PLAIN)}
        assert refused(spec(), **inputs | {field: Facts(LABELLED)}).field == field
        flows = {"start": make_model(), "guide": make_model()}
        flows |= {field: make_model(label_counts=(1, 1, 1))}
        outcome = attempt(spec(), pairs=make_input(), **flows)
        assert (outcome.failure, outcome.where) == ("UserError", f"job 'it', {field}")
        assert f": {LABELLED}, not " in outcome.what


def test_what_fits_is_expected(make_model):
    known = Facts(LABELLED, 10, flip_valid=True)
    inputs = {"pairs": known, "start": Facts(LABELLED), "guide": Facts()}
    assert spec(flip=True).expect(inputs) == Facts(LABELLED, flip_valid=True)
    fresh = spec(start=None, network=NETWORK)
    assert fresh.expect({"pairs": Facts()}) == Facts(network=fresh.network)


def test_mirroring_and_networks_are_checked(refused):
    known = Facts(PLAIN, 10, flip_valid=False)
    assert refused(spec(flip=True), pairs=known).field == "flip"
    deep = NETWORK | {"channel_multipliers": [1] * 4}
    assert refused(spec(start=None, network=deep), pairs=known).field == "network"


def test_a_closed_form_has_no_weights_to_start_from(
    attempt, make_input, make_dataset, make_analytic
):
    flow = make_analytic(make_dataset(count=9))
    outcome = attempt(spec(), pairs=make_input(), start=flow, guide=flow)
    assert outcome.failure == "UserError"
    assert "closed form of a data set, which has no weights" in outcome.what


def test_a_closed_form_may_guide(
    run_job, store, make_input, make_dataset, make_analytic, make_model
):
    guide = make_analytic(make_dataset(count=9))
    generator = run_job(spec(), pairs=make_input(), start=make_model(), guide=guide)
    engine = store.manifest(generator.id).engine
    assert engine["guide_two_step_error"] < engine["student_one_step_error"]


def test_a_student_is_distilled_by_lpips(run_job, store, make_input, make_model, lpips_files):
    flow, pairs = make_model(), make_input()
    distance = {"kind": "lpips", **lpips_files, "size": 16}
    generator = run_job(spec(distance=distance), pairs=pairs, start=flow, guide=flow)
    assert store.work(generator.id).names() == [], "the weights are not kept"
    plain = run_job(spec(), pairs=pairs, start=flow, guide=flow)
    assert generator.id != plain.id


def test_a_missing_weight_file_is_refused(refused, lpips_files):
    distance = {"kind": "lpips", **lpips_files, "weights": "nowhere.pth"}
    error = refused(spec(distance=distance), pairs=Facts(PLAIN), start=None, guide=None)
    assert error.field == "distance.weights"
    assert "vgg16-397923af.pth" in error.fix


INPUTS = {"p": "pairs-1", "s": "flow-1", "g": "flow-2"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_fills_in_what_is_not_given(recipe):
    fields = {"pairs": "p", "start": "s", "guide": "g", "steps": 3}
    made = Distill.model_validate(fields | {"recipe": recipe})
    spelt_out = Distill.model_validate(fields | dict(RECIPES[recipe]))
    assert made.model_copy(update={"recipe": None}) == spelt_out
    assert job_key(made, INPUTS) == job_key(spelt_out, INPUTS)
    own = Distill.model_validate(fields | {"recipe": recipe, "two_step_weight": 0.7})
    assert (own.two_step_weight, own.distance) == (0.7, made.distance)
    assert Distill.model_validate(made.model_dump()) == made


def test_an_unknown_recipe_is_refused():
    fields = {"pairs": "p", "start": "s", "guide": "g", "steps": 3}
    with pytest.raises(ValidationError, match="slimflow_huber"):
        Distill.model_validate(fields | {"recipe": "best"})


def test_a_closed_form_is_no_start_before_anything_runs(refused):
    error = refused(spec(), pairs=Facts(PLAIN), start=Facts(PLAIN, closed_form=True), guide=Facts())
    assert error.field == "start"
    assert error.what == "'s' is the closed form of a data set, which has no weights"
