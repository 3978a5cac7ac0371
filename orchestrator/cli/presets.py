"""Lists the published networks."""

import json

from slimctl.orchestrator.cli.options import Json
from slimctl.orchestrator.cli.output import echo


def presets(as_json: Json = False) -> None:
    """List the published networks with their size and cost."""
    from slimctl.models.networks.presets import PRESETS
    from slimctl.orchestrator.cli.tables import print_table

    if as_json:
        found = [
            {"name": p.name, "family": p.family, "parameters": p.parameters, "macs": p.macs}
            for p in PRESETS.values()
        ]
        echo(json.dumps(found, indent=1))
        return
    rows = [
        (preset.name, preset.family, f"{preset.parameters:,}", f"{preset.macs / 1e9:.3f}")
        for preset in PRESETS.values()
    ]
    print_table(("preset", "family", "parameters", "GMAC"), rows)
