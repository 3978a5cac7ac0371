"""A stand-in for the few functions of Ray that the orchestrator calls, in this process."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """Base of Ray's errors."""


class RayActorError(RayError):
    """An actor is gone."""


class ActorUnavailableError(RayActorError):
    """An actor is away for a while."""


class GetTimeoutError(RayError):
    """No answer in time."""


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Future:
    """What a call gives; `value` may be an error, `ready` says when it is there."""

    def __init__(self, value: Any, ready: Callable[[], bool] = lambda: True) -> None:
        self.value = value
        self.ready = ready


class Method:
    """A method of an actor."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def remote(self, *arguments: Any) -> Future:
        try:
            return Future(self._function(*arguments))
        except RayError as error:
            return Future(error)


class Actor:
    """An actor whose methods are those of `target`."""

    def __init__(self, target: Any, options: dict[str, Any]) -> None:
        self.target = target
        self.options = options

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self.target, name))


class FakeRay:
    """Takes the place of the module `ray`.

    Args:
        clock: moved on by waiting.
        make: makes the object behind an actor from its class and arguments.
    """

    exceptions = SimpleNamespace(
        RayError=RayError,
        RayActorError=RayActorError,
        ActorUnavailableError=ActorUnavailableError,
        GetTimeoutError=GetTimeoutError,
    )

    def __init__(
        self, clock: Clock, make: Callable[..., Any] = lambda cls, *arguments: cls(*arguments)
    ) -> None:
        self._clock = clock
        self._make = make
        self.actors: list[Actor] = []
        self.killed: list[Actor] = []

    def remote(self, cls: type) -> Any:
        """`ray.remote(cls).options(...).remote(...)` makes an actor at once."""

        def options(**chosen: Any) -> Any:
            def start(*arguments: Any) -> Actor:
                for actor in self.actors:
                    known = chosen.get("get_if_exists") and actor not in self.killed
                    if known and actor.options.get("name") == chosen["name"]:
                        return actor
                self.actors.append(Actor(self._make(cls, *arguments), chosen))
                return self.actors[-1]

            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def kill(self, actor: Actor) -> None:
        if actor in self.killed:
            raise RayActorError("it is dead already")
        self.killed.append(actor)

    def get(self, future: Future, timeout: float | None = None) -> Any:
        del timeout
        if isinstance(future.value, Exception):
            raise future.value
        return future.value

    def wait(
        self, futures: Sequence[Future], num_returns: int, timeout: float
    ) -> tuple[list[Future], list[Future]]:
        ready = [future for future in futures if future.ready()][:num_returns]
        if not ready:
            self._clock.sleep(timeout)
        return ready, [future for future in futures if future not in ready]
