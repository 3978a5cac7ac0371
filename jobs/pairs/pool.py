"""A pool of Ray actors that outlives its actors.

Each actor has a bounded number of items in flight; the items of a dead actor are handed out again,
and an item that kills its actor three times is named instead of being tried for ever.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from jobs.base.errors import JobFailed

ItemT = TypeVar("ItemT")
IN_FLIGHT = 2
MAX_KILLS = 3


class Pool(Generic[ItemT]):
    """Hands items to actors and collects results in whatever order they finish.

    Args:
        actors: handles of actors with a method `make(item)`, created with `max_restarts=-1` and
            `max_task_retries=0`.
        name: of the job, for errors.
    """

    def __init__(self, actors: list[Any], name: str) -> None:
        self._actors = actors
        self._name = name
        self._kills: dict[ItemT, int] = defaultdict(int)

    def run(self, items: Iterable[ItemT], on_done: Callable[[ItemT, Any], None]) -> None:
        """Works through all items.

        Args:
            items: hashable descriptions of work.
            on_done: called here with each item and its result.

        Raises:
            JobFailed: items that killed their actor three times; all others are done.
            Exception: whatever `make` raised by itself.
        """
        import ray  # noqa: PLC0415
        from ray.exceptions import RayActorError  # noqa: PLC0415

        waiting = list(items)[::-1]
        poison: list[ItemT] = []
        flying: dict[Any, _Flight[ItemT]] = {}
        load = [0] * len(self._actors)
        while waiting or flying:
            self._hand_out(waiting, flying, load)
            finished, _ = ray.wait(list(flying), num_returns=1)
            for future in finished:
                flight = flying.pop(future)
                load[flight.actor] -= flight.weight
                try:
                    result = ray.get(future)
                except RayActorError:
                    self._requeue(flight.item, waiting, poison)
                else:
                    on_done(flight.item, result)
        if poison:
            listed = ", ".join(str(item) for item in sorted(poison, key=str))
            raise JobFailed(
                f"job '{self._name}'",
                f"{len(poison)} item(s) killed their actor {MAX_KILLS} times: {listed}",
                "look at the memory of the machines; submit again to retry only these",
            )

    def _hand_out(
        self, waiting: list[ItemT], flying: "dict[Any, _Flight[ItemT]]", load: list[int]
    ) -> None:
        """Fills the actors; an item that was in flight at a death gets an actor to itself."""
        while waiting:
            suspect = self._kills[waiting[-1]] > 0
            weight = IN_FLIGHT if suspect else 1
            actor = load.index(min(load))
            if load[actor] + weight > IN_FLIGHT:
                return
            item = waiting.pop()
            flying[self._actors[actor].make.remote(item)] = _Flight(actor, item, weight)
            load[actor] += weight

    def _requeue(self, item: ItemT, waiting: list[ItemT], poison: list[ItemT]) -> None:
        self._kills[item] += 1
        if self._kills[item] >= MAX_KILLS:
            poison.append(item)
        else:
            waiting.insert(0, item)  # last in line: the others are done whatever becomes of it


@dataclass(frozen=True)
class _Flight(Generic[ItemT]):
    """An item on its way through an actor."""

    actor: int
    item: ItemT
    weight: int
