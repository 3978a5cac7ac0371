"""The job kinds by name, those of installed packages too: `from slimctl.kinds import distill`.

The signature of each is its spec's: `help(distill)`, `slimctl kinds distill`.
"""

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.registry import kind_names, load_kind
from slimctl.jobs.base.spec import JobSpec


def __getattr__(name: str) -> type[JobSpec]:
    try:
        return load_kind(name)
    except UserError as error:
        raise AttributeError(f"{error.what}; {error.fix}") from error


def __dir__() -> list[str]:
    return list(kind_names())
