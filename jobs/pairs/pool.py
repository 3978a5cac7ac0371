"""A pool of Ray actors that outlives its actors.

Each actor has a bounded number of items in flight; the items of a dead actor are handed out again,
each alone on an actor, and one that goes on killing actors so is named instead of being tried for
ever. A node that goes, or a kill from outside, is not held against an item.

Whoever looks at a process that is gone cannot tell what killed it: an item that takes all memory
and an operator send the same signal. So an item that was in flight at a death is only a suspect,
and is run alone. It is convicted by `CONVICTING` deaths of actors that ran nothing else, each with
a pause before it, none of them explained by anything else: the node is there, the process is not,
and no other actor of the pool ended at about the same time. Kills from outside would have to hit
the same item four times, the first time and each time it runs alone again; where one run in ten is
killed from outside that is one item in ten thousand, and an item that does kill costs four deaths.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from slimctl.jobs.base.cluster import NodeSize
from slimctl.jobs.base.deaths import Death, DeathWatch
from slimctl.jobs.base.errors import JobFailed, OutOfMemory, Preempted, WorkLost

ItemT = TypeVar("ItemT", bound=Hashable)
CONVICTING = 3
"""Deaths, each of an actor that ran the item alone."""
TOGETHER_S = 5.0
"""Actors that end within this time of each other end of the same cause."""
PAUSE_S = 2.0
"""Between a death and the next run alone, doubled each time: outside trouble passes meanwhile."""


@dataclass(frozen=True)
class Life:
    """One process of an actor, as it tells itself."""

    node: str
    pid: int

    @classmethod
    def here(cls) -> "Life":
        """Of the process that asks."""
        import ray  # noqa: PLC0415

        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        return cls(node, os.getpid())


def lost_nodes() -> set[str]:
    """Nodes that the cluster had and has no more."""
    import ray  # noqa: PLC0415

    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


@dataclass
class _Death:
    """The end of a life with an item in flight."""

    actor: int
    life: Any
    """What the actor had answered; only a `Life` tells anything."""
    alone: bool
    at_s: float
    settled: bool = False
    """Whether the actor has answered since: then the cluster knows whether its node is gone."""


@dataclass
class Suspicion(Generic[ItemT]):
    """What speaks for and against the items of a pool."""

    lost: Callable[[], set[str]] = lost_nodes
    _deaths: dict[ItemT, list[_Death]] = field(default_factory=lambda: defaultdict(list))
    _ends: list[tuple[int, float]] = field(default_factory=list)
    """Every end of an actor's life that was noticed, and when."""
    _lives: dict[int, Any] = field(default_factory=dict)
    """What each actor answered last."""

    def ended(self, actor: int) -> None:
        """An actor seems to be dead."""
        self._ends.append((actor, time.monotonic()))

    def was_in_hand(self, item: ItemT, actor: int, *, alone: bool) -> None:
        """An item was in flight then."""
        death = _Death(actor, self._lives.get(actor), alone, time.monotonic())
        self._deaths[item].append(death)

    def answered(self, actor: int, life: Any) -> None:
        """An actor is there, for the first time or again."""
        before = self._lives.get(actor)
        self._lives[actor] = life
        unbroken = isinstance(life, Life) and life == before
        if isinstance(before, Life) and not unbroken and not self._is_known(actor):
            self.ended(actor)  # while it was idle
        for item, deaths in self._deaths.items():
            mine = [death for death in deaths if death.actor == actor and not death.settled]
            for death in mine:
                death.settled = True
            if unbroken:
                self._deaths[item] = [death for death in deaths if death not in mine]

    def _is_known(self, actor: int) -> bool:
        now = time.monotonic()
        return any(other == actor and now - at < TOGETHER_S for other, at in self._ends)

    def is_suspect(self, item: ItemT) -> bool:
        """Whether it has to run alone."""
        return bool(self._held_against(item))

    def ran_alone(self, item: ItemT) -> bool:
        """Whether it is under watch: one such item at a time, so that ends of others count."""
        return any(death.alone for death in self._held_against(item))

    def may_run(self, item: ItemT) -> bool:
        """Whether the pause after its last death is over."""
        alone = [death.at_s for death in self._held_against(item) if death.alone]
        return not alone or time.monotonic() >= alone[-1] + PAUSE_S * 2 ** (len(alone) - 1)

    def blamed(self, item: ItemT) -> set[int]:
        """Actors that died with it: the next run is better on another one."""
        return {death.actor for death in self._deaths.get(item, [])}

    def is_convicted(self, item: ItemT) -> bool:
        """Whether nothing but the item explains the deaths."""
        counted = [death for death in self._held_against(item) if death.alone and death.settled]
        return sum(not self._has_company(death) for death in counted) >= CONVICTING

    def _held_against(self, item: ItemT) -> list[_Death]:
        deaths = self._deaths.get(item, [])
        if not deaths:
            return []
        lost = self.lost()
        return [each for each in deaths if _node(each.life) not in lost]

    def _has_company(self, death: _Death) -> bool:
        return any(
            actor != death.actor and abs(at - death.at_s) < TOGETHER_S for actor, at in self._ends
        )


