"""What a storage holds that no run and no artifact refers to."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from slimctl.jobs.base.errors import DamagedArtifact
from slimctl.jobs.storage.lease import DEAD_AFTER_S, FOLDER
from slimctl.jobs.storage.store import MANIFEST, Store
from slimctl.orchestrator.runs.runs import read_run, run_ids

SERIES = ("pairs", "prompts")
"""Folders of shards, a folder for each series."""
SHARD = re.compile(r'"(pairs|prompts)/([^/"]+)/')
"""A shard's place in the JSON of a handle."""
YOUNG_S = 3600.0
"""What was written within the last hour may belong to something that is under way."""


@dataclass(frozen=True)
class Garbage:
    """Something that may go."""

    name: str
    """A blob, or a folder with all that is in it."""
    bytes: int
    why: str


def find_garbage(store: Store, young_s: float = YOUNG_S) -> list[Garbage]:
    """Everything that may be deleted; nothing that a run or an artifact refers to.

    What is younger than `young_s` is not touched.
    """
    wanted = referenced(store)
    found = [
        *_artifacts(store, wanted),
        *_work(store, wanted),
        *_shards(store, wanted),
        *_leftovers(store),
    ]
    old = time.time() - young_s
    return [each for each in found if _newest(store, each.name) < old and _holds(store, each.name)]


def referenced(store: Store) -> set[str]:
    """Artifacts that a run names, and all that those were made from.

    A run that has not begun to write, or whose log is damaged, may name anything: then every
    artifact counts.
    """
    stack: list[str] = []
    for run in run_ids(store.blobs):
        status, log = read_run(store.blobs, run)
        stack += [job.artifact for job in status.jobs.values()]
        begins = not log.events and _newest(store, f"runs/{run}") > time.time() - YOUNG_S
        if log.damaged or begins:
            stack += store.blobs.folders("artifacts")
    found: set[str] = set()
    while stack:
        artifact = stack.pop()
        if artifact not in found:
            found.add(artifact)
            stack += _inputs(store, artifact)
    return found


def _inputs(store: Store, artifact: str) -> list[str]:
    try:
        manifest = store.manifest(artifact)
    except DamagedArtifact:
        return []
    return list(manifest.inputs.values()) if manifest else []


def _artifacts(store: Store, wanted: set[str]) -> Iterator[Garbage]:
    for artifact in store.blobs.folders("artifacts"):
        name = f"artifacts/{artifact}"
        if artifact in wanted:
            continue
        whole = store.blobs.exists(f"{name}/{MANIFEST}")
        yield _all_of(store, name, "no run refers to it" if whole else "it was never finished")


def _work(store: Store, wanted: set[str]) -> Iterator[Garbage]:
    for artifact in store.blobs.folders("work"):
        if artifact not in wanted:
            yield _all_of(store, f"work/{artifact}", "no run refers to it")
        elif store.state(artifact) == "done":
            yield _all_of(store, f"work/{artifact}", "its artifact is finished")


def _shards(store: Store, wanted: set[str]) -> Iterator[Garbage]:
    """Series of shards that no set takes from, whether wanted by a run or kept by its own record.

    A handle of a package that is not installed here names its files, too.
    """
    users = set(wanted)
    kept: set[tuple[str, str]] = set()
    for artifact in store.find(""):
        try:
            manifest = store.manifest(artifact)
        except DamagedArtifact:
            users.add(artifact)
        else:
            kept |= set(SHARD.findall(json.dumps(manifest.handle))) if manifest else set()
    for folder in SERIES:
        for series in store.blobs.folders(folder):
            used = any(user == series or user.startswith(f"{series}-") for user in users)
            if (folder, series) not in kept and not used:
                yield _all_of(store, f"{folder}/{series}", "no result refers to it")


def _leftovers(store: Store) -> Iterator[Garbage]:
    for folder in store.blobs.folders("tmp"):
        yield _all_of(store, f"tmp/{folder}", "left by a job that died")
    for name in store.blobs.names("tmp"):
        if name.count("/") == 1:
            yield _all_of(store, name, "left by a program that died")
    for name in store.blobs.names(FOLDER):
        if time.time() - (store.blobs.modified(name) or 0.0) > DEAD_AFTER_S:
            yield _all_of(store, name, "its maker is dead")


def _all_of(store: Store, name: str, why: str) -> Garbage:
    names = store.blobs.names(name) or [name]
    return Garbage(name, sum(store.blobs.size(each) or 0 for each in names), why)


def _holds(store: Store, name: str) -> bool:
    """Whether anything is there: an object store shows the names of folders that were emptied."""
    return bool(store.blobs.names(name)) or store.blobs.exists(name)


def _newest(store: Store, name: str) -> float:
    """When anything in it was written last, Unix time in s."""
    times = [store.blobs.modified(each) for each in [name, *store.blobs.names(name)]]
    return max((found for found in times if found is not None), default=0.0)


def delete_garbage(store: Store, found: list[Garbage]) -> None:
    """Deletes it; an artifact loses its manifest first, so that no half of it is believed."""
    for garbage in found:
        store.blobs.delete(f"{garbage.name}/{MANIFEST}")
        store.blobs.delete(garbage.name)
