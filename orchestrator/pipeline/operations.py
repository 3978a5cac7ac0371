"""What a pipeline says of living with its runs: prices, a budget, and whom to notify.

None of it enters a key. Secrets never stand in a pipeline, which is stored with every run: a
channel names the environment variable that holds its address, command or password.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from slimctl.jobs.base.duration import Duration
from slimctl.models.spec import Spec

Happening = Literal["started", "failed", "finished", "stalled"]
HAPPENINGS: tuple[Happening, ...] = ("started", "failed", "finished", "stalled")
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""Name of an environment variable."""


class Price(Spec):
    """What an hour of a device costs. Work on GPUs costs their price, else that of its CPUs."""

    gpu_hour: float = Field(default=0.0, ge=0)
    """Of one GPU with the CPUs beside it."""
    cpu_hour: float = Field(default=0.0, ge=0)
    """Of one CPU."""
    currency: str = Field(default="USD", pattern=r"^\S{1,8}$")
    """As figures are labelled."""

    def of(self, hours: Mapping[str, float]) -> float:
        """What some hours cost, by kind of device: `GPU` and `CPU`."""
        return self.gpu_hour * hours.get("GPU", 0.0) + self.cpu_hour * hours.get("CPU", 0.0)

    def text(self, cost: float) -> str:
        """A cost with its currency."""
        return (
            f"{cost:,.2f} {self.currency}" if cost >= 0.01 or not cost else f"<0.01 {self.currency}"
        )


class Budget(Spec):
    """What a run may take, over all its attempts; then it stops at a checkpoint."""

    cost: float | None = Field(default=None, gt=0)
    """At the pipeline's price."""
    gpu_hours: float | None = Field(default=None, gt=0)
    """Of one GPU."""
    cpu_hours: float | None = Field(default=None, gt=0)
    """Of one CPU, of work without GPUs."""
    time: Duration | None = None
    """Since the run began or was resumed, s, or as 8h."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not any(value is not None for _, value in self):
            raise ValueError("no limit is given: write cost, gpu_hours, cpu_hours or time")
        return self


class _Channel(Spec):
    on: tuple[Happening, ...] = Field(default=HAPPENINGS, min_length=1)
    """What is told: started, failed (a job), finished (the run, however it ends), stalled."""


class Webhook(_Channel):
    """JSON with `text`, as Slack and those like it take, by POST."""

    kind: Literal["webhook"]
    url_env: Variable
    """Variable with the address, http or https."""


class Mail(_Channel):
    """A mail in plain text."""

    kind: Literal["mail"]
    to: tuple[Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")], ...] = Field(min_length=1)
    """Who gets it."""
    sender: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")]
    """Who it is from."""
    host: str = Field(default="localhost", min_length=1)
    """Mail server."""
    port: int = Field(default=25, ge=1, le=65535)
    """Its port."""
    security: Literal["none", "starttls", "tls"] = "none"
    """Encryption: none, after the greeting (port 587), from the start (port 465)."""
    user_env: Variable | None = None
    """Variable with the user's name; null = the server wants none."""
    password_env: Variable | None = None
    """Variable with the password."""

    @model_validator(mode="after")
    def _password_is_encrypted(self) -> Self:
        if (self.user_env is None) != (self.password_env is None):
            raise ValueError("user_env and password_env go together: give both or none")
        if self.password_env is not None and self.security == "none":
            raise ValueError("a password needs security: starttls or tls")
        return self


class Command(_Channel):
    """A program that gets the text on stdin. The pipeline does not say which: a file runs nothing.

    SLIMCTL_HAPPENING and SLIMCTL_RUN are set for it.
    """

    kind: Literal["command"]
    command_env: Variable
    """Variable with the program and its arguments, as a shell quotes them; no shell runs it."""


Channel = Annotated[Webhook | Mail | Command, Field(discriminator="kind")]


class Notify(Spec):
    """Whom a run notifies. Work waits for no channel; one that fails is a warning of the run."""

    channels: tuple[Channel, ...] = Field(min_length=1)
    """`{kind: webhook, url_env: ...}`, `{kind: mail, ...}`, `{kind: command, command_env: ...}`."""
    stalled_after: Duration = 1800.0
    """Time without progress of any job after which a run is called stalled, s, or as 30m."""

    @model_validator(mode="before")
    @classmethod
    def _list_of_channels(cls, data: Any) -> Any:
        return {"channels": data} if isinstance(data, (list, tuple)) else data

    def variables(self) -> Iterator[tuple[int, str, str]]:
        """Place of a channel, field and name of each variable that must be set."""
        for at, channel in enumerate(self.channels):
            for name, value in channel:
                if name.endswith("_env") and value is not None:
                    yield at, name, value
