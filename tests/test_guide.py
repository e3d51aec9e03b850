"""The streaming guide, snippet by snippet, changed only in import root, session id and the case of the vote."""

from __future__ import annotations

import pytest
from macp.modes.decision.v1 import decision_pb2

from macp_rx import DecisionSession, MacpClient, MacpSessionError, new_session_id
from macp_rx.envelope import build_envelope, serialize_message
from tests.conftest import Connect


@pytest.fixture
def client(connect: Connect) -> MacpClient:
    return connect("coordinator")


def test_bidirectional_session_streaming(client: MacpClient, capsys: pytest.CaptureFixture[str]) -> None:
    my_session = new_session_id()
    session = DecisionSession(client, session_id=my_session)
    session.start(intent="guide", participants=["coordinator"], ttl_ms=60_000)
    session.propose("p1", "option-a")

    # Open a stream
    stream = client.open_stream()
    # Send an envelope through the stream
    payload = decision_pb2.VotePayload(proposal_id="p1", vote="APPROVE")
    envelope = build_envelope(
        mode="macp.mode.decision.v1",
        message_type="Vote",
        session_id=my_session,
        sender="coordinator",
        payload=serialize_message(payload),
    )
    stream.send(envelope)
    # Read accepted envelopes (blocking)
    response = stream.read(timeout=5.0)
    if response is not None:
        print(f"Accepted: {response.message_type} from {response.sender}")
    # Iterate over all responses
    for envelope in stream.responses(timeout=0.2):
        print(f"Got: {envelope.message_type}")
    # Close when done
    stream.close()

    assert capsys.readouterr().out == "Accepted: Vote from coordinator\n"


def test_session_helpers_and_streaming(client: MacpClient) -> None:
    session = DecisionSession(client, session_id=new_session_id())
    session.start(intent="...", participants=["a", "b", "coordinator"], ttl_ms=60_000)
    # Open a stream to observe accepted envelopes
    stream = session.open_stream()
    # Send via session helpers (unary RPCs)
    session.propose("p1", "option-a")
    # Read the accepted envelope from the stream
    response = stream.read(timeout=5.0)

    assert response is not None
    assert (response.message_type, response.sender) == ("SessionStart", "coordinator")
    response = stream.read(timeout=5.0)
    assert response is not None
    assert (response.message_type, response.sender) == ("Proposal", "coordinator")
    stream.close()


def test_without_replay_a_session_stream_has_exactly_what_is_accepted_from_now_on(client: MacpClient) -> None:
    session = DecisionSession(client)
    session.start(intent="...", participants=["coordinator"], ttl_ms=60_000)
    with session.open_stream(replay=False) as stream:
        session.propose("p1", "option-a")
        response = stream.read(timeout=5.0)
        assert response is not None
        assert response.message_type == "Proposal"


def test_a_session_stream_replays_from_the_start_unless_told_otherwise(client: MacpClient) -> None:
    session = DecisionSession(client)
    session.start(intent="...", participants=["coordinator"], ttl_ms=60_000)
    session.propose("p1", "option-a")
    with session.open_stream() as stream:
        assert [envelope.message_type for envelope in (stream.read(5), stream.read(5)) if envelope] == [
            "SessionStart",
            "Proposal",
        ]


def test_watch_mode_registry(client: MacpClient, capsys: pytest.CaptureFixture[str]) -> None:
    for event in client.watch_mode_registry(timeout=0.2):
        print(f"Registry changed: {event}")
    assert capsys.readouterr().out.startswith("Registry changed: change")


def test_watch_roots(client: MacpClient, capsys: pytest.CaptureFixture[str]) -> None:
    for event in client.watch_roots(timeout=0.2):
        print(f"Roots changed: {event}")
    assert capsys.readouterr().out.startswith("Roots changed: change")


def test_the_guides_placeholder_session_id_is_refused_with_the_forms_that_are_allowed() -> None:
    with pytest.raises(MacpSessionError, match=r"(?s)my-session.*UUID.*22"):
        build_envelope(mode="macp.mode.decision.v1", message_type="Vote", session_id="my-session", payload=b"")


def test_late_attach_is_no_limitation_any_more(client: MacpClient) -> None:
    session = DecisionSession(client)
    session.start(intent="late", participants=["coordinator"], ttl_ms=60_000)
    session.propose("p1", "option-a")
    late = client.open_stream()
    late.send_subscribe(session.session_id, after_sequence=1)
    response = late.read(timeout=5.0)
    assert response is not None
    assert response.message_type == "Proposal"


def test_many_sessions_on_one_client_and_nothing_to_close(client: MacpClient) -> None:
    sessions = [DecisionSession(client) for _ in range(5)]
    for session in sessions:
        session.start(intent="many", participants=["coordinator"], ttl_ms=60_000)
    streams = [session.open_stream() for session in sessions]
    for session, stream in zip(sessions, streams, strict=True):
        response = stream.read(timeout=5.0)
        assert response is not None
        assert response.session_id == session.session_id
    # not one of the streams is closed: the fixture checks that closing the client leaves no thread
