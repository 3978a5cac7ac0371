"""Reads checkpoints as SlimFlow and RectifiedFlow write them: a file of torch.save.

The optimizer's state in them may hold numpy scalars, which torch's restricted loader refuses. They
are of no use here, so it is given stand-ins that forget them.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch.serialization import safe_globals

from models.flows.parameterisation import Parameterisation
from models.networks.adm import edm_weights as adm
from models.networks.adm.network import ADM
from models.networks.edm_layout import parameters as edm_parameters
from models.networks.published_weights import (
    Source,
    named_averages,
    rename,
    require_fit,
    without_prefix,
)
from models.networks.song_unet import slimflow_weights as ncsnpp
from models.networks.song_unet.network import SongUNet
from models.networks.song_unet.slimflow_layout import ImageSize, read_slimflow
from models.networks.song_unet.spec import SongUNetSpec
from models.networks.spec import NetworkSpec
from models.shapes import Tensor
from models.spec import ImageShape
from models.teachers.architecture import Overrides
from models.teachers.plain_weights import read_plain_weights
from models.teachers.teacher_file import TeacherFile, build_to_fill

T_START = 1e-3
"""Flow time at which the published networks start to be trained and sampled."""


class _Forgotten:
    """A numpy number or type of the optimizer's state."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Forgets the state."""


def _forget(*arguments: object) -> _Forgotten:
    del arguments
    return _Forgotten()


_STAND_INS = (
    (_forget, "numpy.core.multiarray.scalar"),
    (_forget, "numpy._core.multiarray.scalar"),
    (_forget, "numpy.dtype"),
    _Forgotten,
)


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
    checkpoint = _load(path)
    state = _state(checkpoint)
    if not any(name.startswith(("enc.", "all_modules.")) for name in state):
        averages = _averages(checkpoint) if overrides.ema and "ema" in checkpoint else None
        return read_plain_weights(state, averages, overrides)
    is_adm = not any(name.startswith("all_modules.") for name in state)
    state = edm_parameters(state) if is_adm else ncsnpp.parameters(state)
    network = _adm(state, overrides) if is_adm else _ncsnpp(state, overrides)
    require_fit(state, network.sources, network.module)
    if overrides.ema:
        state = named_averages(state, _averages(checkpoint))
    weights = rename(state, network.sources, network.module)
    if _is_mapped(path):  # what is kept must not depend on the file
        weights = {name: value.clone() for name, value in weights.items()}
    how = overrides.starting(_predicts(overrides))
    size = network.size
    return TeacherFile(
        network.spec,
        network.image,
        how,
        weights,
        assumed=size.words if size and size.is_certain else "",
        undecided=size.words if size and not size.is_certain else "",
    )


def _predicts(overrides: Overrides) -> Parameterisation:
    """A velocity, unless the caller knows better: such a file says nothing of it."""
    given = {"prediction": overrides.prediction, "schedule": overrides.schedule}
    known = {name: value for name, value in given.items() if value is not None}
    return Parameterisation(t_start=T_START, **known)


def _is_mapped(path: Path) -> bool:
    """Whether the file is read where it lies; older files of torch.save cannot be."""
    return zipfile.is_zipfile(path)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with safe_globals(list(_STAND_INS)):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_mapped(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"its pickle would use {named[1]}" if named else str(error).splitlines()[0]
        raise ValueError(
            f"is refused: {what}; nothing was run"
            "\n  fix: do not trust this file; fetch it from its authors"
        ) from error
    except Exception as error:
        # A damaged file can raise anything at all from torch's readers.
        reason = (str(error) or "no reason given").splitlines()[0]
        raise ValueError(
            f"is no readable checkpoint ({type(error).__name__}: {reason})"
            "\n  fix: fetch the file again"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(  # noqa: TRY004
            f"holds a {type(content).__name__}, not a checkpoint of SlimFlow"
            "\n  fix: give a file with `model` and `ema`"
        )
    return content


def _state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of the model, which a file without `model` may consist of."""
    model = checkpoint.get("model", checkpoint)
    if not isinstance(model, Mapping) or not all(isinstance(v, Tensor) for v in model.values()):
        raise ValueError(
            f"has no weights under `model`; it has {', '.join(map(str, checkpoint)) or 'nothing'}"
            "\n  fix: give a checkpoint of SlimFlow or RectifiedFlow"
        )
    return without_prefix({str(name): value for name, value in model.items()}, "module.")


def _averages(checkpoint: Mapping[str, Any]) -> list[Tensor]:
    ema = checkpoint.get("ema")
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(shadow, (list, tuple)) or not all(isinstance(v, Tensor) for v in shadow):
        raise ValueError(
            "has no averaged weights under `ema`\n  fix: ask for the plain ones with ema=False"
        )
    return list(shadow)


def _adm(state: Mapping[str, Tensor], overrides: Overrides) -> _Network:
    spec, image = adm.read_edm(state, time_scale=999.0)
    spec = overrides.apply(spec, image)
    network = build_to_fill(spec, image)
    return _Network(spec, network, image, adm.sources(cast("ADM", network), image.size))


def _ncsnpp(state: Mapping[str, Tensor], overrides: Overrides) -> _Network:
    given = None
    if "attention_resolutions" in overrides.network or overrides.spec is not None:
        given = overrides.network_of(SongUNetSpec(channels=64)).attention_resolutions
    spec, image, size = read_slimflow(state, overrides.size, given)
    spec = overrides.apply(spec, image)
    network = build_to_fill(spec, image)
    sources = ncsnpp.sources(cast("SongUNet", network))
    return _Network(spec, network, image, sources, size)
