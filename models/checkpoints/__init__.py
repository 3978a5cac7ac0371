"""Models in files: other projects' checkpoints, and our own form, which goes out and comes in.

    flow = load_teacher("edm-cifar10-32x32-uncond-vp.pkl")
    images = edm_heun(flow, x0).x1

Nothing is imported before it is used: where the files are is known without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimctl.models.checkpoints.load import load_teacher
    from slimctl.models.checkpoints.model_format import load_generator, save_flow

__all__ = ["load_generator", "load_teacher", "save_flow"]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "load" if name == "load_teacher" else "model_format"
    return getattr(import_module(f"{__name__}.{home}"), name)
