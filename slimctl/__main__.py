"""`python -m slimctl` is `slimctl`."""

from slimctl.orchestrator.cli.main import main

main()
