"""The gate before the jobs of trials; the jobs themselves run in the tests on Ray."""

import asyncio
import contextlib

import pytest

from slimctl.jobs.search.place import Gate


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (("a", 1, 0), ("b", 1, 0), True),
        (("a", 2, 0), ("b", 1, 0), False),
        (("a", 1, 0), ("a", 1, 0), False),
        (("a", 0, 1), ("b", 0, 1), False),
        (("a", 0, 1), ("b", 2, 0), True),
    ],
)
def test_the_gate_lets_in_what_there_is_room_for(first, second, together):
    async def both() -> list[str]:
        gate = Gate(cpus=2, gpus=1)
        order: list[str] = []
        await gate.enter("trial 1", *first)

        async def late() -> None:
            await gate.enter("trial 2", *second)
            order.append("second in")
            await gate.leave("trial 2")

        waiting = asyncio.create_task(late())
        await asyncio.sleep(0.01)
        order.append("first out")
        await gate.leave("trial 1")
        await waiting
        return order

    expected = ["second in", "first out"]
    assert asyncio.run(both()) == (expected if together else expected[::-1])


def test_who_stops_waiting_takes_no_room():
    async def both() -> str:
        gate = Gate(cpus=1, gpus=0)
        await gate.enter("trial 1", "a", 1, 0)
        waiting = asyncio.create_task(gate.enter("trial 2", "b", 1, 0))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await gate.leave("trial 1")
        await asyncio.wait_for(gate.enter("trial 3", "c", 1, 0), timeout=5)
        return "c is in"

    assert asyncio.run(both()) == "c is in"


def test_a_trial_that_died_inside_waits_neither_for_itself_nor_in_the_way():
    async def again() -> dict[str, float]:
        gate = Gate(cpus=2, gpus=1)
        await gate.enter("trial 1", "a", 2, 1)  # and nothing more is heard of it
        await asyncio.wait_for(gate.enter("trial 1", "a", 2, 1), timeout=5)
        await gate.leave("trial 1")  # its second process died too, which Tune says
        await gate.leave("trial 1")
        return gate._free

    assert asyncio.run(again()) == {"cpus": 2, "gpus": 1}
