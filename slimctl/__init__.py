"""Turn big diffusion and flow teachers into tiny one-step generators, on any Ray cluster.

    from slimctl import Pipeline, submit

The only import name: `models`, `jobs` and `orchestrator` lie at the top of the repository and are
packages in here by relative links, so that a folder of a user with such a name hides nothing.
Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimctl.orchestrator.groups import Group
    from slimctl.orchestrator.pipeline import Pipeline, load_pipeline
    from slimctl.orchestrator.submission import Submission, submit

__all__ = ["Group", "Pipeline", "Submission", "load_pipeline", "submit"]

_HOMES = {
    "Group": "slimctl.orchestrator.groups",
    "Pipeline": "slimctl.orchestrator.pipeline",
    "load_pipeline": "slimctl.orchestrator.pipeline",
    "Submission": "slimctl.orchestrator.submission",
    "submit": "slimctl.orchestrator.submission",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used: workers import this package too."""
    if name not in _HOMES:
        raise AttributeError(f"module 'slimctl' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
