"""record, replay, marble: sessions as a file, back, and as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from macp_rx import DecisionSession, MacpClient
from tests.cli.commands import lines, ran, refused, run, running
from tests.cli.test_ending import wait_for_line

AS_CHAIR = ("--agent", "chair")
FIXTURE = next((Path(__file__).parents[1] / "conformance" / "data").rglob("decision_happy_path.json"))


def talk(client: MacpClient) -> str:
    session = DecisionSession(client)
    session.start(intent="pick a rollout", participants=["chair", "alice"], ttl_ms=60_000)
    session.propose("p1", "canary")
    session.acting_as("alice").vote("p1", "APPROVE")
    session.commit(action="x.approved", authority_scope="x", reason="x")
    return session.session_id


@pytest.fixture
def transcript(target: str, chair: MacpClient, tmp_path: Path) -> Path:
    """A decision, recorded."""
    file = tmp_path / "transcript.jsonl"
    shown = run("record", talk(chair), "-o", str(file), "--target", target, *AS_CHAIR)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", f"4 envelopes in {file}\n")
    return file


def test_what_is_recorded_is_replayed(transcript: Path) -> None:
    shown = ran("replay", transcript, "--speed", "inf").splitlines()
    assert "◆" in shown[-2]
    assert "committed · p1: 1 approve" in shown[-1]
    replayed = lines("replay", transcript, "--speed", "inf", "--json")
    recorded = [json.loads(line) for line in transcript.read_text().splitlines()]
    assert [each["envelope"] for each in replayed] == [each["envelope"] for each in recorded]
    assert ran("replay", "/dev/stdin", "--speed", "inf", stdin=transcript.read_text()).splitlines() == shown


def test_a_file_that_exists_is_not_overwritten_but_appended_to(
    target: str, chair: MacpClient, transcript: Path
) -> None:
    session_id = talk(chair)
    record = ("record", session_id, "-o", transcript, "--target", target, *AS_CHAIR)
    assert "exists already: name another, or --append" in refused(1, *record)
    ran(*record, "--append")
    assert len(transcript.read_text().splitlines()) == 8


def test_all_sessions_until_ctrl_c(port: str, tmp_path: Path) -> None:
    from tests.conftest import dial

    file = tmp_path / "all.jsonl"
    with running("record", "--all", "-o", file, "--target", port, *AS_CHAIR) as process, dial(port, "chair") as client:
        one = DecisionSession(client)
        one.start(intent="x", participants=["chair"], ttl_ms=60_000)
        wait_for_line(file)
        process.terminate()
        process.wait(10)
    assert one.session_id in file.read_text()


def test_a_folder_that_is_not_there(target: str, chair: MacpClient, tmp_path: Path) -> None:
    record = ("record", talk(chair), "-o", tmp_path / "none" / "x.jsonl", "--target", target, *AS_CHAIR)
    assert "No such file or directory" in refused(1, *record)


class TestMarble:
    def test_as_text(self, transcript: Path) -> None:
        shown = ran("marble", transcript)
        assert shown.splitlines()[0].startswith("chair : a")
        assert "= \"1 chair SessionStart: intent='pick a rollout'" in shown

    @pytest.mark.parametrize(
        ("end", "begins"), [("svg", b"<svg"), ("html", b"<!doctype html>"), ("mmd", b"sequenceDiagram\n")]
    )
    def test_as_a_picture(self, tmp_path: Path, end: str, begins: bytes) -> None:
        output = tmp_path / f"out.{end}"
        assert ran("marble", FIXTURE, "-o", output, "--title", "A decision") == ""
        assert output.read_bytes().startswith(begins)

    def test_one_of_several_sessions(self, port: str, tmp_path: Path) -> None:
        from tests.conftest import dial

        file = tmp_path / "two.jsonl"
        with dial(port, "chair") as client:
            one, other = talk(client), talk(client)
        for session_id in (one, other):
            ran("record", session_id, "-o", file, "--append", "--target", port, *AS_CHAIR)
        assert ran("marble", file, "--session", one) != ran("marble", file)

    def test_a_picture_of_another_kind(self, tmp_path: Path) -> None:
        assert "a picture is .svg, .png, .html or .mmd, not .gif" in refused(
            2, "marble", FIXTURE, "-o", tmp_path / "x.gif"
        )


@pytest.mark.parametrize("command", ["replay", "marble"])
class TestBadFiles:
    def test_no_transcript(self, command: str, tmp_path: Path) -> None:
        file = tmp_path / "x.jsonl"
        file.write_text("nonsense\n")
        assert f"{file}, line 1: no JSON" in refused(1, command, file)

    def test_one_that_is_cut_off_shows_what_is_whole(self, command: str, tmp_path: Path, port: str) -> None:
        from tests.conftest import dial

        file = tmp_path / "x.jsonl"
        with dial(port, "chair") as client:
            ran("record", talk(client), "-o", file, "--target", port, *AS_CHAIR)
        file.write_text(file.read_text()[:-30])
        shown = run(command, str(file))
        assert shown.returncode == 1
        assert "APPROVE" in shown.stdout
        assert f"{file}, line 4: the file is cut off in this line" in shown.stderr

    def test_none(self, command: str, tmp_path: Path) -> None:
        assert "does not exist" in refused(2, command, tmp_path / "none.jsonl")


def test_a_speed_that_comes_to_no_end() -> None:
    assert "--speed" in refused(2, "replay", FIXTURE, "--speed", "0")
    assert "--speed" in refused(2, "replay", FIXTURE, "--speed", "fast")
