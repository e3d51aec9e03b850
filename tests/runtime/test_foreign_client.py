"""A client that nobody here wrote, macp-sdk-python, drives a whole session in each mode against ``macp-rx serve``."""

from __future__ import annotations

from collections.abc import Iterator

import macp_sdk
import pytest
from macp.v1.envelope_pb2 import Envelope, SessionState
from macp_sdk import AuthConfig, MacpClient
from macp_sdk.base_session import BaseSession

from tests.cli.commands import serving

PEOPLE = ["chair", "alice", "bob"]


def auth(agent: str) -> AuthConfig:
    return AuthConfig.for_dev_agent(agent, expected_sender=agent)


CHAIR, ALICE, BOB = map(auth, PEOPLE)


@pytest.fixture(scope="module")
def client() -> Iterator[MacpClient]:
    with serving() as (_process, target), MacpClient(target=target, allow_insecure=True, auth=CHAIR) as client:
        yield client


def begin(session: BaseSession) -> None:
    assert session.start(intent="driven from outside", participants=PEOPLE, ttl_ms=60_000).ok


def end(session: BaseSession, action: str, *, positive: bool = True) -> None:
    ack = session.commit(action=action, authority_scope="team", reason="agreed", outcome_positive=positive)
    assert ack.session_state == SessionState.SESSION_STATE_RESOLVED
    assert session.metadata().metadata.state == SessionState.SESSION_STATE_RESOLVED


def told(client: MacpClient, session_id: str) -> list[Envelope]:
    """What a participant who comes last hears, up to the Commitment."""
    stream = client.open_stream(auth=BOB)
    stream.send_subscribe(session_id)
    heard = []
    for envelope in stream.responses(timeout=10):
        heard.append(envelope)
        if envelope.message_type == "Commitment":
            break
    stream.cancel()
    return heard


def check_what_was_told(client: MacpClient, session: BaseSession) -> None:
    """From what it is told, the foreign client comes to the same projection as from what it sent."""
    late = session._create_projection()
    for envelope in told(client, session.session_id):
        late.apply_envelope(envelope)
    assert (late.phase, late.commitment) == (session.projection.phase, session.projection.commitment)
    assert [envelope.payload for envelope in late.transcript] == [
        envelope.payload for envelope in session.projection.transcript
    ]
    assert not late.has_anomalies


def check_receipt(client: MacpClient, session: BaseSession) -> None:
    """Its receipt holds, in the foreign client's own verifier."""
    receipt = client.get_decision_receipt(session.session_id)
    assert receipt.receipt["commitment_hash"] == macp_sdk.commitment_hash(session.projection.commitment)
    assert macp_sdk.verify_receipt(receipt.receipt, {})["integrity"] == "match"
    assert client.get_decision_receipt(session.session_id, auth=ALICE).raw == receipt.raw


def test_it_shakes_hands(client: MacpClient) -> None:
    said = client.initialize()
    assert said.selected_protocol_version == "1.0"
    assert {mode.mode for mode in client.list_modes().modes} == set(macp_sdk.STANDARD_MODES)
    assert macp_sdk.MODE_MULTI_ROUND in {mode.mode for mode in client.list_ext_modes().modes}


def test_decision_under_a_policy(client: MacpClient) -> None:
    rules = macp_sdk.VotingRules(algorithm="majority", threshold=0.5)
    policy = macp_sdk.build_decision_policy("policy.outside", "Majority, from outside", voting=rules, schema_version=3)
    assert client.register_policy(policy).ok
    session = macp_sdk.DecisionSession(client, policy_version="policy.outside")
    begin(session)
    session.propose("p1", "canary")
    session.evaluate("p1", "APPROVE", confidence=0.9, sender="alice", auth=ALICE)
    session.raise_objection("p1", reason="slow", severity="low", sender="bob", auth=BOB)
    with pytest.raises(macp_sdk.MacpAckError) as denied:
        session.commit(action="decision.approved", authority_scope="team", reason="too soon", outcome_positive=True)
    assert denied.value.failure.code == macp_sdk.POLICY_DENIED
    session.vote("p1", "APPROVE", sender="alice", auth=ALICE)
    session.vote("p1", "REJECT", sender="bob", auth=BOB)
    end(session, "decision.approved")
    assert (
        session.decision_projection.majority_winner() is None
    )  # one each: the policy passes at half, the SDK asks for more
    check_what_was_told(client, session)
    check_receipt(client, session)


