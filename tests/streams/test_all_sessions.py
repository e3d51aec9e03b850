"""All sessions at once, on every runtime."""

from __future__ import annotations

from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import SessionState

from macp_rx import Accepted, DecisionSession, MacpClient
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION, TASK
from tests.conftest import Connect, Recorder
from tests.runtime.conversation import Conversation
from tests.streams.exact import say
from tests.streams.wire import CUT, Fault, Wire


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


def test_one_that_raises_hears_its_own_error_and_leaves_all_sessions(
    wire: Wire, talk: Conversation, virtual_time: VirtualClock
) -> None:
    other = Conversation(talk.client, DECISION)
    errors: list[Exception] = []
    heard = Recorder()

    def raising(accepted: Accepted) -> None:
        heard.on_next(accepted)
        raise ZeroDivisionError

    wire.client().all_events().subscribe(raising, errors.append)
    virtual_time.advance_by(0)
    say(other)
    virtual_time.advance_by(1)
    assert len(heard.items) == 1
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert wire.open_streams == 0


def test_a_closed_client_looks_for_no_more_sessions(wire: Wire, talk: Conversation, virtual_time: VirtualClock) -> None:
    heard = Recorder()
    wire.client().all_events().subscribe(heard)
    virtual_time.advance_by(0)
    wire.next("WatchSessions", *[Fault(error=CUT)] * 10)
    wire.cut()
    virtual_time.advance_by(0.1)
    wire.close(lambda: None)
    virtual_time.advance_by(10)
    assert heard.error is None


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
