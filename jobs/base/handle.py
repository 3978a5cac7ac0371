"""What every typed handle has."""

from slimctl.models.spec import Spec


class Handle(Spec):
    """Where a result is. Every handle names the artifact that holds its files."""

    id: str = ""
    """Artifact id, `<kind>-<key>`; set by the store."""
