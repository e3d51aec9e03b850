"""All sessions at once, on every runtime."""

from __future__ import annotations

from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import SessionState

from macp_rx import Accepted, DecisionSession, MacpClient
from macp_rx.protocol.messages import DECISION, TASK
from tests.conftest import Connect, Recorder


def started(client: MacpClient, *participants: str) -> DecisionSession:
    session = DecisionSession(client)
    session.start(intent="all", participants=participants, ttl_ms=60_000)
    return session


def heard_of(recorder: Recorder, session: DecisionSession) -> list[str]:
    """What was heard of one session; other tests' sessions live on the same real server."""
    return [
        item.message_type
        for item in recorder.items
        if isinstance(item, Accepted) and item.session_id == session.session_id
    ]


def test_sessions_that_are_there_and_that_appear_until_each_ends(connect: Connect) -> None:
    chair = connect("all-chair")
    first = started(chair, "all-chair", "all-alice")
    recorder = Recorder()
    connect("all-alice").all_events(mode=DECISION).subscribe(recorder)
    recorder.wait(lambda heard: heard_of(heard, first) == ["SessionStart"])
    second = started(chair, "all-chair", "all-alice")
    second.propose("p1", "one")
    second.commit(action="decision.selected", authority_scope="test", reason="enough")
    first.propose("p1", "one")
    recorder.wait(lambda heard: heard_of(heard, second) == ["SessionStart", "Proposal", "Commitment"])
    recorder.wait(lambda heard: heard_of(heard, first) == ["SessionStart", "Proposal"])
    first.cancel()
    client = connect("all-alice")
    recorder.wait(lambda _: first.metadata().state == SessionState.SESSION_STATE_CANCELLED)
    assert client.subscriptions == ()


def test_a_session_that_ended_before_is_not_told(connect: Connect) -> None:
    chair = connect("old-chair")
    old = started(chair, "old-chair")
    old.cancel()
    recorder = Recorder()
    chair.all_events().subscribe(recorder)
    new = started(chair, "old-chair")
    recorder.wait(lambda heard: heard_of(heard, new) == ["SessionStart"])
    assert heard_of(recorder, old) == []


def test_foreign_sessions_are_left_alone(connect: Connect) -> None:
    foreign = started(connect("foreign-chair"), "foreign-chair")
    mallory = connect("mallory")
    recorder = Recorder()
    mallory.all_events().subscribe(recorder)
    own = started(mallory, "mallory")
    recorder.wait(lambda heard: heard_of(heard, own) == ["SessionStart"])
    assert heard_of(recorder, foreign) == []
    assert recorder.error is None


def test_only_what_is_wanted(connect: Connect) -> None:
    chair = connect("where-chair")
    recorder, none = Recorder(), Recorder()

    def wanted(metadata: core_pb2.SessionMetadata) -> bool:
        return "where-bob" in metadata.participants

    chair.all_events(where=wanted).subscribe(recorder)
    chair.all_events(mode=TASK).subscribe(none)
    without, with_bob = started(chair, "where-chair"), started(chair, "where-chair", "where-bob")
    recorder.wait(lambda heard: heard_of(heard, with_bob) == ["SessionStart"])
    assert heard_of(recorder, without) == []
    assert none.items == []


def test_leaving_closes_every_call(connect: Connect) -> None:
    chair = connect("leaving-chair")
    sessions = [started(chair, "leaving-chair") for _ in range(5)]
    recorder = Recorder()
    subscription = chair.all_events().subscribe(recorder)
    recorder.wait(lambda heard: all(heard_of(heard, session) for session in sessions))
    assert len(chair.subscriptions) >= 6
    subscription.dispose()
    sessions[0].propose("p1", "one")  # behind the dispose, on the same thread
    assert chair.subscriptions == ()
    assert heard_of(recorder, sessions[0]) == ["SessionStart"]