def _node(life: Any) -> str:
    return life.node if isinstance(life, Life) else ""


IN_FLIGHT = 2
PROBE_PAUSE_S = 0.5
WATCH_S = 0.5
"""How often a pool with items in line looks whether one of them may run now."""


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
            `max_restarts=-1` and `max_task_retries=0`. `ready` returns `Life.here()`: without that
            a node that is lost is not distinguished from a process that died.
        name: of the job, for errors.
        describe: an item in words, for errors.
        leaving: why no further items are to be begun; "" while they are.
    """

    def __init__(
        self,
        actors: list[Any],
        name: str,
        describe: Callable[[ItemT], str] = str,
        leaving: Callable[[], str] = str,
    ) -> None:
        self._actors = actors
        self._name = name
        self._describe = describe
        self._leaving = leaving
        self._suspicion = Suspicion[ItemT]()
        self._load: dict[int, int] = {}
        """Items in flight of each actor that has answered."""
        self._flying: dict[Any, _Flight[ItemT]] = {}
        self._probes: dict[Any, int] = {}
        self._lives = [0] * len(actors)
        self._deaths = DeathWatch()
        self._last_death = Death("")

    def run(self, items: Iterable[ItemT], on_done: Callable[[ItemT, Any], None]) -> None:
        """Works through all items.

        Args:
            items: hashable descriptions of work.
            on_done: called here with each item and its result.

        Raises:
            JobFailed: items that kill their actor whenever they run alone; all others are done.
            OutOfMemory: an item that ran alone on its actor had too little of the node's memory.
            Preempted: there was a reason to leave; what was in hand then is done.
            WorkLost: every actor was ended for good by somebody else.
            Exception: whatever `make` raised by itself.
        """
        waiting = list(items)[::-1]
        poison: list[ItemT] = []
        for actor in range(len(self._actors)):
            self._probe(actor)
        while waiting or self._flying:
            self._convict(waiting, poison)
            reason = self._leaving() if waiting else ""
            if reason and not self._flying:
                what = f"{reason}: {len(waiting)} item(s) are left"
                raise Preempted(f"job '{self._name}'", what)
            if not reason:
                self._hand_out(waiting)
            for future in self._finished(waiting):
                if future in self._probes:
                    self._answered(future)
                else:
                    self._land(future, waiting, on_done)
        if poison:
            listed = ", ".join(sorted(map(self._describe, poison)))
            run = f"{len(poison)} item(s), run alone,"
            raise JobFailed(
                f"job '{self._name}'",
                f"{run} killed their actor {CONVICTING} times: {listed}\n"
                f"  the last time: {self._last_death.what}",
                self._last_death.fix or "submit again to retry only these",
            )

    def there(self) -> list[Any]:
        """The actors that are there, as far as is known."""
        return [self._actors[actor] for actor in self._load]

    def _finished(self, waiting: list[ItemT]) -> list[Any]:
        """Waits for a call to end; with items in line no longer than `WATCH_S`."""
        import ray  # noqa: PLC0415

        calls = [*self._flying, *self._probes]
        if calls:
            return list(ray.wait(calls, num_returns=1, timeout=WATCH_S if waiting else None)[0])
        if waiting and not self._load:
            raise WorkLost(f"job '{self._name}'", "all its actors were ended from outside")
        time.sleep(WATCH_S)
        return []

    def _convict(self, waiting: list[ItemT], poison: list[ItemT]) -> None:
        """Takes what kills out of the line."""
        found = [item for item in waiting if self._suspicion.is_convicted(item)]
        for item in found:
            waiting.remove(item)
        poison += found

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
            life = _value(future)
        except ray.exceptions.ActorDiedError as error:
            # It restarts without end: either its constructor raised, or somebody ended it for good.
            if error.actor_init_failed:
                what = f"an actor could not start: {error}"
                raise JobFailed(f"job '{self._name}'", what) from error
        except ray.exceptions.RayActorError:
            time.sleep(PROBE_PAUSE_S)
            self._probe(actor)
        else:
            self._suspicion.answered(actor, life)
            self._load[actor] = 0

    def _land(
        self, future: Any, waiting: list[ItemT], on_done: Callable[[ItemT, Any], None]
    ) -> None:
        import ray  # noqa: PLC0415

        flight = self._flying.pop(future)
        same_life = flight.life == self._lives[flight.actor]
        if same_life:
            self._load[flight.actor] -= flight.weight
        try:
            result = _value(future)
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            self._last_death = self._deaths.explain(error)
            alone = flight.weight == IN_FLIGHT
            if same_life:
                self._suspicion.ended(flight.actor)
                self._probe(flight.actor)
            self._suspicion.was_in_hand(flight.item, flight.actor, alone=alone)
            if alone:
                if self._last_death.failure is OutOfMemory:
                    what = f"{self._describe(flight.item)}, run alone: {self._last_death.what}"
                    where = f"job '{self._name}'"
                    raise OutOfMemory(where, what, self._last_death.fix) from error
                self._look_around()
            waiting.insert(0, flight.item)  # last in line: the others are done whatever it does
        except ray.exceptions.ObjectLostError:
            waiting.append(flight.item)  # it was made, and its result went with a node
        else:
            on_done(flight.item, result)

    def _look_around(self) -> None:
        """Asks the idle actors whether they are there, too: what ended them ended this one."""
        for actor in [each for each, load in self._load.items() if load == 0]:
            self._probe(actor)

    def _hand_out(self, waiting: list[ItemT]) -> None:
        """Fills the actors; an item that was in flight at a death gets an actor to itself.

        The last items are kept for actors that are still starting: with few long ones, the first
        actor to answer would work through them alone.
        """
        while waiting and self._load:
            at = self._next(waiting)
            if at is None:
                return
            weight = IN_FLIGHT if self._suspicion.is_suspect(waiting[at]) else 1
            blamed = self._suspicion.blamed(waiting[at])
            actor = min(self._load, key=lambda each: (self._load[each], each in blamed))
            kept = self._load[actor] > 0 and len(waiting) <= len(self._probes)
            if kept or self._load[actor] + weight > IN_FLIGHT:
                return
            item = waiting.pop(at)
            flight = _Flight(actor, self._lives[actor], item, weight)
            self._flying[self._actors[actor].make.remote(item)] = flight
            self._load[actor] += weight

    def _next(self, waiting: list[ItemT]) -> int | None:
        """Place of the first item in line that may run now; those under watch run one at a time."""
        flying = (flight.item for flight in self._flying.values())
        watched = any(map(self._suspicion.ran_alone, flying))
        for at in reversed(range(len(waiting))):
            item = waiting[at]
            held = watched and self._suspicion.ran_alone(item)
            if self._suspicion.may_run(item) and not held:
                return at
        return None


def start_actors(cls: type, part: NodeSize, size: int, *arguments: Any) -> list[Any]:
    """Actors for a pool.

    Args:
        cls: their class, with the methods that a pool asks for.
        part: devices that each one occupies.
        size: how many.
        arguments: of the constructor.
    """
    import ray  # noqa: PLC0415

    options: dict[str, Any] = {"num_cpus": part.cpus, "num_gpus": part.gpus}
    options |= {"max_restarts": -1, "max_task_retries": 0, "max_concurrency": IN_FLIGHT}
    return [ray.remote(cls).options(**options).remote(*arguments) for _ in range(size)]


def describe_device(device: torch.device) -> str:
    """The device in words, with the id that Ray assigned to this process if it assigned one."""
    import ray  # noqa: PLC0415

    assigned = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return f"{name} (gpu {','.join(map(str, assigned))})" if assigned else name


def _value(future: Any) -> Any:
    """The result behind a future; an error of the actor's own code is raised as itself."""
    import ray  # noqa: PLC0415

    try:
        return ray.get(future)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise
