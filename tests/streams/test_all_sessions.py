"""All sessions at once, on every runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import reactivex as rx
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import SessionState
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, DecisionSession, MacpClient, MacpTransportError, Runtime, Stream
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION, TASK
from macp_rx.runtime import static_tokens
from macp_rx.streams.stream import HIGH_WATER
from tests.conftest import Connect, Recorder
from tests.runtime.conversation import Conversation
from tests.streams.exact import Reader, say
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


class TestEachSession:
    """A pipeline for each session."""

    @pytest.fixture
    def talks(self, macp_runtime: Runtime) -> list[Conversation]:
        """Three sessions of the chair's."""
        chair = MacpClient.embedded(agent="chair", runtime=macp_runtime)
        return [Conversation(chair, DECISION, ttl_ms=86_400_000) for _ in range(3)]

    def follow(
        self, wire: Wire, project: Callable[[core_pb2.SessionMetadata, Stream[Accepted]], Observable[Any]]
    ) -> Recorder:
        heard = Recorder()
        wire.client().each_session(project).subscribe(heard)
        wire.clock.advance_by(0)  # type: ignore[attr-defined]
        return heard

    def test_it_has_the_metadata_and_the_events_of_one(
        self, wire: Wire, talks: list[Conversation], virtual_time: VirtualClock
    ) -> None:
        def outcomes(
            metadata: core_pb2.SessionMetadata, events: Stream[Accepted]
        ) -> Observable[tuple[str, tuple[str, ...], int]]:
            return events.pipe(
                ops.count(), ops.map(lambda count: (metadata.session_id, tuple(metadata.participants), count))
            )

        heard = self.follow(wire, outcomes)
        for number, talk in enumerate(talks):
            say(talk, number + 1)
            talk.commit()
        virtual_time.advance_by(1)
        expected = [(talk.session_id, ("chair", "alice", "bob"), number + 3) for number, talk in enumerate(talks)]
        assert sorted(heard.items, key=str) == sorted(expected, key=str)
        assert (heard.error, heard.completed, wire.following) == (None, False, 0)

    @pytest.mark.parametrize("how", ["error", "raises while it is made", "raises later", "is no Observable"])
    def test_what_fails_ends_one_session_only(
        self,
        wire: Wire,
        talks: list[Conversation],
        virtual_time: VirtualClock,
        caplog: pytest.LogCaptureFixture,
        how: str,
    ) -> None:
        broken = talks[1].session_id

        def fail(_: object) -> Any:
            raise ValueError("no pipeline")

        def project(metadata: core_pb2.SessionMetadata, events: Stream[Accepted]) -> Any:
            if metadata.session_id != broken:
                return events
            if how == "raises while it is made":
                fail(metadata)
            made: dict[str, Any] = {
                "error": rx.throw(ValueError("no pipeline")),
                "raises later": events.pipe(ops.map(fail)),
            }
            return made.get(how)

        heard = self.follow(wire, project)
        for talk in talks:
            say(talk)
        virtual_time.advance_by(1)
        told = {one.session_id for one in heard.items if isinstance(one, Accepted)}
        assert told == {talk.session_id for talk in talks} - {broken}
        assert heard.error is None
        (record,) = caplog.records
        why = "a session's pipeline is an Observable, not NoneType" if how == "is no Observable" else "no pipeline"
        assert record.getMessage() == f"{broken}: {why}"
        assert wire.following == 2

    def test_a_pipeline_that_has_enough_is_left_and_not_begun_again(
        self, wire: Wire, talks: list[Conversation], virtual_time: VirtualClock
    ) -> None:
        made: list[str] = []

        def first(metadata: core_pb2.SessionMetadata, events: Stream[Accepted]) -> Observable[Accepted]:
            made.append(metadata.session_id)
            return events.pipe(ops.take(1))

        heard = self.follow(wire, first)
        wire.cut()  # and the watch begins anew, with every session
        virtual_time.advance_by(10)
        for talk in talks:
            say(talk)
        virtual_time.advance_by(1)
        assert sorted(made) == sorted(talk.session_id for talk in talks)
        assert [one.message_type for one in heard.items if isinstance(one, Accepted)] == ["SessionStart"] * 3
        assert wire.following == 0

    def test_who_has_enough_of_all_leaves_all(
        self, wire: Wire, talks: list[Conversation], virtual_time: VirtualClock
    ) -> None:
        heard = Recorder()
        wire.client().each_session(lambda _metadata, events: events).pipe(ops.take(2)).subscribe(heard)
        virtual_time.advance_by(1)
        assert (len(heard.items), heard.completed, wire.open_streams) == (2, True, 0)

    def test_a_reader_that_waits_holds_every_session(
        self, wire: Wire, talks: list[Conversation], virtual_time: VirtualClock
    ) -> None:
        def project(_metadata: core_pb2.SessionMetadata, events: Stream[Accepted]) -> Observable[str]:
            return events.pipe(ops.map(lambda accepted: accepted.message_id))

        reader = Reader(wire.client().each_session(project), virtual_time)
        virtual_time.advance_by(0)
        reader.wait()
        virtual_time.advance_by(0)
        before = len(reader.heard.items)
        for talk in talks:
            say(talk, HIGH_WATER // 2)
        virtual_time.advance_by(1)
        assert len(reader.heard.items) == before == 3
        later = Conversation(talks[0].client, DECISION, ttl_ms=86_400_000)
        virtual_time.advance_by(1)
        assert len(reader.heard.items) == before  # one that appears meanwhile waits, too
        reader.go_on()
        virtual_time.advance_by(1)
        expected = sorted(envelope.message_id for talk in (*talks, later) for envelope in talk.history())
        assert sorted(str(item) for item in reader.heard.items) == expected
        reader.leave()

    def test_a_question_that_raises_is_the_error_of_the_whole(
        self, wire: Wire, talks: list[Conversation], virtual_time: VirtualClock
    ) -> None:
        heard = Recorder()

        def wanted(_metadata: core_pb2.SessionMetadata) -> bool:
            raise ValueError("no answer")

        wire.client().all_events(where=wanted).subscribe(heard)
        virtual_time.advance_by(1)
        assert isinstance(heard.error, ValueError)
        assert wire.open_streams == 0


class TestForeignSessions:
    @pytest.fixture
    def wire(self, virtual_time: VirtualClock) -> Any:
        """To a runtime with an observer."""
        tokens = [{"token": name, "sender": name} for name in ("chair", "mallory")]
        reader = {"token": "reader", "sender": "reader", "is_observer": True}
        wire = Wire(Runtime(clock=virtual_time, identify=static_tokens(json.dumps([*tokens, reader]))))
        yield wire
        wire.close(lambda: None)

    @pytest.fixture
    def talks(self, wire: Wire) -> list[Conversation]:
        return [Conversation(wire.client("chair"), DECISION, ["chair"], ttl_ms=86_400_000) for _ in range(20)]

    @pytest.mark.parametrize(("who", "tries", "reads"), [("mallory", 1, 0), ("reader", 1, 20)])
    def test_one_try_tells_whether_the_caller_may_read_them(
        self, wire: Wire, talks: list[Conversation], virtual_time: VirtualClock, who: str, tries: int, reads: int
    ) -> None:
        heard = Recorder()
        wire.client(who).all_events().subscribe(heard)
        virtual_time.advance_by(1)
        assert len(wire.made("StreamSession")) == tries + reads
        assert len(heard.items) == reads
        late = Conversation(talks[0].client, DECISION, ["chair"], ttl_ms=86_400_000)
        say(late)
        virtual_time.advance_by(1)
        assert len(heard.items) == reads + (2 if reads else 0)
        assert heard.error is None

    def test_a_try_that_fails_tells_nothing_and_the_next_is_tried(
        self, wire: Wire, talks: list[Conversation], virtual_time: VirtualClock
    ) -> None:
        gone = MacpTransportError("NOT_FOUND", "evicted", code="SESSION_NOT_FOUND")
        wire.next("StreamSession", Fault(error=gone), Fault(error=gone))
        heard = Recorder()
        wire.client("reader").all_events().subscribe(heard)
        virtual_time.advance_by(1)
        assert len(heard.items) == 18

    def test_one_s_own_are_not_held_up_by_the_try(
        self, wire: Wire, talks: list[Conversation], virtual_time: VirtualClock
    ) -> None:
        own = Conversation(wire.client("mallory"), DECISION, ["mallory"], initiator="mallory", ttl_ms=86_400_000)
        wire.next("StreamSession", Fault(hangs=True))
        heard = Recorder()
        wire.client("mallory").all_events().subscribe(heard)
        virtual_time.advance_by(1)
        assert [one.session_id for one in heard.items if isinstance(one, Accepted)] == [own.session_id]
