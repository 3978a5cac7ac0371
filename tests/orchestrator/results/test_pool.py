import math

import pytest
from builders import RUN
from measured import put_report, put_run, put_student

from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.results.collect import collect
from slimctl.orchestrator.results.lineage import Lineage
from slimctl.orchestrator.results.pool import Comparison, Number, beats, compare, is_seed


def compared(store, *things: str) -> Comparison:
    return compare(collect(store, list(things), {}), Lineage(store))


def test_seeds_are_pooled_with_students_interval(store):
    small, large = sorted(compared(store).rows, key=lambda row: row.name, reverse=True)
    assert (small.name, large.name) == ("students.width=8.quality", "students.width=16.quality")
    fid = small.numbers["fid"]
    assert fid.mean == pytest.approx(11.0)
    assert fid.half == pytest.approx(4.302653 * 1.0 / math.sqrt(3), rel=1e-6)  # t(0.975, 2), sd 1
    assert small.numbers["parameters"] == Number(800.0, 0.0)
    assert [one.job for one in small.results] == [
        f"students.width=8.seed={seed}.quality" for seed in range(3)
    ]


def test_the_best_comes_first_and_only_what_differs_is_named(store):
    made = compared(store)
    assert [row.numbers["fid"].mean for row in made.rows] == [5.5, 11.0]
    assert made.differing == ("model.network.channels",)
    assert [row.settings["model.network.channels"] for row in made.rows] == [16, 8]
    assert made.rows[0].settings["model.steps"] == 100
    assert not any(is_seed(name) for name in made.rows[0].settings)
    assert [row.front for row in made.rows] == [True, False]  # of equal latency
    assert [axis.name for axis in made.axes] == ["fid", "latency_ms"]


def test_a_row_that_another_beats_is_not_on_the_front(store):
    worse = put_report(store, "x", put_student(store, "x", steps=7), fid=20.0, parameters=900)
    put_run(store, "other-20260102-120000-aaaa", {"slow": worse}, {})
    found = collect(store, [RUN, "other"], {})
    made = compare(found, Lineage(store), ("fid", "parameters"))
    assert {row.name.partition("/")[2]: row.front for row in made.rows} == {
        "students.width=16.quality": True, "students.width=8.quality": True, "slow": False,
    }  # fmt: skip
    assert set(made.differing) == {"model.network.channels", "model.steps"}


def test_differences_are_paired_by_seed_and_ties_are_marked(store):
    """Differences to the first row of 5, 5.5, 6 (exact numbers of Student's t with two degrees)."""
    made = compared(store)
    above = made.rows[1].above_first
    half = 4.302653 * 0.5 / math.sqrt(3)  # the differences are 5, 5.5, 6: standard deviation 0.5
    assert (above.mean, above.count) == (5.5, 3)
    assert above.high == pytest.approx(5.5 + half, rel=1e-6)
    assert made.rows[0].above_first is None
    assert not made.rows[1].tied
    for seed, fid in enumerate((6.0, 5.4, 5.9)):  # above by 1.0, -0.1, -0.1
        model = put_student(store, f"near{seed}", steps=7, seed=seed)
        one = put_report(store, f"near{seed}", model, fid=fid)
        put_run(store, f"near-2026010{seed + 2}-120000-aaaa", {"near": one}, {})
    runs = [f"near-2026010{seed + 2}-120000-aaaa" for seed in range(3)]
    rows = {row.name.rpartition("/")[2]: row for row in compared(store, RUN, *runs).rows}
    assert rows["near"].tied
    assert rows["near"].above_first.mean == pytest.approx(0.8 / 3)
    (alone,) = compared(store, runs[0]).rows
    assert not alone.tied


def put_alone(store, name: str, **measured: object) -> None:
    """A run with one measured student."""
    one = put_report(store, name, put_student(store, name, note=name), **measured)
    put_run(store, f"{name}-20260102-120000-aaaa", {name: one}, {})


def front_of(store, *names: str, axes: tuple[str, ...] = ()) -> dict[str, str]:
    """Name -> mark of the front, of rows that `put_alone` put."""
    made = compare(collect(store, list(names), {}), Lineage(store), axes)
    return {
        row.results[0].job: "*" * row.front + "=" * row.tied_front for row in made.rows
    }  # fmt: skip


def test_ten_steps_do_not_hide_one_of_the_same_network(store):
    """They have the same parameters; on latency and multiply-adds both are on the front."""
    put_alone(store, "ten", fid=1.37, nfe=10.0, latency_ms=30.86)
    put_alone(store, "one", fid=1.38, nfe=1.0, latency_ms=2.85)
    put_alone(store, "bad", fid=2.56, nfe=1.0, latency_ms=3.32)
    names = ("ten", "one", "bad")
    assert front_of(store, *names) == {"ten": "*", "one": "*", "bad": ""}
    assert front_of(store, *names, axes=("fid", "sample_macs"))["one"] == "*"
    assert front_of(store, *names, axes=("fid", "parameters"))["one"] == ""


def test_latencies_of_unlike_devices_make_no_front(store):
    put_alone(store, "ten", fid=1.0, nfe=10.0, latency_ms=1.0, device="cuda")
    put_alone(store, "one", fid=2.0, nfe=1.0, latency_ms=3.0)
    assert front_of(store, "ten", "one") == {"ten": "*", "one": "*"}
    made = compared(store, "ten", "one")
    assert [axis.name for axis in made.axes] == ["fid", "sample_macs"]


