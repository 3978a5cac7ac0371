"""`python -m orchestrator` is `slimctl`."""

import sys
from pathlib import Path

# Python puts the current folder first: what lies there must not hide our other packages.
if (
    not sys.flags.safe_path
    and Path(sys.path[0]).resolve() != Path(__file__).resolve().parent.parent
):
    del sys.path[0]

from orchestrator.cli.main import main

main()
