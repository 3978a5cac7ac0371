"""Which items of a pool kill their actors, and which were only there when an actor was killed.

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
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

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
