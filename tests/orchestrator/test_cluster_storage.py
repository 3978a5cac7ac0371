import sys
from types import ModuleType, SimpleNamespace

import pytest
from fake_ray import Clock, FakeRay, Future, RayError

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.cluster_storage import check_shared


class FakeTasks(FakeRay):
    """Tasks that run at once, each on a node that sees the storage, or not."""

    def __init__(self, nodes: dict[str, bool | None]) -> None:
        super().__init__(Clock())
        self._nodes = nodes

    def nodes(self):
        return [
            {"Alive": True, "NodeID": name, "NodeManagerAddress": name,
             "NodeManagerHostname": f"host of {name}"}
            for name in self._nodes
        ]  # fmt: skip

    def remote(self, function):
        def options(*, scheduling_strategy, **chosen):
            assert chosen["num_cpus"] == 0
            sees = self._nodes[scheduling_strategy]

            def start(uri, name, content):
                if sees is None:
                    return Future(RayError("gone"))
                return Future(function(uri if sees else f"{uri}/elsewhere", name, content))

            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def wait(self, futures, num_returns, timeout):
        return futures, []


@pytest.fixture
def nodes(monkeypatch):
    def make(**sees: bool | None) -> None:
        monkeypatch.setitem(sys.modules, "ray", FakeTasks(sees))
        strategies = ModuleType("strategies")
        strategies.NodeAffinitySchedulingStrategy = lambda node, soft: node
        monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)

    return make


def test_a_storage_that_all_nodes_see(nodes, tmp_path):
    nodes(one=True, two=True)
    check_shared(Store(str(tmp_path)))
    assert Store(str(tmp_path)).blobs.names() == []


def test_nodes_that_do_not_see_it_are_named_with_the_reason(nodes, tmp_path):
    nodes(one=True, two=False, three=None)
    with pytest.raises(UserError, match=r"cannot be seen from 2 node\(s\)") as caught:
        check_shared(Store(str(tmp_path)))
    assert "two (FileNotFoundError" in caught.value.what
    assert "three (no answer: RayError)" in caught.value.what
    assert "s3://" in caught.value.fix
    assert str(tmp_path) in caught.value.where
    assert Store(str(tmp_path)).blobs.names() == [], "the probe is taken away"
