"""Reading everything again: does the store hold what was written?"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slimctl.jobs.base.errors import DamagedArtifact, SlimError, UserError
from slimctl.jobs.base.registry import load_kind, parse_job
from slimctl.jobs.base.spec import JobSpec
from slimctl.jobs.storage.store import Manifest, Store, sha256_of
from slimctl.orchestrator.runs.runs import read_pipeline, read_run, run_ids


@dataclass(frozen=True)
class Finding:
    """The state of one artifact or run."""

    name: str
    """Artifact id, or `runs/<run>`."""
    bytes: int
    """Bytes read."""
    rechecked: bool
    """Whether a part of it was made again."""
    problems: tuple[str, ...]
    """What is damaged; () if nothing is."""
    blobs: tuple[str, ...] = ()
    """Names of damaged blobs."""
    note: str = ""
    """Why no part of it was made again, where that was wanted."""


def verify_artifact(store: Store, artifact_id: str, pairs: int = 0) -> Finding:
    """Reads every byte of an artifact, and makes so many of its pairs again; removes nothing."""
    try:
        manifest = store.manifest(artifact_id)
    except DamagedArtifact as error:
        return Finding(artifact_id, 0, False, (f"artifacts/{artifact_id}/{error.what}",))
    if manifest is None:
        return Finding(artifact_id, 0, False, ("it was never finished",))
    size, problems, blobs = 0, [], []
    for name, record in store.blobs_of(artifact_id, manifest).items():
        found, digest = _digest(store, name)
        size += found
        if (found, digest) != (record.size, record.sha256):
            blobs.append(name)
            changed = f"has {found} bytes instead of {record.size}"
            problems.append(f"{name} {changed if found != record.size else 'was changed'}")
    rechecked, note = False, ""
    if pairs and not problems and _is_remade(manifest.kind):
        try:
            problems += _recheck(store, artifact_id, manifest, pairs)
            rechecked = True
        except UserError as error:  # such as a network of a package that is not installed here
            note = f"not made again: {error}"
    return Finding(artifact_id, size, rechecked, tuple(problems), tuple(blobs), note)


def _digest(store: Store, name: str) -> tuple[int, str]:
    """Size and sha256 of a blob as the storage has it now, (0, "") if it has none."""
    try:
        path: Path = store.blobs.local(name, fresh=True)
        return path.stat().st_size, sha256_of(path)
    except FileNotFoundError:
        return 0, ""


def _is_remade(kind: str) -> bool:
    """Whether a kind can make a part of its result again."""
    try:
        return load_kind(kind).recheck is not JobSpec.recheck
    except UserError:  # of a package that is not installed here
        return False


def _recheck(store: Store, artifact_id: str, manifest: Manifest, count: int) -> list[str]:
    try:
        spec = parse_job(manifest.kind, manifest.spec)
        inputs = {job: store.load_any(found) for job, found in manifest.inputs.items()}
        return spec.recheck(store, store.load_any(artifact_id), inputs, count)
    except UserError:
        raise
    except SlimError as error:
        return [f"could not be made again: {error.where}: {error.what}"]


def verify_run(store: Store, run: str) -> Finding:
    """Reads the record of a run: its pipeline and its events."""
    problems = list(read_run(store.blobs, run)[1].damaged)
    try:
        read_pipeline(store.blobs, run)
    except DamagedArtifact as error:
        problems.append(f"{error.where} {error.what}")
    return Finding(f"runs/{run}", 0, False, tuple(problems))


def repair(store: Store, finding: Finding) -> None:
    """Removes damaged blobs, so that the next plan sees that they have to be made again."""
    for name in finding.blobs:
        store.blobs.delete(name)


def verify_all(store: Store, pairs: int = 0) -> Iterator[Finding]:
    """Everything that was finished, and the record of every run."""
    for artifact_id in store.find(""):
        yield verify_artifact(store, artifact_id, pairs)
    for run in run_ids(store.blobs):
        yield verify_run(store, run)
