"""A pool of Ray actors that outlives its actors.

Each actor has a bounded number of items in flight; the items of a dead actor are handed out again,
and an item that kills its actor three times is named instead of being tried for ever.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from jobs.base.errors import JobFailed

ItemT = TypeVar("ItemT")
IN_FLIGHT = 2
MAX_KILLS = 3
PROBE_PAUSE_S = 0.5


@dataclass(frozen=True)
class _Flight(Generic[ItemT]):
    """An item on its way through an actor."""

    actor: int
    life: int
    """Which life of the actor it was given to: a restart begins a new one."""
    item: ItemT
    weight: int


class Pool(Generic[ItemT]):
    """Hands items to actors and collects results in whatever order they finish.

    An actor gets items once it has answered: those that find no place on the cluster yet hold up
    nothing, and join when they do.

    Args:
        actors: handles of actors with methods `ready()` and `make(item)`, created with
            `max_restarts=-1` and `max_task_retries=0`.
        name: of the job, for errors.
        describe: an item in words, for errors.
    """

    def __init__(
        self, actors: list[Any], name: str, describe: Callable[[ItemT], str] = str
    ) -> None:
        self._actors = actors
        self._name = name
        self._describe = describe
        self._kills: dict[ItemT, int] = defaultdict(int)
        self._load: dict[int, int] = {}
        """Items in flight of each actor that has answered."""
        self._flying: dict[Any, _Flight[ItemT]] = {}
        self._probes: dict[Any, int] = {}
        self._lives = [0] * len(actors)

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

        waiting = list(items)[::-1]
        poison: list[ItemT] = []
        for actor in range(len(self._actors)):
            self._probe(actor)
        while waiting or self._flying:
            self._hand_out(waiting)
            finished, _ = ray.wait([*self._flying, *self._probes], num_returns=1)
            for future in finished:
                if future in self._probes:
                    self._answered(future)
                else:
                    self._land(future, waiting, poison, on_done)
        if poison:
            listed = ", ".join(sorted(map(self._describe, poison)))
            raise JobFailed(
                f"job '{self._name}'",
                f"{len(poison)} item(s) killed their actor {MAX_KILLS} times: {listed}",
                "look at the memory of the machines; submit again to retry only these",
            )

    def _probe(self, actor: int) -> None:
        """Asks an actor that is starting or starting again whether it is there."""
        self._load.pop(actor, None)
        self._lives[actor] += 1
        if actor not in self._probes.values():
            self._probes[self._actors[actor].ready.remote()] = actor

    def _answered(self, future: Any) -> None:
        import ray  # noqa: PLC0415

        actor = self._probes.pop(future)
        try:
            _value(future)
        except ray.exceptions.ActorUnavailableError:
            time.sleep(PROBE_PAUSE_S)
            self._probe(actor)
        except ray.exceptions.ActorDiedError as error:
            # It restarts without end, so this is its constructor raising: that is an answer too.
            raise JobFailed(f"job '{self._name}'", f"an actor could not start: {error}") from error
        else:
            self._load[actor] = 0

    def _land(
        self,
        future: Any,
        waiting: list[ItemT],
        poison: list[ItemT],
        on_done: Callable[[ItemT, Any], None],
    ) -> None:
        import ray  # noqa: PLC0415

        flight = self._flying.pop(future)
        same_life = flight.life == self._lives[flight.actor]
        if same_life:
            self._load[flight.actor] -= flight.weight
        try:
            result = _value(future)
        except ray.exceptions.RayActorError:
            if same_life:
                self._probe(flight.actor)
            self._requeue(flight.item, waiting, poison)
        else:
            on_done(flight.item, result)

    def _hand_out(self, waiting: list[ItemT]) -> None:
        """Fills the actors; an item that was in flight at a death gets an actor to itself.

        The last items are kept for actors that are still starting: with few long ones, the first
        actor to answer would work through them alone.
        """
        while waiting and self._load:
            suspect = self._kills[waiting[-1]] > 0
            weight = IN_FLIGHT if suspect else 1
            actor = min(self._load, key=lambda each: self._load[each])
            kept = self._load[actor] > 0 and len(waiting) <= len(self._probes)
            if kept or self._load[actor] + weight > IN_FLIGHT:
                return
            item = waiting.pop()
            flight = _Flight(actor, self._lives[actor], item, weight)
            self._flying[self._actors[actor].make.remote(item)] = flight
            self._load[actor] += weight

    def _requeue(self, item: ItemT, waiting: list[ItemT], poison: list[ItemT]) -> None:
        self._kills[item] += 1
        if self._kills[item] >= MAX_KILLS:
            poison.append(item)
        else:
            waiting.insert(0, item)  # last in line: the others are done whatever becomes of it


def _value(future: Any) -> Any:
    """The result behind a future; an error of the actor's own code is raised as itself."""
    import ray  # noqa: PLC0415

    try:
        return ray.get(future)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise
