"""Which Fréchet distances may be compared: those taken in the same way."""

from collections.abc import Mapping

from slimctl.jobs.base.artifacts import FidProtocol, QualityReport
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.keys import split_id

MAX_NAMED = 3


def fid_protocol(report: QualityReport) -> dict[str, str]:
    """How a Fréchet distance was taken, as name -> value; equal ones can be compared."""
    protocol = report.protocol or FidProtocol(
        features=report.features, reference=report.reference, samples=report.samples, draws=1
    )
    return {
        "reference": protocol.reference,
        "features": protocol.features,
        "samples": str(protocol.samples),
        "draws": str(protocol.draws),
    }


def protocol_text(protocol: Mapping[str, str]) -> str:
    """The protocol in one phrase: `200 samples, reference load_dataset-68425b, ...`."""
    return ", ".join(f"{name} {_short(value)}" for name, value in protocol.items())


def check_protocols(reports: Mapping[str, QualityReport]) -> None:
    """Refuses to compare distances that were taken differently.

    Args:
        reports: name of a result -> what was measured.

    Raises:
        UserError: there is more than one protocol; says what differs, and where.
    """
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, report in reports.items():
        found.setdefault(tuple(fid_protocol(report).items()), []).append(name)
    if len(found) < 2:
        return
    first = dict(next(iter(found)))
    differing = [name for name in first if len({dict(key)[name] for key in found}) > 1]
    sides = [
        f"{protocol_text({name: dict(key)[name] for name in differing})} in {_named(names)}"
        for key, names in found.items()
    ]
    raise UserError(
        "compare",
        f"these FIDs were taken with unlike {' and '.join(differing)}: {'; '.join(sides)}",
        "name results of one kind (RUN/JOB or RUN/GROUP), or evaluate all in the same way",
    )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _short(value: str) -> str:
    """An artifact id with six digits of its key; other values as they are."""
    kind, key = split_id(value)
    return f"{kind}-{key[:6]}" if len(key) > 12 else value
