"""What an artifact was made from, down to the data: its settings, its shape and its cost."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from slimctl.jobs.base.artifacts import SweepReport
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.refs import Ref, refs_in
from slimctl.jobs.base.registry import parse_job
from slimctl.jobs.base.spec import SPEED_ONLY
from slimctl.jobs.storage.store import Manifest, Store

SECONDS_PER_HOUR = 3600.0


class Lineage:
    """The artifacts of a store behind others; each manifest is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._manifests: dict[str, Manifest | None] = {}
        self._settings: dict[str, dict[str, Any]] = {}
        self._inputs: dict[str, list[tuple[str, str]]] = {}

    def manifest(self, artifact: str) -> Manifest | None:
        """The manifest of an artifact; None if the store has it no more."""
        if artifact not in self._manifests:
            self._manifests[artifact] = self._store.manifest(artifact)
        return self._manifests[artifact]

    def behind(self, artifact: str) -> set[str]:
        """Everything that an artifact was made from, and itself."""
        found = {artifact}
        stack = [artifact]
        while stack:
            for _, source in self.inputs(stack.pop()):
                if source not in found:
                    found.add(source)
                    stack.append(source)
        return found

    def inputs(self, artifact: str) -> list[tuple[str, str]]:
        """(field, artifact) for each input of an artifact."""
        self._read(artifact)
        return self._inputs[artifact]

    def settings(self, artifact: str, prefix: str = "") -> dict[str, Any]:
        """Every setting that shaped an artifact, by dotted path: `start.network.channels`.

        An input that is no part of a chain of settings, such as a data set, adds its `id` too:
        its content may differ where its settings do not.
        """
        self._read(artifact)
        found = {f"{prefix}{name}": value for name, value in self._settings[artifact].items()}
        if not self._inputs[artifact]:
            found[f"{prefix}id"] = artifact
        for field, source in self._inputs[artifact]:
            found |= self.settings(source, f"{prefix}{field}.")
        return found

    def shape(self, artifact: str) -> str:
        """The kinds that an artifact was made by: `distill(pairs=generate_pairs(...), ...)`."""
        manifest = self.manifest(artifact)
        inputs = ", ".join(f"{field}={self.shape(one)}" for field, one in self.inputs(artifact))
        return f"{manifest.kind if manifest else artifact}({inputs})"

    def hours(self, artifacts: Iterable[str]) -> dict[str, float]:
        """Device hours spent on artifacts, by kind of device: `CPU` or `GPU`."""
        spent: dict[str, float] = {}
        for artifact in sorted(artifacts):
            manifest = self.manifest(artifact)
            if manifest is not None:
                device = "CPU" if manifest.engine.get("device", "cpu") == "cpu" else "GPU"
                hours = manifest.device_s / SECONDS_PER_HOUR
                spent[device] = spent.get(device, 0.0) + hours
        return spent

    def _read(self, artifact: str) -> None:
        if artifact in self._settings:
            return
        manifest = self.manifest(artifact)
        settings: dict[str, Any] = {}
        inputs: list[tuple[str, str]] = []
        if manifest is not None:
            for name, value in _fields(manifest):
                refs = _inputs(name, value, manifest.inputs)
                inputs += refs
                if not refs:
                    settings |= dict(_flat(name, value))
            if manifest.type == SweepReport.__name__:  # its jobs name them, not its fields
                inputs = [*manifest.inputs.items()]
        self._settings[artifact], self._inputs[artifact] = settings, inputs


def _fields(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    """The fields that a result depends on, defaults filled in where its kind is known."""
    try:
        spec = parse_job(manifest.kind, manifest.spec)
    except (UserError, ValidationError):
        yield from manifest.spec.items()
        return
    for name, info in type(spec).model_fields.items():
        if SPEED_ONLY not in info.metadata:
            yield name, getattr(spec, name)


def _inputs(name: str, value: Any, inputs: Mapping[str, str]) -> list[tuple[str, str]]:
    refs = refs_in(name, value)
    return [(place, inputs[ref.job]) for place, ref in refs if ref.job in inputs]


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Nested settings by dotted path; lists stay whole."""
    if isinstance(value, Ref):  # to a job whose result is not known
        value = value.job
    if isinstance(value, BaseModel):
        marked = {
            key for key, info in type(value).model_fields.items() if SPEED_ONLY in info.metadata
        }
        value = {
            key: item for key, item in value.model_dump(mode="json").items() if key not in marked
        }
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(f"{name}.{key}", item)
    else:
        yield name, list(value) if isinstance(value, tuple) else value
