"""Signals that ask the program to end, and how long work may take to leave then.

SIGTERM and SIGUSR1 are notices: of Slurm to the step that submits, of systemd, or of whoever takes
the machine away. A private Ray ends with the program, so its jobs are given time for a checkpoint.
"""

import signal

NOTICES = (signal.SIGTERM, signal.SIGUSR1)
SIGNALS = (*NOTICES, signal.SIGHUP)
LEAVE_S = 25.0
"""How long jobs are given: less than the 30 s that Slurm waits by default before it kills."""


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def is_notice(interrupt: KeyboardInterrupt) -> bool:
    """Whether there is time for a checkpoint; a person who presses Ctrl-C has none to give."""
    return isinstance(interrupt, Stopped) and interrupt.number in NOTICES
