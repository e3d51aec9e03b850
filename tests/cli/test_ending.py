"""How commands end: statuses, one line instead of a traceback, Ctrl-C, output that nobody reads."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from macp_rx import MacpError, MacpSessionError, MacpTimeoutError, MacpTranscriptError, MacpTransportError
from macp_rx.cli.ending import End, end_of
from macp_rx.transcript import record
from tests.cli.commands import COMMAND, environment, ran, refused, running, serving, started
from tests.conftest import dial

UNREACHABLE = "127.0.0.1:1"
SESSION = "2f1c7f4e-9b0d-4c53-8f0e-1d2c3b4a5968"


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (MacpSessionError("an option"), End.USAGE),
        (MacpTranscriptError("file", 1, "cut off"), End.FAILED),
        (OSError("no space left"), End.FAILED),
        (MacpError("something"), End.FAILED),
        (MacpTransportError("NOT_FOUND", code="SESSION_NOT_FOUND"), End.REFUSED),
        (MacpTransportError("UNAUTHENTICATED"), End.REFUSED),
        (MacpTransportError("UNAVAILABLE"), End.UNREACHABLE),
        (MacpTimeoutError("nothing came"), End.UNREACHABLE),
        (KeyboardInterrupt(), End.INTERRUPTED),
    ],
)
def test_the_status_goes_by_the_kind_of_failure(error: BaseException, end: End) -> None:
    assert end_of(error) is end


@pytest.mark.parametrize(
    "command",
    [
        ("demo",),
        ("modes",),
        ("policies", "list"),
        ("policies", "get", "policy.default"),
        ("receipt-keys",),
        ("receipt", SESSION),
        ("sessions",),
        ("cancel", SESSION),
        ("suspend", SESSION),
        ("resume", SESSION),
        ("send", SESSION, "Vote", "{}"),
        ("watch", SESSION),
        ("watch", "--all"),
        ("record", SESSION, "-o", "never.jsonl"),
    ],
)
def test_a_runtime_that_is_not_there_is_one_line_and_its_cure(command: tuple[str, ...]) -> None:
    said = refused(4, *command, "--target", UNREACHABLE, "--agent", "chair").splitlines()
    assert len(said) == 2
    assert said[0].startswith("macp-rx: ")
    assert "UNAVAILABLE" in said[0]
    assert said[1].startswith("  is a runtime there?")


def test_a_recording_that_cannot_begin_leaves_no_file(tmp_path: Path, port: str) -> None:
    file = tmp_path / "never.jsonl"
    refused(4, "record", SESSION, "-o", file, "--target", UNREACHABLE, "--agent", "chair")
    refused(3, "record", SESSION, "-o", file, "--target", port, "--agent", "chair")
    assert not file.exists()


def test_whoever_says_not_who_they_are_is_told_how_to(port: str) -> None:
    assert "say who you are: --agent NAME" in refused(3, "sessions", "--target", port)


def test_a_port_that_is_taken_is_one_line() -> None:
    with serving() as (_process, target):
        assert "cannot listen on" in refused(1, "serve", "--bind", target)


def test_a_command_that_is_mistyped_is_guessed() -> None:
    assert "Did you mean 'watch'" in refused(2, "wacth")


class TestCtrlC:
    def test_ends_the_server_as_it_should(self) -> None:
        with serving() as (process, target):
            with dial(target, "anybody") as client:
                assert client.initialize().runtime_info.name == "macp-rx"
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""

    def test_ends_watch(self, port: str) -> None:
        with running("watch", started(port), "--target", port, "--agent", "chair") as process:
            self.interrupt(process)

    def test_ends_replay(self, port: str, tmp_path: Path) -> None:
        file = tmp_path / "slow.jsonl"
        session_id = started(port)
        with dial(port, "chair") as client:
            client.cancel_session(session_id)
            record(client, session_id, file).end.run()
        later = file.read_text().replace('"sequence":1', '"sequence":2')
        year = later[later.rindex('"time":"') + 8 :][:4]
        file.write_text(file.read_text() + later.replace(f'"time":"{year}', f'"time":"{int(year) + 1}'))
        with running("replay", file) as process:
            self.interrupt(process)

    def test_ends_record_and_what_is_written_is_whole(self, port: str, tmp_path: Path) -> None:
        file = tmp_path / "cut.jsonl"
        session_id = started(port)
        with (
            dial(port, "chair") as client,
            running("record", session_id, "-o", file, "--target", port, "--agent", "chair") as process,
        ):
            wait_for_line(file)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
            client.cancel_session(session_id)
        assert (process.returncode, said) == (130, f"1 envelopes in {file}\n")
        assert "SessionStart" in ran("replay", file)

    def test_ends_a_sweep_with_its_workers(self, tmp_path: Path) -> None:
        begun = tmp_path / "begun"
        os.mkfifo(begun)
        (tmp_path / "endless.py").write_text(ENDLESS.replace("BEGUN", str(begun)))
        with running("simulate", tmp_path / "endless.py", "--seeds", "100000", "--workers", "1") as process:
            begun.read_text()  # blocks until a run has begun
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (130, "")

    def interrupt(self, process: subprocess.Popen[str]) -> None:
        """As the terminal does, once it has shown something."""
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert (process.returncode, said) == (130, "")


ENDLESS = """
from macp_rx import SessionStart, agents
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision

begun = False


def vote(_proposal):
    global begun
    if not begun:
        begun = True
        with open("BEGUN", "w") as file:
            file.write("begun")
    return "APPROVE"


AGENTS = {"chair": agents.merge(agents.opening(decision.propose("p1", "x")), agents.voter(vote))}
START = SessionStart(mode=DECISION, intent="x", participants=["chair"], ttl_ms=1000)
"""


def wait_for_line(file: Path) -> None:
    """Waits until a process has written a line."""
    wait = subprocess.run(
        ["sh", "-c", f"until [ -s '{file}' ]; do sleep 0.05; done"], timeout=20, check=True, capture_output=True
    )
    assert wait.returncode == 0


class TestNobodyReads:
    @pytest.mark.parametrize("command", ["demo --pace 0", "modes", "modes --json", "policies list --agent x"])
    @pytest.mark.parametrize("into", ["| head -1", "| true", ">&-"])
    def test_a_pipe_that_is_closed_is_no_error(self, port: str, command: str, into: str) -> None:
        shell = f"set -o pipefail; {COMMAND} {command} {into}"
        shown = subprocess.run(
            ["bash", "-c", shell],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment(MACP_TARGET=port),
        )
        assert (shown.returncode, shown.stderr) == (0, "")

    def test_a_full_disk_is_one(self) -> None:
        shown = subprocess.run(
            ["bash", "-c", f"{COMMAND} demo --pace 0 > /dev/full"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment(),
        )
        assert (shown.returncode, shown.stderr) == (1, "macp-rx: [Errno 28] No space left on device\n")
