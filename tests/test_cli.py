"""The command line as a person uses it: processes, exit statuses, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import RealServer, dial

COMMAND = str(Path(sys.executable).with_name("macp-rx"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A `macp-rx serve` process and where it listens."""
    process = subprocess.Popen(
        [COMMAND, "serve", "--bind", "127.0.0.1:0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    try:
        yield process, next(word.rstrip(",") for word in first.split() if word.startswith("127.0.0.1:"))
    finally:
        process.kill()
        process.communicate()


def test_the_demo_shows_votes_tally_verdict_and_commitment_and_resolves() -> None:
    shown = run("demo", "--pace", "0.1")
    assert shown.returncode == 0
    for piece in (
        "proposes p1: canary",
        "APPROVE p1",
        "2 approve, 1 reject",
        "verdict: for p1",
        "commits to",
        "RESOLVED",
    ):
        assert piece in shown.stdout


@pytest.mark.server
def test_the_demo_on_the_real_server(real_server: RealServer) -> None:
    shown = run("demo", "--target", real_server.target, "--pace", "0.1")
    assert shown.returncode == 0, shown.stderr
    assert "RESOLVED" in shown.stdout


def test_serve_serves_until_ctrl_c() -> None:
    with serving() as (process, target):
        shown = run("demo", "--target", target, "--pace", "0.1")
        assert shown.returncode == 0, shown.stderr
        with dial(target, "anybody") as client:
            assert client.initialize().runtime_info.name == "macp-rx"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_an_unreachable_target_is_one_line_and_no_traceback() -> None:
    shown = run("demo", "--target", "127.0.0.1:1")
    assert shown.returncode == 1
    assert shown.stderr.startswith("macp-rx: Send failed with UNAVAILABLE")
    assert "Traceback" not in shown.stderr


def test_a_port_that_is_taken_is_one_line_and_no_traceback() -> None:
    with serving() as (_process, target):
        shown = subprocess.run(
            [COMMAND, "serve", "--bind", target], capture_output=True, text=True, timeout=60, check=False
        )
        assert shown.returncode == 1
        assert "cannot listen on" in shown.stderr
        assert "Traceback" not in shown.stderr


@pytest.mark.parametrize("command", [(), ("demo",), ("serve",)])
def test_help_has_an_example(command: tuple[str, ...]) -> None:
    shown = run(*command, "--help")
    assert shown.returncode == 0
    assert not command or "Example: macp-rx" in shown.stdout
