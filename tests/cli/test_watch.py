"""watch: what sessions accept, as it happens."""

from __future__ import annotations

import json
import re
import signal

import grpc
import pytest

from macp_rx import DecisionSession, MacpClient
from macp_rx.protocol.policy import CommitmentRules, build_decision_policy
from macp_rx.session import Session
from tests.cli.commands import Terminal, lines, ran, refused, running, serving, started
from tests.conftest import RealServer, dial, running_server

AS_CHAIR = ("--agent", "chair")


def opened(client: MacpClient, session_id: str) -> DecisionSession:
    found = Session.of(client, client.get_session(session_id).metadata)
    assert isinstance(found, DecisionSession)
    return found


def commit(session: DecisionSession) -> None:
    session.commit(action="rollout.approved", authority_scope="all", reason="enough", outcome_positive=True)


def test_it_shows_lanes_votes_tally_and_the_end(target: str, chair: MacpClient, session: str) -> None:
    decision = opened(chair, session)
    decision.propose("p1", "canary")
    decision.acting_as("alice").vote("p1", "APPROVE")
    commit(decision)
    shown = ran("watch", session, "--target", target, *AS_CHAIR).splitlines()
    assert shown[0] == f"session {session} macp.mode.decision.v1"
    assert re.search(r" 1 +0\.00 s  ○ │ │  chair SessionStart ", shown[1])
    assert re.search(r" 3 +[\d.]+ s  │ ● │  alice Vote +proposal_id p1  vote APPROVE$", shown[5])
    assert shown[6].endswith("voting · p1: 1 approve, 0 reject, 0 abstain")
    assert re.search(r" 4 +[\d.]+ s  ◆ │ │  chair Commitment ", shown[7])
    assert shown[-1] == "RESOLVED"


def test_a_vote_arrives_while_it_watches(target: str, chair: MacpClient, session: str) -> None:
    with running("watch", session, "--target", target, *AS_CHAIR) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("session ")
        opened(chair, session).propose("p1", "canary")
        opened(chair, session).acting_as("bob").vote("p1", "REJECT")
        while "REJECT" not in (line := process.stdout.readline()):
            assert line
        chair.cancel_session(session)
        rest, said = process.communicate(timeout=20)
    assert (process.returncode, said, rest.splitlines()[-1]) == (0, "", "CANCELLED")


def test_json_is_a_transcript(target: str, chair: MacpClient, session: str) -> None:
    opened(chair, session).propose("p1", "canary")
    chair.cancel_session(session)
    first, second = lines("watch", session, "--json", "--target", target, *AS_CHAIR)
    assert (first["sequence"], second["envelope"]["message_type"]) == (1, "Proposal")


def test_all_sessions_have_their_names_where_they_alternate(target: str, chair: MacpClient) -> None:
    one, other = (started(target) for _ in range(2))
    with running("watch", "--all", "--mode", "decision", "--target", target, *AS_CHAIR) as process:
        assert process.stdout is not None
        seen: list[str] = []
        while not {f"session {one} macp.mode.decision.v1", f"session {other} macp.mode.decision.v1"} <= set(seen):
            seen.append(process.stdout.readline().rstrip())
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 130
    for session_id in (one, other):
        chair.cancel_session(session_id)


def test_a_session_that_is_not_there_yet_is_waited_for(port: str) -> None:
    session_id = "a-session-that-comes-later"
    with running("watch", session_id, "--wait", "30", "--target", port, *AS_CHAIR) as process:
        with dial(port, "chair") as client:
            decision = DecisionSession(client, session_id)
            decision.start(intent="x", participants=["chair"], ttl_ms=60_000)
            decision.cancel()
        shown, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")
    assert shown.splitlines()[-1] == "CANCELLED"