def test_proposal(client: MacpClient) -> None:
    session = macp_sdk.ProposalSession(client)
    begin(session)
    session.propose("p1", "ten")
    session.counter_propose("p2", "p1", "nine", sender="alice", auth=ALICE)
    session.withdraw("p1")
    for who, credential in zip(PEOPLE, [CHAIR, ALICE, BOB], strict=True):
        session.accept("p2", sender=who, auth=credential)
    end(session, "proposal.accepted")
    assert session.proposal_projection.accepted_proposal() == "p2"
    check_what_was_told(client, session)
    check_receipt(client, session)


def test_task(client: MacpClient) -> None:
    session = macp_sdk.TaskSession(client)
    begin(session)
    session.request_task("t1", "tidy up", requested_assignee="alice", input_data=b"\x00room")
    session.accept_task("t1", sender="alice", auth=ALICE)
    session.update_task("t1", status="working", progress=0.5, sender="alice", auth=ALICE)
    session.complete_task("t1", output=b"\xfftidy", sender="alice", auth=ALICE)
    end(session, "task.completed")
    assert session.task_projection.is_completed("t1")
    assert session.task_projection.current_assignee("t1") == "alice"
    check_what_was_told(client, session)
    check_receipt(client, session)


def test_handoff(client: MacpClient) -> None:
    session = macp_sdk.HandoffSession(client)
    begin(session)
    session.offer("h1", "alice", scope="the night shift")
    session.add_context("h1", context=b"notes")
    session.decline("h1", sender="alice", auth=ALICE)
    session.offer("h2", "bob", scope="the night shift")
    session.accept_handoff("h2", sender="bob", auth=BOB)
    end(session, "handoff.accepted")
    assert session.handoff_projection.is_accepted("h2")
    assert session.handoff_projection.declined_targets() == ["alice"]
    check_what_was_told(client, session)
    check_receipt(client, session)


def test_quorum(client: MacpClient) -> None:
    session = macp_sdk.QuorumSession(client)
    begin(session)
    session.request_approval("r1", "deploy", required_approvals=3)
    session.approve("r1", sender="alice", auth=ALICE)
    session.reject("r1", sender="bob", auth=BOB)
    assert session.quorum_projection.is_threshold_unreachable("r1", len(PEOPLE))
    end(session, "quorum.rejected", positive=False)
    check_what_was_told(client, session)
    check_receipt(client, session)


def test_multi_round(client: MacpClient) -> None:
    """The SDK has no session for this mode, only what builds its messages."""
    session_id = macp_sdk.new_session_id()

    def say(sender: str, message_type: str, payload: object) -> SessionState.ValueType:
        envelope = macp_sdk.build_envelope(
            mode=macp_sdk.MODE_MULTI_ROUND,
            message_type=message_type,
            session_id=session_id,
            sender=sender,
            payload=macp_sdk.serialize_message(payload),
        )
        return client.send(envelope, auth=auth(sender)).session_state

    start = macp_sdk.build_session_start_payload(intent="converge", participants=PEOPLE, ttl_ms=60_000)
    say("chair", "SessionStart", start)
    for who, value in zip(PEOPLE, ["red", "blue", "blue"], strict=True):
        say(who, "Contribute", macp_sdk.build_contribute_payload(value))
    say("chair", "Contribute", macp_sdk.build_contribute_payload("blue"))
    commitment = macp_sdk.build_commitment_payload(
        action="multi_round.converged", authority_scope="team", reason="blue", outcome_positive=True
    )
    assert say("chair", "Commitment", commitment) == SessionState.SESSION_STATE_RESOLVED
    assert len(told(client, session_id)) == 6
    with pytest.raises(macp_sdk.MacpTransportError) as refused:  # receipts are for the five standard modes
        client.get_decision_receipt(session_id)
    assert refused.value.macp_code == macp_sdk.RECEIPT_UNAVAILABLE


def test_a_session_paused_resumed_and_cancelled_and_its_watcher(client: MacpClient) -> None:
    session = macp_sdk.DecisionSession(client)
    begin(session)
    session.suspend(reason="lunch")
    session.resume()
    session.cancel(reason="enough")
    synced = (said.event.session for said in client.watch_sessions(timeout=10))
    mine = next(known for known in synced if known.session_id == session.session_id)
    assert mine.state == SessionState.SESSION_STATE_CANCELLED
