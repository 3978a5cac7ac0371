"""What becomes of stdout, and of signals that end the program.

Stdout carries the data of a verb and nothing else: Ray, MLflow, torch and what they are made of
print where they like. While a verb runs, stdout is stderr for all of them, down to the file
descriptor, and `echo` alone reaches the real one. Signals of schedulers, containers and closed
terminals end the program as Ctrl-C does.
"""

import contextlib
import functools
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import ParamSpec, TextIO

import typer

from slimctl.orchestrator.running.notice import SIGNALS, Stopped

Parameters = ParamSpec("Parameters")
_streams: list[TextIO] = []
"""Streams for data, the innermost last; empty = stdout as it is."""


def echo(text: str, *, nl: bool = True) -> None:
    """Prints data on stdout."""
    typer.echo(text, nl=nl, file=_streams[-1] if _streams else None)


def only_data(verb: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A verb whose `echo` alone reaches stdout."""

    @functools.wraps(verb)
    def run(*arguments: Parameters.args, **options: Parameters.kwargs) -> None:
        with _stdout_kept():
            verb(*arguments, **options)

    return run


class _Stream(io.TextIOWrapper):
    """Standard output or error that outlives its reader."""

    def __init__(self, number: int, like: TextIO, *, data: bool) -> None:
        self._data = data
        binary = open(number, "wb", closefd=False)  # noqa: SIM115  (as long as we live)
        super().__init__(
            binary,
            encoding=like.encoding,
            errors=_errors(like.encoding) if data else "backslashreplace",
            line_buffering=not data or like.isatty(),
        )

    def write(self, text: str) -> int:
        with self._telling():
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._telling():
            super().flush()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Ends the program if nobody reads its data; there is nobody to tell that to."""
        try:
            yield
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # for what is written on the way out
            os.close(null)
            if not self._data:
                return
            if isinstance(error, BrokenPipeError):
                sys.exit(0)
            raise OSError(error.errno, error.strerror, "standard output") from error


def open_standard_streams() -> None:
    """Makes stdin, stdout and stderr usable, whatever they are.

    A closed descriptor would be given to the next file that is opened, which everything printed
    would then be written to. A terminal that cannot show a character gets its number.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, which is this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name) or open(number, "w", closefd=False)  # noqa: SIM115
        if _is_descriptor(stream, number):  # and no stand-in of a test or a notebook
            stream.flush()
            setattr(sys, name, _Stream(number, stream, data=number == 1))


def _errors(encoding: str) -> str:
    """How to print what an encoding cannot: names of files, which are bytes, as they are."""
    return "surrogateescape" if encoding.lower().startswith("utf") else "backslashreplace"


def _is_descriptor(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except OSError:
        return False


@contextlib.contextmanager
def _stdout_kept() -> Iterator[None]:
    stdout = sys.stdout
    stdout.flush()
    is_real = _is_descriptor(stdout, 1)
    with _moved(stdout) if is_real else contextlib.nullcontext(stdout) as stream:
        _streams.append(stream)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            _streams.pop()


@contextlib.contextmanager
def _moved(stdout: TextIO) -> Iterator[TextIO]:
    """A stream to where descriptor 1 leads, which leads to stderr meanwhile."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield _Stream(kept, stdout, data=True)
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """128 and the number of the signal, as shells count: 130, 143, 138 or 129."""
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
