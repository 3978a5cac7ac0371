import pytest
from growth import growth
from hypothesis import given, settings
from hypothesis import strategies as st

from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.orchestrator.running.scheduler import Node, Scheduler

ONE = Needs(cpus=1, gpus=0)
GPU = Needs(cpus=0, gpus=1)


def scheduler(edges: dict[str, str], cpus: int = 99, gpus: int = 0, **needs: Needs) -> Scheduler:
    """Jobs with single letters as inputs, each in need of one CPU unless `needs` says otherwise."""
    nodes = [Node(name, list(inputs), needs.get(name, ONE)) for name, inputs in edges.items()]
    return Scheduler(nodes, Cluster(cpus=cpus, gpus=gpus))


def start_all(plan: Scheduler) -> list[str]:
    """Starts what can start; returns it in that order."""
    started = []
    while (name := plan.next_startable()) is not None:
        plan.start(name)
        started.append(name)
    return started


DIAMOND = {"a": "", "b": "a", "c": "a", "d": "bc"}


def test_a_diamond_runs_from_top_to_bottom():
    plan = scheduler(DIAMOND)
    assert start_all(plan) == ["a"]
    plan.finish("a")
    assert start_all(plan) == ["b", "c"]
    plan.finish("c")
    assert start_all(plan) == []
    plan.finish("b")
    assert start_all(plan) == ["d"]
    assert not plan.over
    plan.finish("d")
    assert plan.over


def test_no_jobs_are_over_at_once():
    assert scheduler({}).over


def test_an_input_named_twice_is_waited_for_once():
    plan = scheduler({"a": "", "b": "aa"})
    start_all(plan)
    plan.finish("a")
    assert start_all(plan) == ["b"]


def test_the_longest_path_goes_first():
    plan = scheduler({"x": "", "y": "", "a": "", "b": "a", "c": "b", "z": "y"}, cpus=1)
    order = []
    while not plan.over:
        order += start_all(plan)
        plan.finish(order[-1])
    assert order == ["a", "y", "b", "x", "c", "z"]


def test_the_path_with_the_most_work_goes_first():
    """Work counts before the number of jobs, which decides where none is known."""
    flop = {"a": 1.0, "b": 5.0, "c": 9.0}
    nodes = [Node(name, inputs, ONE, flop.get(name, 0.0)) for name, inputs in (
        ("x", []), ("y", ["x"]), ("z", ["y"]), ("a", []), ("b", ["a"]), ("c", []),
    )]  # fmt: skip
    plan = Scheduler(nodes, Cluster(cpus=1))
    order = []
    while not plan.over:
        order += start_all(plan)
        plan.finish(order[-1])
    assert order == ["c", "a", "b", "x", "y", "z"]


def test_equals_go_in_file_order():
    assert start_all(scheduler(dict.fromkeys("cab", ""))) == ["c", "a", "b"]


def test_devices_are_shared_out():
    plan = scheduler(dict.fromkeys("abc", ""), cpus=2)
    assert start_all(plan) == ["a", "b"]
    plan.finish("a")
    assert start_all(plan) == ["c"]


def test_a_small_job_passes_a_big_one_that_does_not_fit():
    plan = scheduler({"a": "", "b": "", "c": "b", "d": ""}, cpus=2, b=Needs(2, 0))
    plan.start("a")
    assert start_all(plan) == ["d"]
    plan.finish("a")
    plan.finish("d")
    assert start_all(plan) == ["b"]


def test_a_big_job_is_not_passed_for_ever():
    """A training of 8 GPUs beside a sweep whose trials follow each other on all of them."""
    whole = Node("train", [], Needs(0, 8), flop=9.0)
    trials = [Node(f"trial{at}", [], GPU) for at in range(60)]
    plan = Scheduler(trials[:16], Cluster(cpus=99, gpus=16))
    running = start_all(plan)
    plan.add([whole, *trials[16:], Node("load", [], ONE)])
    passed = 0
    while "train" not in running:
        plan.finish(running.pop(0))
        started = start_all(plan)
        passed += sum(name.startswith("trial") for name in started)
        running += started
    assert passed == 8
    assert "load" in running, "what takes none of its devices goes on"
    assert len(running) == 1 + 8 + 1


