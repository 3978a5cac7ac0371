"""Tells the channels of a pipeline how its run fares, beside the run and without holding it up.

What a channel needs (an address, a command, a password) is read from the environment when it is
needed, and kept nowhere. A channel that fails is a warning of the run, once.
"""

import json
import os
import queue
import shlex
import smtplib
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.message import EmailMessage

from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.pipeline.operations import (
    Channel,
    Command,
    Happening,
    Mail,
    Notify,
    Webhook,
)

CHANNEL_S = 10.0
"""How long one channel may take for one notice."""
LAST_WORDS_S = 10.0
"""How long the end of a run waits for its last notices."""


class Notifier:
    """Sends notices in a thread of its own.

    Args:
        notify: the channels.
        warn: called with what is wrong with a channel, in words without a secret.
    """

    def __init__(self, notify: Notify, warn: Callable[[str], None]) -> None:
        self._notify, self._warn = notify, warn
        self._queue: queue.Queue[tuple[Happening, str, str] | None] = queue.Queue()
        self._broken: set[int] = set()
        self._thread = threading.Thread(target=self._work, name="notifier", daemon=True)
        self._thread.start()

    def say(self, happening: Happening, run: str, text: str) -> None:
        """Queues a notice; returns at once."""
        self._queue.put((happening, run, text))

    def close(self) -> None:
        """Sends what is queued; waits for it ten seconds at most."""
        self._queue.put(None)
        self._thread.join(LAST_WORDS_S)

    def _work(self) -> None:
        while (notice := self._queue.get()) is not None:
            happening, run, text = notice
            for at, channel in enumerate(self._notify.channels):
                if happening not in channel.on:
                    continue
                try:
                    send(channel, happening, run, text)
                except UserError as error:
                    if at not in self._broken:
                        self._broken.add(at)
                        self._warn(f"notify.{at} ({channel.kind}): {error.what}")


def send(channel: Channel, happening: Happening, run: str, text: str) -> None:
    """Sends a notice through one channel.

    Raises:
        UserError: it could not be sent; the message holds nothing of a variable's value.
    """
    try:
        if isinstance(channel, Webhook):
            _post(_variable(channel.url_env), text)
        elif isinstance(channel, Mail):
            _mail(channel, text)
        else:
            _run(channel, happening, run, text)
    except (OSError, smtplib.SMTPException, subprocess.SubprocessError) as error:
        reason = f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else ""
        what = reason or getattr(error, "strerror", None) or type(error).__name__
        raise UserError(channel.kind, f"the notice could not be sent: {what}") from error


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise UserError("notify", f"the variable {name} is not set where the run is supervised")
    return value


def _post(url: str, text: str) -> None:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UserError("notify", "the address is neither http nor https")
    body = json.dumps({"text": text}).encode()
    head = {"Content-Type": "application/json"}
    try:
        request = urllib.request.Request(url, body, head)
    except ValueError as error:
        raise UserError("notify", "the address is no URL") from error
    with urllib.request.urlopen(request, timeout=CHANNEL_S):
        return


def _mail(channel: Mail, text: str) -> None:
    mail = EmailMessage()
    mail["Subject"] = text.splitlines()[0]
    mail["From"], mail["To"] = channel.sender, ", ".join(channel.to)
    mail.set_content(text)
    make = smtplib.SMTP_SSL if channel.security == "tls" else smtplib.SMTP
    with make(channel.host, channel.port, timeout=CHANNEL_S) as server:
        if channel.security == "starttls":
            server.starttls()
        if channel.user_env and channel.password_env:
            server.login(_variable(channel.user_env), _variable(channel.password_env))
        server.send_message(mail)


def _run(channel: Command, happening: Happening, run: str, text: str) -> None:
    try:
        words = shlex.split(_variable(channel.command_env))
    except ValueError as error:
        raise UserError("notify", f"{channel.command_env} is not quoted as for a shell") from error
    more = {"SLIMCTL_HAPPENING": happening, "SLIMCTL_RUN": run}
    subprocess.run(
        words, input=text, text=True, check=True, timeout=CHANNEL_S, env=os.environ | more,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
