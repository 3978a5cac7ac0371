"""Turn big diffusion and flow teachers into tiny one-step generators, on any Ray cluster.

    from slimctl import Pipeline, submit

The only import name: `models`, `jobs` and `orchestrator` lie at the top of the repository and are
packages in here by relative links, so that a folder of a user with such a name hides nothing.
Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimctl.models.checkpoints import load_generator, load_teacher
    from slimctl.orchestrator.pipeline.groups import Group
    from slimctl.orchestrator.pipeline.pipeline import Pipeline, load_pipeline
    from slimctl.orchestrator.planning.plan import Forecast, check, plan
    from slimctl.orchestrator.running.submission import Submission, submit

__version__ = "0.2.0"

__all__ = [
    "Forecast",
    "Group",
    "Pipeline",
    "Submission",
    "__version__",
    "check",
    "load_generator",
    "load_pipeline",
    "load_teacher",
    "plan",
    "submit",
]

_HOMES = {
    "Forecast": "orchestrator.planning.plan",
    "Group": "orchestrator.pipeline.groups",
    "Pipeline": "orchestrator.pipeline.pipeline",
    "Submission": "orchestrator.running.submission",
    "check": "orchestrator.planning.plan",
    "load_generator": "models.checkpoints",
    "load_pipeline": "orchestrator.pipeline.pipeline",
    "load_teacher": "models.checkpoints",
    "plan": "orchestrator.planning.plan",
    "submit": "orchestrator.running.submission",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used: workers import this package too."""
    if name not in _HOMES:
        raise AttributeError(f"module 'slimctl' has no attribute '{name}'")
    return getattr(import_module(f"slimctl.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
