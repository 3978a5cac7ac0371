import pytest
from pydantic import ValidationError

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.subgraph import outside_names, trial_jobs, trial_spec, trial_specs
from slimctl.orchestrator.graph import identities
from slimctl.orchestrator.pipeline import Pipeline

NETWORK = {"kind": "song_unet", "channels": "${width}", "channel_multipliers": [1], "blocks": 1}
TEMPLATES = {
    "quality": {"kind": "evaluate", "model": "student", "data": "data", "features": "features",
                "solver": {"kind": "euler", "steps": 2}},
    "student": {"kind": "train_flow", "data": "data", "network": NETWORK, "steps": "${steps}",
                "seed": 5},
}  # fmt: skip
VALUES = {"width": 8, "steps": 30}
OUTSIDE = {"data": "load_dataset-d0", "features": "train_features-f0"}


def artifacts(templates=TEMPLATES, values=VALUES, seed=0) -> dict[str, str]:
    made = trial_jobs(trial_specs(templates, values, seed), OUTSIDE)
    return {job.name: job.artifact for job in made}


# Names


def test_jobs_that_are_none_of_the_templates_are_outside():
    assert outside_names(TEMPLATES, {}) == ["data", "features"]
    alone = {"student": TEMPLATES["student"]}
    assert outside_names(alone, {}) == ["data"]
    assert outside_names({}, {}) == []


def test_every_value_of_a_variable_that_names_jobs_is_outside():
    templates = {"student": {**TEMPLATES["student"], "data": "${set}"}}
    assert outside_names(templates, {"set": ["faces", "digits"], "steps": [1, 2]}) == [
        "faces",
        "digits",
    ]
    assert outside_names(templates, {"steps": [1, 2]}) == [], "it cannot be counted"
    inside = {"a": {**TEMPLATES["student"]}, "q": {**TEMPLATES["quality"], "model": "${which}"}}
    assert outside_names(inside, {"which": ["a", "b"]}) == ["data", "b", "features"]


def test_a_field_may_name_many_jobs():
    fleet = {"kind": "assemble_fleet", "partition": "split", "students": ["a", "${b}", "a"]}
    assert outside_names({"fleet": fleet}, {"b": ["c"]}) == ["split", "a", "c"]


def test_a_kind_that_does_not_exist():
    with pytest.raises(UserError, match="no job kind 'train_flo'"):
        outside_names({"x": {"kind": "train_flo"}}, {})
    with pytest.raises(UserError, match="no job kind 'train_flo'"):
        trial_spec({"kind": "train_flo"}, {}, 0)


# Specs


def test_values_are_filled_in_and_inputs_come_first():
    specs = trial_specs(TEMPLATES, VALUES, 3)
    assert list(specs) == ["student", "quality"]
    assert specs["student"].steps == 30
    assert specs["student"].network.channels == 8


def test_a_seed_is_for_jobs_that_draw_and_name_none():
    specs = trial_specs(TEMPLATES, VALUES, 3)
    assert (specs["student"].seed, specs["quality"].seed) == (5, 3)
    data = trial_spec({"kind": "load_dataset", "source": "digits"}, {}, 3)
    assert not hasattr(data, "seed")


def test_a_value_that_a_job_refuses():
    with pytest.raises(ValidationError, match="steps"):
        trial_specs(TEMPLATES, {**VALUES, "steps": 0}, 0)


def test_a_circle_is_told_with_all_that_wait_for_it():
    circle = {
        "data": {"kind": "load_dataset", "source": "digits"},
        "one": {"kind": "train_flow", "data": "two", "network": NETWORK, "steps": 1},
        "two": {"kind": "train_flow", "data": "one", "network": NETWORK, "steps": 1},
        "quality": {**TEMPLATES["quality"], "model": "two"},
    }
    with pytest.raises(ValueError, match="the jobs one, two, quality need each other in a circle"):
        trial_specs(circle, VALUES, 0)


# Addresses


def test_results_have_the_addresses_that_a_pipeline_gives_them():
    """So that a trial takes what a pipeline made, and the other way round."""
    student = {**TEMPLATES["student"], "network": {**NETWORK, "channels": 8}, "steps": 30}
    data = {"kind": "load_dataset", "source": "digits"}
    features = {"kind": "train_features", "data": "data", "seed": 0}
    quality = {**TEMPLATES["quality"], "seed": 3}
    jobs = {"data": data, "features": features, "student": student, "quality": quality}
    ids = {name: found.id for name, found in identities(Pipeline(name="x", jobs=jobs)).items()}
    outside = {name: ids[name] for name in ("data", "features")}
    made = trial_jobs(trial_specs(TEMPLATES, VALUES, 3), outside)
    assert {job.name: job.artifact for job in made} == {
        name: ids[name] for name in ("student", "quality")
    }
    assert made[1].inputs == {"student": ids["student"], **outside}


def test_what_follows_a_change_has_another_address():
    before = artifacts()
    assert artifacts(seed=4)["student"] == before["student"], "it has a seed of its own"
    assert artifacts(seed=4)["quality"] != before["quality"]
    after = artifacts(values={**VALUES, "steps": 31})
    assert after["student"] != before["student"]
    assert after["quality"] != before["quality"]


def test_what_a_template_is_called_does_not_count():
    renamed = {
        "pupil": TEMPLATES["student"],
        "quality": {**TEMPLATES["quality"], "model": "pupil"},
    }
    assert artifacts(renamed)["pupil"] == artifacts()["student"]
    assert artifacts(renamed)["quality"] == artifacts()["quality"]