def test_gpus_and_cpus_are_counted_apart():
    plan = scheduler(dict.fromkeys("abcd", ""), cpus=1, gpus=2, a=GPU, b=GPU, c=GPU)
    assert start_all(plan) == ["a", "b", "d"]


def test_a_job_alone_always_fits():
    huge = Needs(cpus=64, gpus=8)
    plan = scheduler(dict.fromkeys("abc", ""), cpus=2, a=huge, b=huge)
    assert start_all(plan) == ["a"], "alone, and nothing beside it"
    plan.finish("a")
    assert start_all(plan) == ["b"]
    plan.finish("b")
    assert start_all(plan) == ["c"]


def test_a_failure_blocks_just_what_needs_it():
    plan = scheduler({**DIAMOND, "e": "d", "f": "", "g": "f", "h": "fb"})
    start_all(plan)
    plan.finish("a")
    start_all(plan)
    assert plan.fail("b") == ["d", "e", "h"]
    assert plan.fail("c") == [], "what is blocked is said once"
    plan.finish("f")
    assert start_all(plan) == ["g"]
    plan.finish("g")
    assert plan.over


def test_a_finished_job_is_not_blocked_by_an_input_that_fails_later():
    plan = scheduler({"a": "", "b": "a", "c": "b"})
    plan.finish("b")
    assert start_all(plan) == ["a", "c"]
    assert plan.fail("a") == []


def test_a_job_whose_result_is_there_is_never_started():
    plan = scheduler({"a": "", "b": "a", "c": "b"})
    plan.finish("b")
    assert start_all(plan) == ["a", "c"]
    plan.finish("a")
    assert start_all(plan) == []
    plan.finish("c")
    assert plan.over


def test_a_job_that_is_requeued_runs_again():
    plan = scheduler({"a": "", "b": ""}, cpus=1)
    assert start_all(plan) == ["a"]
    plan.pause("a")
    assert not plan.over
    assert start_all(plan) == ["b"], "a paused job holds no devices"
    plan.finish("b")
    assert start_all(plan) == []
    assert not plan.over
    plan.requeue("a")
    assert start_all(plan) == ["a"]
    plan.finish("a")
    assert plan.over


def test_a_job_fails_before_it_was_started():
    plan = scheduler({"a": "", "b": "a"})
    assert plan.fail("a") == ["b"]
    assert plan.over


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 12))
    nodes = []
    for at in range(count):
        inputs = draw(st.sets(st.integers(0, at - 1), max_size=3)) if at else set()
        needs = Needs(draw(st.sampled_from([0, 1, 2, 5])), draw(st.sampled_from([0, 0, 1, 3])))
        nodes.append(Node(str(at), [str(name) for name in inputs], needs))
    return nodes


@given(graphs(), st.data())
@settings(deadline=None, max_examples=150)
def test_any_graph_comes_to_its_end(nodes, data):
    """Each job ends once, after its inputs, within the devices, whatever fails or is repeated."""
    cluster = Cluster(cpus=3, gpus=1)
    by_name = {node.name: node for node in nodes}
    plan = Scheduler(nodes, cluster)
    running: set[str] = set()
    paused: set[str] = set()
    finished: set[str] = set()
    lost: set[str] = set()
    for _ in range(20 * len(nodes) + 20):
        if plan.over:
            break
        while (name := plan.next_startable()) is not None:
            assert name not in running | paused | finished | lost
            assert set(by_name[name].inputs) <= finished
            running.add(name)
            plan.start(name)
        if len(running) > 1:
            assert sum(by_name[name].needs.cpus for name in running) <= cluster.cpus
            assert sum(by_name[name].needs.gpus for name in running) <= cluster.gpus
        assert running or paused, "something always goes on"
        name = data.draw(st.sampled_from(sorted(running | paused)))
        what = data.draw(st.sampled_from(["finish", "fail", "pause", "finish"]))
        if name in paused:
            plan.requeue(name)
            paused.remove(name)
            continue
        running.remove(name)
        if what == "pause":
            plan.pause(name)
            paused.add(name)
        elif what == "finish":
            plan.finish(name)
            finished.add(name)
        else:
            lost |= {name, *plan.fail(name)}
    else:
        return  # it was paused for ever
    assert finished | lost == set(by_name)
    assert not finished & lost
    assert all(not set(node.inputs) & lost for node in nodes if node.name in finished)


