"""Signals that end the program as Ctrl-C does: of schedulers, containers and closed terminals."""

import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """128 and the number of the signal, as shells count: 130, 143 or 129."""
    return 128 + (interrupt.number if isinstance(interrupt, Stopped) else signal.SIGINT)


def stop_on_signals() -> None:
    """Has the signals raise `Stopped`; those that are ignored, as under nohup, stay so."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    """Once: a closing terminal sends two, and the end must not be interrupted."""
    del frame
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)
