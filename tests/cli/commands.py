"""The command line as a person uses it: processes, their output, their exit status."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from macp_rx.cli import app

COMMAND = str(Path(sys.executable).with_name("macp-rx"))

START = json.dumps(
    {
        "mode": "macp.mode.decision.v1",
        "intent": "pick a rollout",
        "participants": ["chair", "alice", "bob"],
        "ttl_ms": 600_000,
    }
)


CHOSEN = [f"MACP_{name}" for name in ("TARGET", "AGENT", "TOKEN", "CA", "INSECURE", "TIMEOUT")]


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would choose a runtime, and wide."""
    ours = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    return {**ours, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **more}


def run(*arguments: str | Path, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(**more),
    )


def ran(*arguments: str | Path, stdin: str = "", **more: str) -> str:
    """The output of a command that succeeds."""
    shown = run(*arguments, stdin=stdin, **more)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def lines(*arguments: str | Path, **more: str) -> list[Any]:
    """The JSON lines of a command that succeeds."""
    return [json.loads(line) for line in ran(*arguments, **more).splitlines()]


def refused(status: int, *arguments: str | Path, **more: str) -> str:
    """What a command says that ends with this status. In this process: it is the same, and most failures are quick."""
    unset = dict.fromkeys(CHOSEN, None)
    told = CliRunner().invoke(app, [str(each) for each in arguments], env={**unset, "COLUMNS": "200", **more})
    assert isinstance(told.exception, SystemExit), repr(told.exception)
    assert told.exit_code == status, f"{told.exit_code}: {told.output}"
    return told.stderr


def started(target: str) -> str:
    """A session of the chair's, by `send`."""
    return ran("send", "new", "SessionStart", START, "--target", target, "--agent", "chair").split()[0]


@contextmanager
def running(*arguments: str | Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on, until it ends or the block does."""
    process = subprocess.Popen(
        [COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A `macp-rx serve` process and where it listens."""
    with running("serve", "--bind", "127.0.0.1:0", *arguments) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        yield process, next(word.rstrip(",") for word in first.split() if word.startswith("127.0.0.1:"))


class Terminal:
    """A command in a terminal of its own, and what that has shown by now."""

    def __init__(self, columns: int, *arguments: str | Path) -> None:
        self.shown = ""
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        surroundings = {**environment(), "TERM": "xterm-256color"}
        del surroundings["COLUMNS"]
        self.process = subprocess.Popen(
            [COMMAND, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env=surroundings
        )
        os.close(theirs)

    def wait_for(self, text: str, seconds: float = 30) -> None:
        """Waits until it has shown a text."""
        until = time.monotonic() + seconds
        while text not in self.shown:
            ready, _, _ = select.select([self._ours], [], [], max(0, until - time.monotonic()))
            assert ready, f"no {text!r} after {seconds} s, but {self.shown!r}"
            self.shown += os.read(self._ours, 65536).decode()

    def interrupted(self) -> int:
        """Ends it with Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(20)
        os.close(self._ours)
        return status
