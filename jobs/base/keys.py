"""Content addresses, and seeds that follow from others.

The key of a result is the sha256 of what it depends on.

Canonical JSON of {kind, kind version, result-relevant fields, ids of inputs, content of outside
files}. The seed is a field like any other once the pipeline's has been filled in.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.registry import kind_of
from slimctl.jobs.base.spec import BY_CONTENT, GROWS, SPEED_ONLY, JobSpec
from slimctl.models.spec import ADDED

KEY_LENGTH = 24


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_of(spec: BaseModel, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Result-relevant fields of a spec, or of one in it, as plain data.

    References are replaced by the ids of the artifacts, which `inputs` has by job.
    """
    content: dict[str, Any] = {}
    for name, field in type(spec).model_fields.items():
        if any(mark in field.metadata for mark in (SPEED_ONLY, BY_CONTENT, GROWS)):
            continue
        if ADDED in field.metadata and getattr(spec, name) == field.default:
            continue
        content[name] = _plain(getattr(spec, name), inputs)
    return content


def _plain(value: Any, inputs: Mapping[str, str]) -> Any:
    if isinstance(value, Ref):
        return {"input": inputs[value.job]}
    if isinstance(value, BaseModel):
        return content_of(value, inputs)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, inputs) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, inputs) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 1 and 1.0 in a file mean the same
    return value


def job_key(
    spec: JobSpec, inputs: Mapping[str, str], files: Mapping[str, str] | None = None
) -> str:
    """Key of a job's result: 24 hexadecimal digits.

    Args:
        spec: the job with its seed filled in.
        inputs: job name -> artifact id of every input.
        files: the spec's fingerprint, if it is known already.
    """
    kind = kind_of(spec)
    identity = {
        "kind": kind,
        "version": spec.version,
        "fields": spec.keyed(content_of(spec, inputs), inputs),
        "files": dict(spec.fingerprint() if files is None else files),
    }
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:KEY_LENGTH]


def split_id(artifact: str) -> tuple[str, str]:
    """Kind and key of an artifact, "" in what is no id. A kind's name may have dashes."""
    found = re.fullmatch(r"(.+?)-([^-]+)(-\d{1,18})?", artifact)  # a key is longer than a count
    return (found[1], found[2]) if found else (artifact, "")


def artifact_id(spec: JobSpec, key: str) -> str:
    """`<kind>-<key>`, with the count of a growing set appended."""
    return f"{kind_of(spec)}-{key}{_grown(spec)}"


def series_id(spec: JobSpec, artifact: str) -> str:
    """What no two may make at once: the result, or the series that it is the beginning of."""
    return artifact.removesuffix(_grown(spec))


def _grown(spec: JobSpec) -> str:
    fields = type(spec).model_fields.items()
    return "".join(f"-{getattr(spec, name)}" for name, field in fields if GROWS in field.metadata)


def derive_seed(seed: int, *parts: int | str) -> int:
    """A 63-bit seed from the job's and a purpose, such as ("dropout", step, rank)."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
