"""The errors of the program.

    SlimError                where, what and how to mend it, in one exception
    ├── UserError            the user's input is wrong: no traceback, never retried, exit 2
    ├── DamagedArtifact      a stored file is not what its manifest says: exit 3
    ├── JobFailed            a job of a run failed: exit 4
    │   └── TrainingDiverged the loss became NaN or infinite
    └── WorkLost             a worker or node died: always retried

All constructor arguments stay in `args`, so that each survives the way through Ray.
"""


class SlimError(Exception):
    """Base of the errors that say where, what and how to mend it.

    Args:
        where: file:line, job or artifact; "" if the error belongs to no place.
        what: one sentence with the user's own value.
        fix: what to do; "" if there is nothing to do.
    """

    exit_code = 1

    def __init__(self, where: str, what: str, fix: str = "") -> None:
        super().__init__(where, what, fix)
        self.where = where
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  fix: {self.fix}" if self.fix else head


class UserError(SlimError):
    """The user's input is wrong; retrying cannot help."""

    exit_code = 2


class DamagedArtifact(SlimError):  # noqa: N818  (the name says what it is)
    """A stored file is missing, truncated or changed."""

    exit_code = 3


class JobFailed(SlimError):  # noqa: N818
    """A job of a run failed for a reason that is neither the user's nor a lost machine."""

    exit_code = 4


class TrainingDiverged(JobFailed):
    """The training loss is no longer finite."""


class WorkLost(SlimError):  # noqa: N818
    """A worker or a node died with work in flight; the work is handed out again."""

    exit_code = 4
