"""`python -m slimctl` is `slimctl`."""

import sys
from pathlib import Path

# Python puts the current folder first: what lies there must not hide our libraries.
if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from slimctl.orchestrator.cli.main import main

main()
