"""`python -m orchestrator` is `slimctl`."""

from orchestrator.cli.main import main

main()