@pytest.mark.parametrize(
    ("fids", "latency_ms", "mark"),
    [
        ((5.1, 5.4, 6.2), 1.5, "="),  # beaten by 0.07 +- 0.41 at the same cost: a tie
        ((5.1, 5.4, 6.2), 9.0, ""),  # as good, but surely dearer
        ((5.4, 5.6, 5.2), 9.0, "*="),  # better by 0.1 +- 0.9, and dearer
        ((3.4, 4.6, 4.2), 9.0, "*"),  # surely better
    ],
)
def test_ties_on_the_front_are_marked(store, fids, latency_ms, mark):
    """Against FIDs of 5, 5.5 and 6 at 1.5 ms, seed by seed."""
    for seed, fid in enumerate(fids):
        model = put_student(store, f"near{seed}", steps=7, seed=seed)
        one = put_report(store, f"near{seed}", model, fid=fid, latency_ms=latency_ms)
        put_run(store, f"near-2026010{seed + 2}-120000-aaaa", {"near": one}, {})
    runs = [f"near-2026010{seed + 2}-120000-aaaa" for seed in range(3)]
    rows = {row.results[0].job: row for row in compared(store, RUN, *runs).rows}
    near = rows["near"]
    assert "*" * near.front + "=" * near.tied_front == mark


def test_who_beats_whom():
    assert beats((1, 2), (1, 3))
    assert not beats((1, 2), (1, 2))
    assert not beats((1, 3), (2, 2))


def test_hours_are_those_behind_a_model_and_sharing_saves(store):
    made = compared(store)
    assert made.rows[0].hours == {"CPU": pytest.approx(3.0)}  # two of training, one of pairs
    assert made.spent == {"CPU": pytest.approx(6 * 2 + 1)}
    assert made.saved == {"CPU": pytest.approx(5 * 1)}


def test_gpu_hours_are_reported_apart(store):
    one = put_report(store, "g", put_student(store, "g", device="cuda", steps=9), fid=1.0)
    put_run(store, "gpu-20260102-120000-aaaa", {"quality": one}, {})
    (row,) = compared(store, "gpu").rows
    assert row.hours == {"CPU": pytest.approx(1.0), "GPU": pytest.approx(2.0)}


def test_results_of_other_devices_are_not_pooled(store):
    for at, threads in enumerate((1, 2)):
        one = put_report(store, f"t{at}", put_student(store, f"t{at}", seed=at), threads=threads)
        put_run(store, f"t{at}-2026010{at + 2}-120000-aaaa", {"quality": one}, {})
    made = compared(store, "t0", "t1")
    assert len(made.rows) == 2
    assert made.differing == ("threads",)
    assert {row.name for row in made.rows} == {
        "t0-20260102-120000-aaaa/quality", "t1-20260103-120000-aaaa/quality",
    }  # fmt: skip


def test_the_same_result_of_two_runs_is_one(store):
    put_run(store, "again-20260103-120000-aaaa", {"best": "evaluate-w16s0"}, {})
    made = compared(store, RUN, "again")
    assert sum(len(row.results) for row in made.rows) == 6


def test_seeds_of_several_runs_are_pooled(store):
    for seed in range(2):
        one = put_report(store, f"s{seed}", put_student(store, f"s{seed}", steps=5, seed=seed))
        put_run(store, f"s{seed}-2026010{seed + 2}-120000-aaaa", {"quality": one}, {})
    (row,) = compared(store, "s0", "s1").rows
    assert (row.name, len(row.results)) == ("quality", 2)


def test_unlike_protocols_are_refused(store):
    one = put_report(store, "many", put_student(store, "many"), samples=5000)
    put_run(store, "many-20260102-120000-aaaa", {"quality": one}, {})
    with pytest.raises(UserError) as caught:
        compared(store, RUN, "many")
    assert caught.value.what == (
        f"these FIDs were taken with unlike samples: samples 200 in "
        f"{RUN}/students.width=8.seed=0.quality, {RUN}/students.width=8.seed=1.quality, "
        f"{RUN}/students.width=8.seed=2.quality and 3 more; samples 5000 in "
        "many-20260102-120000-aaaa/quality"
    )
    assert len(compared(store, "many").rows) == 1


def test_all_that_is_unlike_is_named(store):
    model = put_student(store, "many")
    one = put_report(store, "a", model, features="train_features-0123456789abcdef")
    other = put_report(store, "b", model, samples=7)
    put_run(store, "many-20260102-120000-aaaa", {"a": one, "b": other}, {})
    with pytest.raises(UserError, match="unlike features and samples") as caught:
        compared(store, "many")
    assert "features train_features-012345, samples 200 in" in caught.value.what


def test_lineage_reads_settings_through_every_input(store):
    settings = Lineage(store).settings("anneal_reflow-w8s0")
    assert settings["pairs.count"] == 100
    assert settings["pairs.flow.data.source"] == "digits"
    assert settings["pairs.flow.data.id"] == "load_dataset-d0"
    assert settings["learning_rate"] == 2e-4  # a default
    assert "workers" not in settings
    assert Lineage(store).shape("anneal_reflow-w8s0") == (
        "anneal_reflow(pairs=generate_pairs(flow=analytic_flow(data=load_dataset())))"
    )
