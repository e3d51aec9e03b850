"""sessions, cancel, suspend, resume, modes."""

from __future__ import annotations

import pytest

from macp_rx import MacpClient
from macp_rx.cli.sessions import mode_of, name_of
from macp_rx.protocol.messages import DECISION, MULTI_ROUND
from tests.cli.commands import lines, ran, refused, started


def test_a_list_has_a_line_for_each(target: str, session: str) -> None:
    head, *rows = ran("sessions", "--target", target, "--agent", "x").splitlines()
    assert head.split() == ["SESSION", "MODE", "STATE", "TIME", "LEFT", "INITIATOR", "PARTICIPANTS"]
    (row,) = [row.split() for row in rows if row.startswith(session)]
    assert row[1:3] == ["decision", "OPEN"]
    assert row[4:] == ["min", "chair", "chair,", "alice,", "bob"]


def test_a_list_by_mode_and_state_for_scripts(target: str, chair: MacpClient) -> None:
    is_open, ended = started(target), started(target)
    chair.cancel_session(ended)

    def listed(*more: str) -> set[str]:
        return {each["session_id"] for each in lines("sessions", "--json", "--target", target, "--agent", "x", *more)}

    assert {is_open, ended} <= listed("--mode", "decision")
    assert listed("--state", "open") & {is_open, ended} == {is_open}
    assert listed("--state", "cancelled", "--mode", DECISION) & {is_open, ended} == {ended}
    assert not listed("--mode", "task") & {is_open, ended}


def test_suspend_resume_cancel(target: str, session: str) -> None:
    chair = ("--target", target, "--agent", "chair")
    assert ran("suspend", session, "--reason", "lunch", *chair) == f"{session} SUSPENDED\n"
    assert ran("resume", session, *chair) == f"{session} OPEN\n"
    assert ran("cancel", session, "--reason", "asked twice", *chair) == f"{session} CANCELLED\n"
    assert "SESSION_NOT_OPEN" in refused(3, "resume", session, *chair)


@pytest.mark.parametrize("command", ["cancel", "suspend", "resume"])
def test_only_who_may(target: str, session: str, command: str) -> None:
    assert "FORBIDDEN" in refused(3, command, session, "--target", target, "--agent", "mallory")
    assert "Missing argument 'SESSION'" in refused(2, command)


def test_bad_input_is_told() -> None:
    assert "'ended' is not one of" in refused(2, "sessions", "--state", "ended")


def test_the_modes(target: str) -> None:
    shown = ran("modes", "--target", target)
    assert "macp.mode.decision.v1  1.0.0    SessionStart, Proposal" in shown
    assert [each["mode"] for each in lines("modes", "--json", "--target", target)][-1] == MULTI_ROUND


def test_the_short_names_of_modes() -> None:
    assert (mode_of("decision"), mode_of("multi_round")) == (DECISION, MULTI_ROUND)
    assert (mode_of(DECISION), mode_of("ext.auction.v1"), mode_of("")) == (DECISION, "ext.auction.v1", "")
    assert (name_of(DECISION), name_of(MULTI_ROUND), name_of("ext.auction.v1")) == (
        "decision",
        "multi_round",
        "ext.auction.v1",
    )
