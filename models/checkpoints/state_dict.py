"""Reads state dictionaries: of files of torch.save by anybody's trainer, and bare ones.

The names of the tensors tell the family: SlimFlow's and RectifiedFlow's NCSN++, an ADM or DDPM++ in
EDM's names, else the network that the caller describes (one of another package, for example).

Trainers nest state dictionaries and put the names of wrappers before those of the tensors, in any
order. So everything is laid flat, and what stands before the names that tell the network (its
`prefix`) says which weights they are: averaged ones have `ema` or another usual word there.
"""

import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from slimctl.models.checkpoints.inert_pickle import Inert
from slimctl.models.checkpoints.teacher import (
    OverrideError,
    Overrides,
    TeacherFile,
    build_to_fill,
)
from slimctl.models.checkpoints.torch_file import read_torch_file, require_own_bytes
from slimctl.models.flows.parameterisation import EDMSchedule, Parameterisation
from slimctl.models.networks import edm_weights as edm
from slimctl.models.networks.adm.network import ADM
from slimctl.models.networks.published_weights import (
    Source,
    named_averages,
    rename,
    require_fit,
    same_names,
)
from slimctl.models.networks.song_unet import slimflow_weights as ncsnpp
from slimctl.models.networks.song_unet.network import SongUNet
from slimctl.models.networks.song_unet.slimflow_weights import ImageSize, read_slimflow
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape

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


def read_plain_weights(saved: Saved, overrides: Overrides) -> TeacherFile:
    """The network that the caller describes, with the weights of a file.

    Raises:
        ValueError: the caller does not say enough, or the tensors do not fit; all are listed.
    """
    spec = overrides.spec
    if spec is None or overrides.size is None or overrides.image_channels is None:
        prefix = usual_prefix(saved.tensors)
        first = ", ".join(name.removeprefix(prefix) for name in list(saved.tensors)[:3])
        raise ValueError(
            f"does not say what network its tensors are of; the first are {first}"
            "\n  fix: give network (all of it, with its kind), size and image_channels, or a file "
            "of save_flow, SlimFlow, RectifiedFlow or EDM"
        )
    image = ImageShape(
        channels=overrides.image_channels, size=overrides.size, classes=overrides.classes or 0
    )
    network = build_to_fill(spec, image)
    weights = find_weights(saved, of_names(network.state_dict()))
    buffers = {name for name, _ in network.named_buffers()}
    state = _chosen(weights, overrides, buffers, may_lack=True)
    how = overrides.starting(overrides.stated())
    return TeacherFile(spec, image, how, rename(state, same_names(network), network))


def _chosen(
    weights: Weights, overrides: Overrides, buffers: Collection[str] = (), *, may_lack: bool
) -> dict[str, Tensor]:
    """The averages, where there are some and they are wanted; `buffers` have none of their own."""
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


T_START = 1e-3
"""Flow time at which the published networks start to be trained and sampled."""
FAMILY = re.compile(r"(^|(?<=\.))(all_modules\.\d+\.|enc\.\d+x\d+_|input_blocks\.\d+\.\d+\.)")
"""How the names begin that tell a family."""


class _Network(NamedTuple):
    """A network that is not yet filled."""

    spec: NetworkSpec
    module: torch.nn.Module
    image: ImageShape
    sources: Mapping[str, Source]
    size: ImageSize | None = None
    """How the size of the images is known, where no tensor tells it."""


def read_checkpoint(path: Path, overrides: Overrides) -> TeacherFile:
    """The network of a file of torch.save, with its averaged weights by default.

    Raises:
        ValueError: the file is damaged or names what it may not, holds no network of a known
            family, or its tensors do not fit; every one that differs is listed.
    """
    content = read_torch_file(path)
    if isinstance(content, Inert):
        raise ValueError(  # noqa: TRY004
            f"holds a whole object of class {content.named}, not its weights; nothing was run"
            "\n  fix: save its state dictionary where the class is known: "
            "torch.save(model.state_dict(), ...)"
        )
    if not isinstance(content, Mapping):
        raise ValueError(  # noqa: TRY004
            f"holds a {type(content).__name__}, not a checkpoint of SlimFlow"
            "\n  fix: give a file with `model` and `ema`"
        )
    saved = lay_flat(content)
    if not saved.tensors:
        has = saved.objects or tuple(map(str, content)) or ("nothing",)
        raise ValueError(
            f"has no weights under `model`; it has {', '.join(has)}"
            "\n  fix: give a checkpoint of SlimFlow or RectifiedFlow, or a state dictionary"
        )
    require_own_bytes(saved.tensors, path)
    read = read_saved(saved, overrides)
    if zipfile.is_zipfile(path):  # its tensors lie in the file: what is kept must not
        return replace(read, weights={name: own.clone() for name, own in read.weights.items()})
    return read