def test_the_state_of_a_session_under_a_policy_of_its_own(target: str, chair: MacpClient) -> None:
    policy = build_decision_policy("policy.cli-anybody", commitment=CommitmentRules(authority="any_participant"))
    chair.register_policy(policy)
    decision = DecisionSession(chair, policy_version="policy.cli-anybody")
    decision.start(intent="x", participants=["chair", "alice"], ttl_ms=60_000)
    decision.propose("p1", "x")
    commit(decision.acting_as("alice"))
    shown = ran("watch", decision.session_id, "--target", target, *AS_CHAIR)
    chair.unregister_policy("policy.cli-anybody")
    assert "committed" in shown


@pytest.mark.server
def test_a_reconnect_is_told_on_standard_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("kept")
    with running_server(MACP_MEMORY_ONLY="0", MACP_DATA_DIR=str(folder)) as server:
        shown, said = self_healed(server)
    assert "REJECT" in shown
    assert "connection lost behind sequence 2" in said
    assert "connected again behind sequence 2" in said


def self_healed(server: RealServer) -> tuple[str, str]:
    session_id = started(server.target)
    with dial(server.target, "chair") as client:
        opened(client, session_id).propose("p1", "x")
    with running("watch", session_id, "--target", server.target, *AS_CHAIR) as process:
        assert process.stdout is not None
        while "Proposal" not in process.stdout.readline():
            pass
        server.stop(signal.SIGTERM)
        server.start()
        with grpc.insecure_channel(server.target) as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
        with dial(server.target, "bob") as client:
            opened(client, session_id).vote("p1", "REJECT")
        with dial(server.target, "chair") as client:
            client.cancel_session(session_id)
        shown, said = process.communicate(timeout=30)
    assert process.returncode == 0
    return shown, said


def test_a_terminal_shows_it_live_and_nothing_wraps(target: str, chair: MacpClient, session: str) -> None:
    opened(chair, session).propose("p1", "canary", rationale="a sentence that is too long for a line " * 5)
    terminal = Terminal(100, "watch", session, "--target", target, *AS_CHAIR)
    terminal.wait_for("evaluation")
    opened(chair, session).acting_as("alice").vote("p1", "APPROVE")
    terminal.wait_for("1 approve")
    assert terminal.interrupted() == 130
    assert "\x1b[32m" in terminal.shown  # a vote has its colour
    shown = re.sub(r"\x1b\[[\d;]*m", "", terminal.shown).splitlines()
    assert max(map(len, shown)) == 100
    assert any(line.endswith("…") for line in shown)


def test_what_others_have_written_commands_no_terminal(target: str, chair: MacpClient, session: str) -> None:
    opened(chair, session).propose("p1", "\x1b[2J\x9b31m\u202egone\r\nhidden")
    chair.cancel_session(session)
    shown = ran("watch", session, "--target", target, *AS_CHAIR)
    assert r"option \x1b[2J\x9b31m\u202egone\r\nhidden" in shown


@pytest.mark.parametrize("arguments", [(), ("2f1c7f4e-9b0d-4c53-8f0e-1d2c3b4a5968", "--all")])
def test_it_is_one_session_or_all(port: str, arguments: tuple[str, ...]) -> None:
    assert "name a SESSION, or --all, and not both" in refused(2, "watch", *arguments, "--target", port)


def test_bad_input_is_told(target: str, session: str) -> None:
    assert "SESSION_NOT_FOUND" in refused(3, "watch", "f" * 32, "--target", target, *AS_CHAIR)
    assert "FORBIDDEN" in refused(3, "watch", session, "--target", target, "--agent", "mallory")
    assert json.dumps("short")[1:-1] in refused(2, "watch", "short", "--target", target, *AS_CHAIR)


def test_the_embedded_runtime_as_a_server() -> None:
    with serving() as (_process, target):
        session_id = started(target)
        ran("cancel", session_id, "--target", target, *AS_CHAIR)
        assert ran("watch", session_id, "--target", target, *AS_CHAIR).splitlines()[-1] == "CANCELLED"
