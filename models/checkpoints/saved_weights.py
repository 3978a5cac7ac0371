"""The tensors of anybody's file, and which of them are the weights of the network that is meant.

Trainers nest state dictionaries and put the names of wrappers before those of the tensors, in any
order. So everything is laid flat, and what stands before the names that tell the network (its
`prefix`) says which weights they are: averaged ones have `ema` or another usual word there.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from slimctl.models.checkpoints.inert_pickle import Inert
from slimctl.models.checkpoints.teacher import OverrideError, Overrides
from slimctl.models.networks.published_weights import named_averages
from slimctl.models.shapes import Tensor

TRANSPARENT = re.compile(
    r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""Wrappers (torch.compile, FSDP, checkpointing) that no network calls a layer."""
AVERAGED = frozenset(
    {"ema", "shadow", "averaged", "average", "averages", "avg", "swa", "polyak", "smoothed"}
)
"""Words in the names of averaged weights."""
USUAL = frozenset({
    "model", "module", "net", "network", "unet", "state", "dict", "state_dict", "params", "weights",
    "model_state", "model_state_dict", "net_state_dict", "online", "online_model", "score_model",
    "denoiser", "diffusion", "diffusion_model", "flow", "velocity", "generator", "raw",
})  # fmt: skip
"""Names of what holds the weights that were trained."""
MAX_DEPTH = 12
"""Mappings within mappings."""


@dataclass(frozen=True)
class Saved:
    """All tensors of a file, laid flat."""

    tensors: Mapping[str, Tensor]
    """Names of the mappings and of the tensor, joined by dots, without transparent wrappers."""
    lists: Mapping[str, list[Tensor]] = field(default_factory=dict)
    """Lists of tensors, by the names of the mappings and of the list."""
    objects: tuple[str, ...] = ()
    """What else is in it: the entry and its class, for messages."""


