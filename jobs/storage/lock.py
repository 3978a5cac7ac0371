"""One maker at a time for each result, over any storage.

An object store has no lock and no compare-and-swap here, but it shows a finished write to every
later listing. So a maker writes a claim, then lists the claims: alone, it holds the lock; else it
takes its claim back and asks again a little later. Two can never both be alone. A claim is renewed
while its maker lives; that of a dead maker is removed. Results are right without this: it saves
double work, and keeps one maker from replacing files that a reader has open.
"""

import contextlib
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.storage.sealed import seal, unseal

FOLDER = "locks"
BEAT_S = 5.0
DEAD_AFTER_S = 30.0
"""A claim that did not change for so long has lost its maker."""
ASK_EVERY_S = 1.0
MOST_PATIENCE = 8


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


class WorkLock:
    """The right to make one result.

    Args:
        blobs: the storage.
        name: of the work, such as an artifact id.
        owner: who asks; a claim of the same owner is an earlier attempt's and is taken over.
    """

    def __init__(self, blobs: Blobs, name: str, owner: str) -> None:
        self._blobs = blobs
        self._prefix = f"{FOLDER}/{name}."
        self._owner = owner
        self._mine = f"{self._prefix}{secrets.token_hex(8)}.json"
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

        Args:
            is_needless: asked before each attempt to take the lock.
            on_wait: told once who has it.
        """
        told = False
        while (holder := self._ask()) is not None:
            if not told:
                on_wait(holder)
                told = True
            time.sleep(ASK_EVERY_S * random.uniform(0.7, 1.3))
            if is_needless():
                yield False
                return
        beat = threading.Thread(target=self._renew, daemon=True)
        beat.start()
        try:
            yield not is_needless()
        finally:
            self._over.set()
            beat.join()
            with contextlib.suppress(OSError):
                self._blobs.delete(self._mine)

    def _ask(self) -> str | None:
        """Takes the lock, or says who has it."""
        holder = self._other()
        if holder is None:
            self._write()
            holder = self._other()
            if holder is not None:
                self._blobs.delete(self._mine)
        return holder

    def _write(self) -> None:
        claim = {"owner": self._owner, "host": host_name(), "pid": os.getpid(), "time": time.time()}
        self._blobs.write(self._mine, seal(claim))

    def _other(self) -> str | None:
        """The owner of a claim that is neither ours nor a dead maker's."""
        found: str | None = None
        for name in self._blobs.names(FOLDER):
            if not name.startswith(self._prefix) or name == self._mine:
                continue
            try:
                data = self._blobs.read(name)
            except FileNotFoundError:
                continue
            except OSError:  # renewed while it was read, or out of reach for now
                data = b""
            owner = self._alive(name, data)
            if owner is None:
                self._taken_over.add(name)
                self._blobs.delete(name)
            else:
                found = owner
        return found

    def _alive(self, name: str, data: bytes) -> str | None:
        """The owner behind a claim; None if it is dead or an earlier attempt of ours."""
        known = self._watched.get(name)
        since = known[1] if known and known[0] == data else time.monotonic()
        self._watched[name] = (data, since)
        if time.monotonic() - since > DEAD_AFTER_S:
            return None
        try:
            claim: dict[str, Any] = unseal(data)
            gone = process_is_gone(claim["host"], claim["pid"])
        except (ValueError, KeyError, TypeError):
            return "a maker whose claim cannot be read"
        if gone or claim["owner"] == self._owner:
            return None
        return str(claim["owner"])

    def _renew(self) -> None:
        while not self._over.wait(BEAT_S):
            with contextlib.suppress(OSError):  # a storage that stumbles: the next beat will do
                if not self._blobs.exists(self._mine):
                    self._lost.set()
                    return
                for name in self._taken_over:  # renewed at the moment when it was removed
                    if self._blobs.exists(name):
                        self._blobs.delete(name)
                self._write()
