"""Leases: who may make a result, supervise a run or write its log, over any storage.

A lease is a sealed blob that its holder writes again every few seconds while it lives. One that is
not renewed, or whose process is gone from this machine, has lost its holder. An object store has no
lock and no compare-and-swap here, but it shows a finished write to every later listing. So the
first come keeps a result (`Lock`): it writes a claim, then lists the claims; alone, it holds the
lock, else it takes its claim back and asks again: two can never both be alone. Without it results
are right, too: it saves double work and keeps files that a reader has open. The last come takes
over a log (`next_claim`): only what stands under the highest number counts.
"""

import contextlib
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.storage.sealed import seal, unseal

FOLDER = "locks"
RENEW_EVERY_S = 5.0
DEAD_AFTER_S = 30.0
"""A lease that did not change for so long has lost its holder."""
RETURN_S = 15.0
"""How long a holder that is started again when it dies is expected back, since it last renewed."""
ASK_EVERY_S = 1.0
LOOK_EVERY_S = 0.25


def host_name() -> str:
    """Name of this machine since it started, so that a process number means something."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text().strip() if boot.is_file() else ""
    return f"{socket.gethostname()} {started}"


def process_is_gone(host: str, pid: int) -> bool:
    """Whether a process certainly is; False if it may live, such as on another machine."""
    if host != host_name():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


class Lease:
    """A sign of life, written again and again by one process and read by others.

    It says for whom it works, and whether somebody starts it again when it dies.
    """

    def __init__(
        self, blobs: Blobs, name: str, owner: str = "", *, comes_back: bool = False
    ) -> None:
        self._blobs = blobs
        self.name = name
        self._says = {"host": host_name(), "pid": os.getpid(), "owner": owner, "back": comes_back}

    def renew(self) -> None:
        """Says that this process holds it, and lives."""
        self._blobs.write(self.name, seal({"time": time.time(), **self._says}))

    def end(self) -> None:
        """Says that nobody holds it."""
        self._blobs.delete(self.name)

    def holder(self) -> Mapping[str, Any]:
        """What its holder said last; empty if nobody holds it, or it cannot be read."""
        try:
            return unseal(self._blobs.read(self.name))
        except (FileNotFoundError, ValueError):
            return {}

    def is_alive(self) -> bool:
        """Whether its holder renewed it within 30 s, by this machine's clock.

        One that ran on this machine is dead as soon as its process is, unless it comes back.
        """
        said, valid = self.holder(), DEAD_AFTER_S
        if said and process_is_gone(said["host"], said["pid"]):
            valid = RETURN_S if said["back"] else 0.0
        return bool(said) and time.time() - said["time"] < valid

    def is_renewed(self, within_s: float) -> bool:
        """Whether a living holder renews it within that time, whatever clocks say; waits for it.

        False as soon as it is dead.
        """
        first, deadline = self.holder(), time.monotonic() + within_s
        while time.monotonic() < deadline and self.is_alive():
            if self.holder() not in (first, {}):
                return True
            time.sleep(LOOK_EVERY_S)
        return False


class Lock(Lease):
    """The right to make one result: a claim of its own, and a look at those of others.

    A claim of the same owner is an earlier attempt's and is taken over.
    """

    def __init__(self, blobs: Blobs, name: str, owner: str) -> None:
        self._prefix = f"{FOLDER}/{name}."
        super().__init__(blobs, f"{self._prefix}{secrets.token_hex(8)}.json", owner)
        self._owner = owner
        self._watched: dict[str, tuple[bytes, float]] = {}
        self._taken_over: set[str] = set()
        self._over = threading.Event()
        self._lost = threading.Event()

    @property
    def lost(self) -> bool:
        """Whether another attempt of the same owner, or somebody who took us for dead, has it."""
        return self._lost.is_set()

    @contextlib.contextmanager
    def held(
        self, is_needless: Callable[[], bool], on_wait: Callable[[str], None]
    ) -> Iterator[bool]:
        """Waits for the lock and holds it; gives False if it is not needed any more.

        `is_needless` is asked before each attempt, `on_wait` called once with who has it.
        """
        waits = False
        while (holder := self._ask()) is not None:
            if not waits:
                on_wait(holder)
                waits = True
            time.sleep(ASK_EVERY_S * random.uniform(0.7, 1.3))
            if is_needless():
                yield False
                return
        beat = threading.Thread(target=self._keep, daemon=True)
        beat.start()
        try:
            yield not is_needless()
        finally:
            self._over.set()
            beat.join()
            with contextlib.suppress(OSError):
                self.end()

    def _ask(self) -> str | None:
        """Takes the lock, or says who has it."""
        holder = self._other()
        if holder is None:
            self.renew()
            holder = self._other()
            if holder is not None:
                self.end()
        return holder

    def _other(self) -> str | None:
        """The owner of a claim that is neither ours nor a dead maker's."""
        found: str | None = None
        for name in self._blobs.names(FOLDER):
            if not name.startswith(self._prefix) or name == self.name:
                continue
            try:
                data = self._blobs.read(name)
            except FileNotFoundError:
                continue
            except OSError:  # renewed while it was read, or out of reach for now
                data = b""
            owner = self._owner_of(name, data)
            if owner is None:
                self._taken_over.add(name)
                self._blobs.delete(name)
            else:
                found = owner
        return found

    def _owner_of(self, name: str, data: bytes) -> str | None:
        """The owner behind a claim; None if it is dead or an earlier attempt of ours."""
        known = self._watched.get(name)
        since = known[1] if known and known[0] == data else time.monotonic()
        self._watched[name] = (data, since)
        if time.monotonic() - since > DEAD_AFTER_S:
            return None
        try:
            said = unseal(data)
        except ValueError:
            return "a maker whose claim cannot be read"
        dead = process_is_gone(said["host"], said["pid"]) or said["owner"] == self._owner
        return None if dead else str(said["owner"])

    def _keep(self) -> None:
        while not self._over.wait(RENEW_EVERY_S):
            with contextlib.suppress(OSError):  # a storage that stumbles: the next beat will do
                if not self._blobs.exists(self.name):
                    self._lost.set()
                    return
                for name in self._taken_over:  # renewed at the moment when it was removed
                    self._blobs.delete(name)
                self.renew()


def next_claim(claims: Iterable[str]) -> str:
    """A claim, `<number>-<token>`, that fences off all others; by name the highest one holds."""
    return f"{1 + max(map(claim_number, claims), default=0):06d}-{secrets.token_hex(4)}"


def claim_number(claim: str) -> int:
    """Number of a claim; -1 for a name that is none."""
    head, _, token = claim.partition("-")
    return int(head) if head.isdecimal() and token else -1