def read_saved(saved: Saved, overrides: Overrides, *, bare: bool = False) -> TeacherFile:
    """The network whose tensors are given.

    bare: whether one set of weights is all that such a file can have, averaged or not.

    Raises:
        ValueError: as `read_checkpoint`.
    """
    if not any(FAMILY.search(name) for name in saved.tensors):
        return read_plain_weights(saved, overrides)
    weights = find_weights(saved, of_family(FAMILY))
    if any(name.startswith("input_blocks.") for name in weights.names):
        if overrides.spec is not None:
            return read_plain_weights(saved, overrides)
        raise ValueError(
            "holds a network in the names of openai/guided-diffusion, which is not supported"
            "\n  fix: give a network of the same images from NVlabs/edm, such as "
            "edm-imagenet-64x64-cond-adm.pkl, or a UNet2DModel of diffusers"
        )
    network, states = _network(weights, overrides)
    require_fit(states.names, network.sources, network.module)
    chosen = _chosen(states, overrides, may_lack=bare)
    size = network.size
    return TeacherFile(
        network.spec,
        network.image,
        overrides.starting(_predicts(overrides)),
        rename(chosen, network.sources, network.module),
        assumed=size.words if size and size.is_certain else "",
        undecided=size.words if size and not size.is_certain else "",
    )


def _predicts(overrides: Overrides) -> Parameterisation:
    """A velocity, unless the caller knows better: such a file says nothing of it."""
    if overrides.prediction == "edm":
        overrides = replace(overrides, schedule=overrides.schedule or EDMSchedule())
    return overrides.stated(t_start=T_START)


def _time_scale(how: Parameterisation) -> float:
    """What a network multiplies its time by: SlimFlow's 999, unless the schedule has scaled it."""
    schedule = how.schedule
    unscaled = schedule.kind == "rectified" or getattr(schedule, "time_scale", None) == 1.0
    return 999.0 if unscaled else 1.0


def _network(weights: Weights, overrides: Overrides) -> tuple[_Network, Weights]:
    """The network that the names tell, and the weights without what is no parameter of it."""
    scale = _time_scale(_predicts(overrides))
    if any(name.startswith("all_modules.") for name in weights.names):
        states = weights.each(ncsnpp.parameters)
        return _ncsnpp(states.names, overrides, scale), states
    weights = weights.each(edm.mean_only)
    states = weights.each(edm.parameters)
    if any("_aux_conv." in name for name in states.names):
        # The filters, which are no parameters, tell how it resamples.
        return _ddpmpp(weights.names, overrides), states
    return _adm(states.names, overrides, scale), states


def _adm(state: Mapping[str, Tensor], overrides: Overrides, scale: float) -> _Network:
    spec, image = edm.read_adm(state, time_scale=scale)
    spec = overrides.apply(spec, image)
    network = build_to_fill(spec, image)
    return _Network(spec, network, image, edm.sources(cast("ADM", network), image.size))


def _ddpmpp(state: Mapping[str, Tensor], overrides: Overrides) -> _Network:
    if overrides.prediction in (None, "velocity"):
        raise ValueError(
            "holds a DDPM++ or NCSN++ in EDM's names without saying what it predicts"
            "\n  fix: give prediction: edm; or prediction: noise with its schedule"
        )
    spec, image = edm.read_song_unet(state)
    spec = overrides.apply(spec, image)
    network = build_to_fill(spec, image)
    return _Network(spec, network, image, edm.sources(cast("SongUNet", network), image.size))


def _ncsnpp(state: Mapping[str, Tensor], overrides: Overrides, scale: float) -> _Network:
    given = None
    if "attention_resolutions" in overrides.network or overrides.spec is not None:
        given = overrides.network_of(SongUNetSpec(channels=64)).attention_resolutions
    spec, image, size = read_slimflow(state, overrides.size, given)
    spec = overrides.apply(spec.model_copy(update={"time_scale": scale}), image)
    network = build_to_fill(spec, image)
    sources = ncsnpp.sources(cast("SongUNet", network))
    return _Network(spec, network, image, sources, size)