@dataclass(frozen=True)
class Weights:
    """The weights of one network."""

    plain: Mapping[str, Tensor]
    """Name in the network -> tensor; {} if the file has averages only."""
    averages: Mapping[str, Tensor]
    """The same of the averages; {} if there are none, or as a list."""
    listed: tuple[Tensor, ...] = ()
    """Averages as a bare list, in the order of the plain weights."""

    @property
    def names(self) -> Mapping[str, Tensor]:
        """Weights to read an architecture off."""
        return self.plain or self.averages

    def each(self, change: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> "Weights":
        """The same with both sets of names changed."""
        return Weights(change(self.plain), change(self.averages), self.listed)


def lay_flat(content: Mapping[Any, Any]) -> Saved:
    """All tensors of nested mappings."""
    tensors: dict[str, Tensor] = {}
    lists: dict[str, list[Tensor]] = {}
    objects: list[str] = []
    for name, value in _entries(content, "", 0):
        if isinstance(value, Tensor):
            tensors.setdefault(TRANSPARENT.sub("", name), value)
        elif isinstance(value, Inert):
            objects.append(f"{name} (a {value.named})")
        elif value and all(isinstance(each, Tensor) for each in value):
            lists[name] = list(value)
    return Saved(tensors, lists, tuple(objects))


def _entries(content: Mapping[Any, Any], before: str, depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if not isinstance(name, str):
            continue
        if isinstance(value, Mapping) and depth < MAX_DEPTH:
            yield from _entries(value, f"{before}{name}.", depth + 1)
        elif isinstance(value, (Tensor, Inert, list, tuple)):
            yield f"{before}{name}", value


def is_averaged(prefix: str) -> bool:
    """Whether the words before a name say that the weights are averaged."""
    words = re.split(r"[^a-z]+", prefix.lower())
    return not AVERAGED.isdisjoint(words) and "online" not in words


def of_family(pattern: re.Pattern[str]) -> Callable[[Collection[str]], set[str]]:
    """Finds the prefixes of names that a family of networks is known by."""

    def prefixes(names: Collection[str]) -> set[str]:
        found = (pattern.search(name) for name in names)
        return {match.string[: match.start()] for match in found if match}

    return prefixes


def of_names(wanted: Collection[str]) -> Callable[[Collection[str]], set[str]]:
    """Finds the prefixes before the names of a network that is known."""

    def prefixes(names: Collection[str]) -> set[str]:
        first = next(iter(wanted), "")
        starts = {name[: len(name) - len(first)] for name in names if _ends(name, first)}
        whole = {start for start in starts if all(f"{start}{each}" in names for each in wanted)}
        return whole or {_most_fitting(names, wanted)}

    return prefixes


def _ends(name: str, part: str) -> bool:
    return name == part or name.endswith(f".{part}")


def _most_fitting(names: Collection[str], wanted: Collection[str]) -> str:
    """The prefix that most of the names have before one that is wanted."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted:
                prefix = "".join(f"{part}." for part in parts[:start])
                counts[prefix] = counts.get(prefix, 0) + 1
    return max(counts, key=lambda prefix: counts[prefix], default=usual_prefix(names))


def usual_prefix(names: Collection[str]) -> str:
    """Usual words that all names begin with."""
    prefix = ""
    while True:
        firsts = {name[len(prefix) :].partition(".")[0] for name in names}
        only = firsts.pop() if len(firsts) == 1 else ""
        if only not in USUAL and not (only and is_averaged(only)):
            return prefix
        prefix += f"{only}."


def find_weights(saved: Saved, prefixes: Callable[[Collection[str]], set[str]]) -> Weights:
    """The weights of the one network in a file.

    Raises:
        ValueError: the file holds several networks or averages and does not say which one counts.
    """
    found = prefixes(saved.tensors)
    averaged = {prefix for prefix in found if is_averaged(prefix)}
    others = found - averaged
    plain = _under(saved, _one(others, "networks"), found) if others else {}
    averages = _under(saved, _one(averaged, "averages"), found) if averaged else {}
    if not averages and plain:
        averages = _squashed(saved.tensors, plain)
    listed = [value for name, value in saved.lists.items() if is_averaged(name)]
    if len(listed) > 1 and not averages:
        names = ", ".join(name for name in saved.lists if is_averaged(name))
        raise ValueError(f"holds several averages: {names}\n  fix: save the wanted one alone")
    return Weights(plain, averages, tuple(listed[0]) if listed and not averages else ())


def _under(saved: Saved, prefix: str, all_prefixes: set[str]) -> dict[str, Tensor]:
    """The tensors under a prefix, without those under a longer one."""
    longer = tuple(each for each in all_prefixes if each != prefix and each.startswith(prefix))
    return {
        name.removeprefix(prefix): value
        for name, value in saved.tensors.items()
        if name.startswith(prefix) and not (longer and name.startswith(longer))
    }


def _one(prefixes: set[str], what: str) -> str:
    usual = {prefix for prefix in prefixes if _is_usual(prefix)}
    choice = prefixes if len(prefixes) == 1 else usual
    if len(choice) == 1:
        return next(iter(choice))
    names = ", ".join(sorted(prefix.rstrip(".") or "(none)" for prefix in prefixes))
    raise ValueError(
        f"holds several {what}, under {names}\n  fix: save the state dictionary of one alone"
    )


def _is_usual(prefix: str) -> bool:
    words = prefix.split(".")[:-1]
    return all(word in USUAL or not set(word.split("_")) - USUAL - AVERAGED for word in words)


def _squashed(tensors: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Averages under the names of the plain weights without their dots (latent diffusion's)."""
    squashed = {name: name.replace(".", "") for name in plain}
    last = max(squashed.values(), key=len)
    starts = {name[: -len(last)] for name in tensors if name.endswith(last)}
    for start in filter(is_averaged, starts):
        # Layers may be inside a wrapper whose name is squashed, too.
        found = {
            name: tensors[f"{start}{short}"]
            for name, short in squashed.items()
            if f"{start}{short}" in tensors
        }
        if found:
            return found
    return {}


def chosen_weights(
    weights: Weights, overrides: Overrides, buffers: Collection[str] = (), *, may_lack: bool
) -> dict[str, Tensor]:
    """The averages, where there are some and they are wanted; `buffers` have none of their own.

    Raises:
        ValueError: there are none (unless the file `may_lack` them), or nothing else.
    """
    if not overrides.ema:
        if not weights.plain:
            raise OverrideError("ema", "holds averaged weights only")
        return dict(weights.plain)
    if weights.averages:
        kept = {name: value for name, value in weights.plain.items() if name in buffers}
        return {**kept, **weights.averages}
    if weights.listed:
        averaged = dict(weights.plain)
        if len(weights.listed) < len(averaged):
            averaged = {name: own for name, own in averaged.items() if name not in buffers}
        return {**weights.plain, **named_averages(averaged, weights.listed)}
    if may_lack:
        return dict(weights.plain)
    raise ValueError(
        "has no averaged weights under `ema`\n  fix: ask for the plain ones: ema: false "
        "(ema=False in Python)"
    )
