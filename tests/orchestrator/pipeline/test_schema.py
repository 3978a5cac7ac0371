import json

import pytest
from jsonschema import Draft202012Validator

from slimctl.jobs.base.registry import kind_names
from slimctl.orchestrator.pipeline.pipeline import parse_pipeline, to_data
from slimctl.orchestrator.pipeline.schema import pipeline_schema
from slimctl.orchestrator.pipeline.source import parse_document

TEXT = """\
name: digits
jobs:
  data: {kind: load_dataset, source: digits}
  teacher:
    kind: train_flow
    data: data
    network: {kind: song_unet, channels: 32, channel_multipliers: [1, 2]}
    steps: 3000
  small: {kind: train_flow, data: data, network: {preset: cifar10-7.0m}, steps: 1}
  pairs: {kind: generate_pairs, flow: teacher, count: 20, solver: {kind: euler, steps: 5}}
"""


@pytest.fixture(scope="module")
def schema():
    return pipeline_schema()


def errors_of(schema, data):
    return list(Draft202012Validator(schema).iter_errors(data))


def test_it_is_a_schema_of_the_latest_draft(schema):
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)
    json.dumps(schema)


def test_every_kind_is_in_it(schema):
    job = schema["properties"]["jobs"]["additionalProperties"]["else"]
    assert job["properties"]["kind"]["enum"] == list(kind_names())
    assert len(job["allOf"]) == len(kind_names())


def test_a_good_pipeline_fits(schema):
    loaded = parse_pipeline(TEXT.replace("[1, 2]", "[1]"), "f.yaml")
    assert errors_of(schema, loaded.document.data) == []
    assert errors_of(schema, to_data(loaded.pipeline)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: digits", "nam: digits"),
        ("name: digits", "name: a b"),
        ("load_dataset", "load_datasets"),
        ("kind: load_dataset, ", ""),
        ("source: digits", "sauce: digits"),
        ("steps: 3000", "steps: 0"),
        ("data: data", "data: [data]"),
        ("channels: 32", "channels: many"),
        ("kind: euler", "kind: rk54"),
        ("  small:", "  small one:"),
    ],
)
def test_a_bad_one_does_not(schema, old: str, new: str):
    data = parse_document(TEXT.replace(old, new, 1), "f.yaml")
    assert errors_of(schema, data.data)


def test_references_are_text_and_say_what_they_name(schema):
    fields = schema["$defs"]["GeneratePairs"]["properties"]
    assert fields["flow"]["type"] == "string"
    assert fields["flow"]["description"] == "The teacher. Name of a job that makes: Flow."
    assert next(iter(fields)) == "kind"


def test_fields_are_described(schema):
    steps = schema["$defs"]["TrainFlow"]["properties"]["steps"]
    assert steps["description"] == "Optimizer steps."
    assert schema["properties"]["seed"]["description"] == "Seed of the jobs that name none."
