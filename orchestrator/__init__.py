"""Pipeline file -> graph -> plan -> run on Ray; events, tracking and the command line.

Imports no torch: the command line answers in a fraction of a second. From Python:

    from orchestrator import Pipeline, submit
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.groups import Group
    from orchestrator.pipeline import Pipeline, load_pipeline
    from orchestrator.submission import Submission, submit

__all__ = ["Group", "Pipeline", "Submission", "load_pipeline", "submit"]

_HOMES = {
    "Group": "orchestrator.groups",
    "Pipeline": "orchestrator.pipeline",
    "load_pipeline": "orchestrator.pipeline",
    "Submission": "orchestrator.submission",
    "submit": "orchestrator.submission",
}


def __getattr__(name: str) -> Any:
    """Loads the public names when they are first used: workers import parts of this package too.

    No public name may be that of a module here: importing the module would hide the name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'orchestrator' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
