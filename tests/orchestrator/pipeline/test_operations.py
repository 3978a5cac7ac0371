"""Prices, budgets, timeouts and channels in a pipeline file."""

import pytest

from slimctl.jobs.base.duration import seconds
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems, warnings
from slimctl.orchestrator.pipeline.operations import Price
from slimctl.orchestrator.pipeline.pipeline import Pipeline, parse_pipeline, resolve
from slimctl.orchestrator.pipeline.schema import pipeline_schema
from slimctl.orchestrator.planning.graph import Graph, identities, preflight

JOBS = "jobs:\n  data: {kind: load_dataset, source: digits}\n"


def parsed(top: str, jobs: str = JOBS) -> Pipeline:
    return parse_pipeline(f"name: x\n{top}\n{jobs}", "x.yaml").pipeline


@pytest.mark.parametrize(
    ("text", "found"),
    [("90m", 5400), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400), ("45s", 45), ("1d 2h", 93600)],
)
def test_durations_are_read(text, found):
    assert seconds(text) == found


def test_none_of_it_enters_a_key():
    plain = identities(resolve(parsed("")))
    more = parsed(
        "price: {gpu_hour: 2}\nbudget: {cost: 5}\nnotify: [{kind: webhook, url_env: HOOK}]",
        JOBS.replace("digits}", "digits, timeout: 2h}"),
    )
    assert more.jobs["data"].timeout == 7200
    assert identities(resolve(more)) == plain


@pytest.mark.parametrize(
    ("top", "line", "what"),
    [
        ("budget: {}", 2, "no limit is given"),
        ("budget: {cost: 5}", 1, "budget.cost needs a price"),
        ("budget: {time: 8x}", 2, "'8x' is no duration"),
        ("budget: {time: 0}", 2, "budget.time"),
        ("price: {gpu_hour: -1}", 2, "price.gpu_hour"),
        ("price: {gpu_hours: 1}", 2, "gpu_hours"),
        ("notify: []", 2, "notify"),
        ("notify: [{kind: telegram}]", 2, "telegram"),
        ("notify: [{kind: webhook, url: 'https://hooks/secret'}]", 2, "url"),
        ("notify: [{kind: webhook, url_env: 'https://hooks/secret'}]", 2, "url_env"),
        ("notify: [{kind: mail, to: [me], sender: a@b.org}]", 2, "to"),
        (
            "notify: [{kind: mail, to: [a@b.org], sender: a@b.org, user_env: U, password_env: P}]",
            2, "starttls or tls",
        ),
        ("notify: [{kind: command, command_env: C, on: [begun]}]", 2, "on"),
    ],
)  # fmt: skip
def test_mistakes_are_found_where_they_stand(top, line, what):
    with pytest.raises(PipelineProblems) as caught:
        parsed(top)
    assert [problem.line for problem in caught.value.problems][:1] == [line]
    assert what in str(caught.value)


def test_a_variable_that_is_not_set_is_a_warning(monkeypatch):
    pipeline = parsed("notify: [{kind: webhook, url_env: HOOK_OF_TEST}]")
    graph = Graph.of(pipeline)
    facts = preflight(pipeline, graph)
    (warning,) = warnings(pipeline, graph, facts)
    assert (warning.line, warning.what) == (
        2, "notify.0.url_env: the variable HOOK_OF_TEST is not set here",
    )  # fmt: skip
    monkeypatch.setenv("HOOK_OF_TEST", "https://hooks/secret")
    assert warnings(pipeline, graph, facts) == []


def test_costs_are_those_of_the_devices_that_work():
    price = Price(gpu_hour=2.5, cpu_hour=0.1, currency="EUR")
    assert price.of({"GPU": 4.0, "CPU": 10.0}) == 11.0
    assert [price.text(cost) for cost in (1234.5, 0.001, 0.0)] == [
        "1,234.50 EUR", "<0.01 EUR", "0.00 EUR",
    ]  # fmt: skip


def test_editors_know_both_forms_of_notify():
    definitions = pipeline_schema()["$defs"]
    assert [one.get("type") for one in definitions["Notify"]["anyOf"]] == ["object", "array"]
    assert {"Price", "Budget", "Webhook", "Mail", "Command"} <= set(definitions)