@pytest.mark.parametrize("shape", ["independent", "chain", "fan"])
def test_ten_thousand_jobs_take_time_in_proportion(shape):
    def inputs(at: int, last: int) -> list[str]:
        if shape == "independent" or at == 0:
            return []
        if shape == "chain":
            return [str(at - 1)]
        return ["0"] if at < last else [str(each) for each in range(last)]

    def run(count: int) -> None:
        nodes = [Node(str(at), inputs(at, count - 1), ONE) for at in range(count)]
        plan = Scheduler(nodes, Cluster(cpus=8))
        done = 0
        while not plan.over:
            for name in start_all(plan):
                plan.finish(name)
                done += 1
        assert done == count

    assert growth(run, 1000, 10_000) < 3


def test_a_cluster_that_grows_is_used_and_one_that_shrinks_is_not_waited_for():
    nodes = [Node(name, [], Needs(2, 0)) for name in "abc"]
    scheduler = Scheduler(nodes, Cluster(cpus=2))
    assert start_all(scheduler) == ["a"]
    scheduler.resize(Cluster(cpus=4), {name: Needs(2, 0) for name in "abc"})
    assert start_all(scheduler) == ["b"]
    scheduler.resize(Cluster(cpus=1), {name: Needs(1, 0) for name in "abc"})
    assert start_all(scheduler) == []
    scheduler.finish("a")
    scheduler.finish("b")
    assert start_all(scheduler) == ["c"]
    scheduler.finish("c")
    assert scheduler.over


def waiting(**needs: Needs) -> Scheduler:
    """Jobs laid out for 8 GPUs of a cluster that has one CPU."""
    nodes = [Node(name, [], one) for name, one in needs.items()]
    return Scheduler(nodes, Cluster(cpus=9, gpus=8), Cluster(cpus=1))


def test_jobs_wait_for_gpus_that_are_expected_and_others_go_on():
    plan = waiting(train=Needs(4, 4, parts=4), load=ONE, score=GPU)
    assert plan.awaited_gpus() == [1] * 5
    assert start_all(plan) == ["load"]
    plan.finish("load")
    assert start_all(plan) == [], "alone, too"
    assert not plan.over
    needs = {"train": Needs(8, 4, parts=4), "load": ONE, "score": Needs(2, 1)}
    plan.resize(Cluster(cpus=12, gpus=8), needs, Cluster(cpus=9, gpus=4))
    assert start_all(plan) == ["train"]
    assert plan.awaited_gpus() == [1], "what runs is not asked for again"
    plan.resize(Cluster(cpus=16, gpus=8), needs)
    assert plan.awaited_gpus() == []
    assert start_all(plan) == ["score"]


def test_no_more_gpus_are_asked_for_than_expected():
    jobs = {f"trial{at}": GPU for at in range(20)}
    plan = waiting(whole=Needs(0, 4), huge=Needs(0, 9), **jobs)
    assert plan.awaited_gpus() == [4, 1, 1, 1, 1], "parts of a job that lie on one node do so"
    assert waiting(load=ONE).awaited_gpus() == [], "work on CPUs rents no GPU"
    assert start_all(waiting(huge=Needs(0, 9))) == ["huge"], "nobody expects as many"
