"""The session stream: everything a session accepted, in order, once, until the session ends, whatever the connection does."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactivex import abc
from reactivex import operators as ops

from macp_rx import (
    Accepted,
    DecisionSession,
    MacpClient,
    MacpStreamError,
    MacpTimeoutError,
    MacpTransportError,
    Runtime,
)
from macp_rx.clock import VirtualClock
from macp_rx.errors import MacpGapError
from macp_rx.protocol.messages import DECISION, HANDOFF, PROPOSAL
from macp_rx.protocol.modes import decision, handoff, proposal
from macp_rx.runtime.kernel import Settings
from macp_rx.streams.retry import RetryPolicy
from macp_rx.streams.session import RECONNECT, Connection, SessionStream, Status
from macp_rx.testing import Marbles
from tests.conftest import Connect, Recorder
from tests.runtime.conversation import OK, Conversation
from tests.streams.exact import Reader, exact, say
from tests.streams.wire import CUT, INTERNAL, LAGGED, Fault, Wire

LOSSES = [
    pytest.param(LAGGED, id="lagged"),
    pytest.param(CUT, id="unavailable"),
    pytest.param(INTERNAL, id="reset"),
    pytest.param(MacpTransportError("INTERNAL", code="INTERNAL_ERROR"), id="internal error"),
    pytest.param(MacpTransportError("CANCELLED", "GOAWAY"), id="cancelled by the server"),
    pytest.param(MacpTransportError("UNKNOWN", "Stream removed"), id="unknown"),
    pytest.param(None, id="clean end"),
]
HOPELESS = MacpTransportError("PERMISSION_DENIED", "no", code="FORBIDDEN")


def follow(stream: SessionStream) -> tuple[Recorder, abc.DisposableBase]:
    heard = Recorder()
    return heard, stream.subscribe(heard)


@pytest.fixture
def events(wire: Wire, talk: Conversation) -> SessionStream:
    """The session's stream, over the wire."""
    return wire.client().session_events(talk.session_id)


@pytest.fixture
def heard(events: SessionStream, virtual_time: VirtualClock) -> Recorder:
    """Somebody who listens to it, and has caught up."""
    heard, _ = follow(events)
    virtual_time.advance_by(0)
    return heard


class TestReconnecting:
    @pytest.mark.parametrize("error", LOSSES)
    def test_it_reopens_behind_its_last_sequence(
        self,
        heard: Recorder,
        talk: Conversation,
        wire: Wire,
        virtual_time: VirtualClock,
        error: MacpTransportError | None,
    ) -> None:
        say(talk, 2)
        virtual_time.advance_by(0)
        wire.cut(error)
        say(talk, 2)
        assert len(heard.items) == 3
        virtual_time.advance_by(1)
        exact(heard, talk)
        assert wire.asked_after() == [0, 2]
        say(talk)
        virtual_time.advance_by(0)
        exact(heard, talk)

    @pytest.mark.parametrize("error", LOSSES)
    def test_also_where_the_replay_breaks_off(
        self,
        events: SessionStream,
        talk: Conversation,
        wire: Wire,
        virtual_time: VirtualClock,
        error: MacpTransportError | None,
    ) -> None:
        say(talk, 5)
        wire.next("StreamSession", Fault(error=error, ends=True, after=2), Fault(error=error, ends=True, after=3))
        heard, _ = follow(events)
        virtual_time.advance_by(2)
        exact(heard, talk)
        assert wire.asked_after() == [0, 1, 3]

    def test_from_where_it_was_asked_to_begin(self, talk: Conversation, wire: Wire, virtual_time: VirtualClock) -> None:
        say(talk, 3)
        heard, _ = follow(wire.client().session_events(talk.session_id, 2))
        virtual_time.advance_by(0)
        wire.cut()
        virtual_time.advance_by(1)
        say(talk)
        virtual_time.advance_by(0)
        exact(heard, talk, after=2)
        assert wire.asked_after() == [2, 3]

    @pytest.mark.parametrize("status", ["INVALID_ARGUMENT", "UNAUTHENTICATED", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"])
    def test_an_error_that_will_not_pass_is_told(
        self, heard: Recorder, wire: Wire, virtual_time: VirtualClock, status: str
    ) -> None:
        error = MacpTransportError(status, "never")
        wire.cut(error)
        virtual_time.advance_by(10)
        assert heard.error is error
        assert len(wire.made("StreamSession")) == 1

    def test_also_where_it_is_the_answer_to_a_reconnection(
        self, heard: Recorder, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.next("StreamSession", Fault(error=CUT), Fault(error=HOPELESS))
        wire.cut()
        virtual_time.advance_by(10)
        assert heard.error is HOPELESS

    def test_the_waits_double_up_to_half_a_second(
        self, heard: Recorder, wire: Wire, virtual_time: VirtualClock, no_jitter: None
    ) -> None:
        wire.next("StreamSession", *[Fault(error=CUT), Fault(ends=True)] * 3)
        wire.cut()
        virtual_time.advance_by(10)
        assert wire.times("StreamSession") == pytest.approx([0, 0.05, 0.15, 0.35, 0.75, 1.25, 1.75, 2.25])
        assert heard.error is None

    def test_the_waits_are_a_function_of_the_seed(self) -> None:
        def run(seed: int) -> list[float]:
            clock = VirtualClock(seed=seed)
            wire = Wire(Runtime(clock=clock))
            wire.next("StreamSession", *[Fault(error=CUT)] * 5)
            client = wire.client()
            session = DecisionSession(client)
            session.start(intent="seeds", participants=["chair"], ttl_ms=60_000)
            session.events.subscribe(Recorder())
            clock.advance_by(5)
            client.close()
            return wire.times("StreamSession")

        assert run(1) == run(1) != run(2)
        assert all(0.025 <= later - sooner <= 0.5 for sooner, later in zip(run(1), run(1)[1:], strict=False))

    def test_progress_begins_the_waits_anew(
        self, heard: Recorder, wire: Wire, virtual_time: VirtualClock, no_jitter: None
    ) -> None:
        wire.next("StreamSession", Fault(error=CUT), Fault(error=CUT))
        wire.cut()
        virtual_time.advance_by(1)
        wire.cut()
        virtual_time.advance_by(1)
        assert wire.times("StreamSession") == pytest.approx([0, 0.05, 0.15, 0.35, 1.05])

    def test_progress_begins_the_budget_anew(self, talk: Conversation, wire: Wire, virtual_time: VirtualClock) -> None:
        patience = RetryPolicy(first=0.05, cap=0.5, give_up_after=2)
        heard, _ = follow(wire.client().session_events(talk.session_id, retry=patience))
        for _ in range(5):
            virtual_time.advance_by(1)
            wire.next("StreamSession", Fault(error=CUT), Fault(error=CUT), Fault(error=CUT))
            wire.cut()
        virtual_time.advance_by(1.5)
        say(talk)
        virtual_time.advance_by(0)
        exact(heard, talk)

    @pytest.mark.parametrize(
        ("last", "told"),
        [
            (Fault(error=INTERNAL), "RST_STREAM"),
            (Fault(ends=True), "the server ends the stream of a session that is open"),
        ],
    )
    def test_it_gives_up_in_time_with_the_last_error(
        self, events: SessionStream, heard: Recorder, wire: Wire, virtual_time: VirtualClock, last: Fault, told: str
    ) -> None:
        virtual_time.advance_by(7)
        wire.next("StreamSession", *[Fault(error=CUT)] * 10, *[last] * 1000)
        wire.cut()
        virtual_time.advance_by(RECONNECT.give_up_after - 0.001)
        assert heard.error is None
        virtual_time.advance_by(0.001)
        assert isinstance(heard.error, MacpTransportError)
        assert told in str(heard.error)
        assert wire.open_streams == 0

    def test_it_gives_up_in_time_where_no_server_can_be_reached(
        self, heard: Recorder, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        """Then there is no error at all: a call that is patient waits for a connection."""
        wire.next("StreamSession", *[Fault(error=CUT)] * 10)
        wire.down = CUT
        wire.cut()
        virtual_time.advance_by(RECONNECT.give_up_after - 0.001)
        assert heard.error is None
        virtual_time.advance_by(0.001)
        assert isinstance(heard.error, MacpTransportError)
        assert heard.error.status == "UNAVAILABLE"
        assert "no connection within 300 s" in str(heard.error)
        assert str(heard.error.__cause__) == "the connection was reset"
        assert wire.open_streams == 0

    def test_a_server_that_comes_back_is_found_at_once(
        self, heard: Recorder, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.down = CUT
        wire.cut()
        virtual_time.advance_by(250)
        say(talk, 3)
        wire.up()
        virtual_time.advance_by(0)
        exact(heard, talk)
        virtual_time.advance_by(RECONNECT.give_up_after)
        assert heard.error is None

    def test_where_nobody_has_ever_answered_the_first_error_is_told(
        self, events: SessionStream, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        """More likely a wrong address than an outage."""
        wire.reached = False
        wire.down = CUT
        heard, _ = follow(events)
        virtual_time.advance_by(10)
        assert heard.error is CUT
        assert len(wire.made("StreamSession")) == 1

    def test_what_the_stream_itself_has_reached_is_known_to_answer(
        self, events: SessionStream, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.reached = False
        heard, _ = follow(events)
        virtual_time.advance_by(0)
        wire.cut()
        virtual_time.advance_by(1)
        say(talk)
        virtual_time.advance_by(0)
        exact(heard, talk)

    def test_the_history_reconnects_too(self, talk: Conversation, wire: Wire) -> None:
        say(talk, 5)
        wire.next("StreamSession", Fault(error=CUT, after=2), Fault(error=LAGGED), Fault(ends=True, after=4))
        assert [accepted.sequence for accepted in wire.client().history(talk.session_id)] == [1, 2, 3, 4, 5, 6]

    def test_a_closed_client_is_silent_and_calls_nobody(
        self, heard: Recorder, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.next("StreamSession", *[Fault(error=CUT)] * 3)
        wire.cut()
        virtual_time.advance_by(0.1)
        calls = len(wire.made("StreamSession"))
        wire.close(lambda: None)
        virtual_time.advance_by(10)
        assert len(wire.made("StreamSession")) == calls
        assert heard.error is None

    def test_a_reader_that_waits_is_told_nothing_by_the_call_that_was_reopened(
        self, events: SessionStream, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        reader = Reader(events, virtual_time)
        virtual_time.advance_by(0)
        reader.wait()
        wire.cut()
        say(talk, 3)
        virtual_time.advance_by(1)
        assert len(wire.made("StreamSession")) == 2
        assert len(reader.heard.items) == 1
        reader.go_on()
        virtual_time.advance_by(0)
        exact(reader.heard, talk)


class TestRedelivery:
    def test_what_comes_twice_is_dropped_and_does_not_move_the_cursor(
        self, events: SessionStream, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        say(talk, 7)
        wire.next("StreamSession", Fault(error=CUT, after=5), Fault(error=CUT, after=5, redelivers=4))
        heard, _ = follow(events)
        virtual_time.advance_by(1)
        exact(heard, talk)
        assert wire.asked_after() == [0, 4, 0, 5]

    def test_also_on_one_call(
        self, events: SessionStream, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        say(talk, 3)
        wire.next("StreamSession", Fault(doubled=True))
        heard, _ = follow(events)
        say(talk, 3)
        virtual_time.advance_by(0)
        exact(heard, talk)

    @pytest.mark.parametrize("behind", [1, 100, 511])
    def test_also_much_later(
        self, events: SessionStream, talk: Conversation, wire: Wire, virtual_time: VirtualClock, behind: int
    ) -> None:
        wire.next("StreamSession", Fault(repeats=behind))
        heard, _ = follow(events)
        say(talk, 1200)
        virtual_time.advance_by(0)
        exact(heard, talk)

    def test_also_where_the_whole_of_the_servers_buffer_comes_twice(
        self, events: SessionStream, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        say(talk, 1500)
        wire.next("StreamSession", Fault(error=CUT, after=1300), Fault(redelivers=512))
        heard, _ = follow(events)
        virtual_time.advance_by(1)
        exact(heard, talk)


class TestDispose:
    def test_from_inside_on_next(
        self, events: SessionStream, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        say(talk, 3)
        heard = Recorder()

        def leave(accepted: Accepted) -> None:
            heard.on_next(accepted)
            if accepted.sequence == 2:
                subscription.dispose()

        subscription = events.subscribe(leave, heard.on_error, heard.on_completed)
        virtual_time.advance_by(5)
        assert len(heard.items) == 2
        assert not heard.completed
        assert wire.open_streams == 0

    def test_from_inside_on_next_of_the_commitment_it_never_completes(
        self, events: SessionStream, talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        say(talk)
        talk.commit()
        heard = Recorder()

        def leave(accepted: Accepted) -> None:
            if accepted.message_type == "Commitment":
                subscription.dispose()

        subscription = events.subscribe(leave, heard.on_error, heard.on_completed)
        virtual_time.advance_by(5)
        assert not heard.completed

    def test_twice(self, events: SessionStream, wire: Wire, virtual_time: VirtualClock) -> None:
        _, subscription = follow(events)
        virtual_time.advance_by(0)
        subscription.dispose()
        subscription.dispose()
        virtual_time.advance_by(5)
        assert wire.open_streams == 0
        assert len(wire.made("StreamSession")) == 1

    def test_before_the_call_exists(self, events: SessionStream, wire: Wire, virtual_time: VirtualClock) -> None:
        heard, subscription = follow(events)
        subscription.dispose()
        virtual_time.advance_by(5)
        assert wire.calls == []
        assert heard.items == []

    def test_before_the_call_is_open(self, events: SessionStream, wire: Wire, virtual_time: VirtualClock) -> None:
        wire.down = CUT
        heard, subscription = follow(events)
        virtual_time.advance_by(0.5)
        subscription.dispose()
        wire.up()
        virtual_time.advance_by(5)
        assert wire.open_streams == 0
        assert (heard.items, heard.error) == ([], None)

    def test_while_it_waits_to_reconnect(self, events: SessionStream, wire: Wire, virtual_time: VirtualClock) -> None:
        heard, subscription = follow(events)
        virtual_time.advance_by(0)
        wire.next("StreamSession", *[Fault(error=CUT)] * 100)
        wire.cut()
        virtual_time.advance_by(0.6)
        calls = len(wire.made("StreamSession"))
        assert calls > 2
        subscription.dispose()
        virtual_time.advance_by(400)
        assert len(wire.made("StreamSession")) == calls
        assert heard.error is None

    @pytest.mark.parametrize("connection", Connection)
    def test_on_hearing_of_the_connection(
        self, forgetful: Wire, virtual_time: VirtualClock, connection: Connection
    ) -> None:
        """Then nothing more is told, no call is made, and nobody asks for the session's end."""
        talk = Conversation(forgetful.client(), DECISION)
        events = forgetful.client().session_events(talk.session_id, 1, on_gap="continue")
        heard, subscription = follow(events)
        told: list[Connection] = []
        calls: list[int] = []

        def leave(status: Status) -> None:
            told.append(status.connection)
            if status.connection is connection:
                subscription.dispose()
                calls.append(len(forgetful.made("StreamSession")))

        events.status.subscribe(leave)
        virtual_time.advance_by(0)
        forgetful.cut()
        say(talk)
        talk.commit()
        virtual_time.advance_by(400)
        assert told[-1] is connection
        assert [len(forgetful.made("StreamSession"))] == calls
        assert forgetful.open_streams == 0
        assert (heard.error, heard.completed) == (None, False)

    def test_who_drops_the_handle_goes_on_listening(
        self, events: SessionStream, talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        heard = Recorder()
        events.subscribe(heard)
        virtual_time.advance_by(0)
        gc.collect()
        say(talk)
        virtual_time.advance_by(0)
        exact(heard, talk)


class TestRaising:
    @pytest.mark.parametrize("error", [ZeroDivisionError(), CUT, MacpTimeoutError("late"), HOPELESS], ids=repr)
    def test_a_subscriber_that_raises_hears_its_own_error_and_its_call_ends(
        self, events: SessionStream, wire: Wire, virtual_time: VirtualClock, error: Exception
    ) -> None:
        """Also one that looks as if the connection were lost."""
        errors: list[Exception] = []

        def raising(_accepted: Accepted) -> None:
            raise error

        events.subscribe(raising, errors.append)
        virtual_time.advance_by(5)
        assert errors == [error]
        assert wire.open_streams == 0
        assert len(wire.made("StreamSession")) == 1


@pytest.fixture
def forgetful(virtual_time: VirtualClock) -> Iterator[Wire]:
    """A wire to a runtime that forgets a session's history when the session ends, as a file-backed server does."""
    wire = Wire(Runtime(clock=virtual_time, settings=Settings(compact_ended=True)))
    yield wire
    wire.close(lambda: None)


class TestGap:
    def behind(self, wire: Wire, **options: Any) -> tuple[Recorder, list[Status], Conversation]:
        """A reader that has heard 3 of the 6 envelopes of a session when it is committed to."""
        clock = wire.clock
        assert isinstance(clock, VirtualClock)
        talk = Conversation(wire.client(), DECISION)
        say(talk, 2)
        events = wire.client().session_events(talk.session_id, **options)
        statuses: list[Status] = []
        events.status.subscribe(statuses.append)
        heard, _ = follow(events)
        clock.advance_by(0)
        wire.cut()
        say(talk, 2)
        assert talk.commit() == OK
        clock.advance_by(2)
        return heard, statuses, talk

    def test_a_reader_that_was_behind_is_told_what_it_lost(self, forgetful: Wire) -> None:
        heard, _, talk = self.behind(forgetful)
        error = heard.error
        assert isinstance(error, MacpGapError)
        assert (error.seen, error.lowest, error.session_id) == (3, 6, talk.session_id)
        assert (error.code, error.status) == ("HISTORY_UNAVAILABLE", "FAILED_PRECONDITION")
        assert str(error) == f"of session {talk.session_id!r} sequences 4 to 6 are forgotten"
        assert isinstance(error.__cause__, MacpTransportError)
        assert forgetful.open_streams == 0

    def test_or_goes_on_behind_the_gap_and_ends(self, forgetful: Wire) -> None:
        heard, statuses, _ = self.behind(forgetful, on_gap="continue")
        assert heard.error is None
        assert heard.completed
        assert len(heard.items) == 3
        (gap,) = [status for status in statuses if status.connection is Connection.GAP]
        assert (gap.sequence, gap.missing) == (6, 3)
        assert isinstance(gap.error, MacpTransportError)

    def test_whoever_comes_later_finds_nothing(self, forgetful: Wire, virtual_time: VirtualClock) -> None:
        _, _, talk = self.behind(forgetful)
        late, _ = follow(forgetful.client().session_events(talk.session_id))
        virtual_time.advance_by(1)
        assert isinstance(late.error, MacpGapError)
        assert (late.error.seen, late.error.lowest) == (0, 6)

    def test_whoever_had_caught_up_lost_nothing(self, forgetful: Wire, virtual_time: VirtualClock) -> None:
        talk = Conversation(forgetful.client(), DECISION)
        heard, _ = follow(forgetful.client().session_events(talk.session_id))
        say(talk, 3)
        talk.commit()
        virtual_time.advance_by(0)
        assert len(heard.items) == 5
        assert heard.completed

    def test_what_is_forgotten_while_it_is_counted_is_told_too(
        self, forgetful: Wire, virtual_time: VirtualClock
    ) -> None:
        talk = Conversation(forgetful.client(), DECISION)
        say(talk, 2)
        heard, _ = follow(forgetful.client().session_events(talk.session_id))
        virtual_time.advance_by(0)
        forgetful.next("StreamSession", Fault(redelivers=2), Fault(error=CUT))
        forgetful.cut()
        virtual_time.advance_by(0.05)
        assert forgetful.asked_after() == [0, 2, 0]
        talk.commit()
        virtual_time.advance_by(1)
        assert isinstance(heard.error, MacpGapError)
        assert (heard.error.seen, heard.error.lowest) == (3, 4)

    def test_a_server_that_does_not_say_where_its_history_begins_cannot_be_gone_on_with(
        self, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        silent = MacpTransportError("FAILED_PRECONDITION", code="HISTORY_UNAVAILABLE")
        wire.next("StreamSession", Fault(error=silent))
        heard, _ = follow(wire.client().session_events(talk.session_id, on_gap="continue"))
        virtual_time.advance_by(1)
        assert isinstance(heard.error, MacpGapError)
        assert heard.error.lowest is None

    def test_a_gap_that_is_none_ends_it_instead_of_asking_for_ever(
        self, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wrong = MacpTransportError(
            "FAILED_PRECONDITION", code="HISTORY_UNAVAILABLE", details=b'{"lowest_available_sequence":1}'
        )
        wire.next("StreamSession", Fault(error=CUT, after=1), *[Fault(error=wrong)] * 100)
        heard, _ = follow(wire.client().session_events(talk.session_id, on_gap="continue"))
        virtual_time.advance_by(1)
        assert isinstance(heard.error, MacpGapError)
        assert wire.asked_after() == [0, 0, 1]

    def test_a_server_that_goes_away_at_the_gap_is_not_waited_for_for_ever(
        self, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        say(talk, 3)
        forgotten = MacpTransportError(
            "FAILED_PRECONDITION", code="HISTORY_UNAVAILABLE", details=b'{"lowest_available_sequence":2}'
        )
        events = wire.client().session_events(talk.session_id, on_gap="continue")
        wire.next("StreamSession", Fault(error=forgotten))
        events.status.subscribe(lambda status: setattr(wire, "down", CUT))
        heard, _ = follow(events)
        virtual_time.advance_by(RECONNECT.give_up_after + 1)
        assert isinstance(heard.error, MacpTransportError)
        assert heard.error.status == "UNAVAILABLE"


class TestUntold:
    """The reference runtime, on files, accepts from a caller whose connection breaks, and tells its live readers nothing."""

    @pytest.fixture
    def lossy(self, wire: Wire) -> Wire:
        """The wire to a server in another process, which does not tell the third envelope of a session live."""
        wire.in_process = False
        told = 0

        def untold(rpc: str, response: Any) -> Any:
            nonlocal told
            if rpc == "StreamSession" and response.HasField("envelope"):
                told += 1
                if told == 3:
                    return None
            return response

        wire.rewrite = untold
        return wire

    def test_it_is_found_out_when_the_stream_is_reopened(
        self, heard: Recorder, talk: Conversation, lossy: Wire, virtual_time: VirtualClock
    ) -> None:
        say(talk, 4)
        virtual_time.advance_by(0)
        assert heard.error is None
        lossy.cut()
        virtual_time.advance_by(1)
        assert isinstance(heard.error, MacpGapError)
        assert (heard.error.seen, heard.error.untold) == (4, 1)
        assert "1 envelopes were accepted and never told" in str(heard.error)

    def test_or_at_the_end(self, heard: Recorder, talk: Conversation, lossy: Wire, virtual_time: VirtualClock) -> None:
        say(talk, 4)
        talk.commit()
        virtual_time.advance_by(1)
        assert isinstance(heard.error, MacpGapError)
        assert (heard.error.seen, heard.error.untold) == (5, 1)

    def test_or_gone_on_behind(self, talk: Conversation, lossy: Wire, virtual_time: VirtualClock) -> None:
        """From then on what comes has its own place in the history again."""
        events = lossy.client().session_events(talk.session_id, on_gap="continue")
        gaps: list[Status] = []
        events.status.pipe(ops.filter(lambda status: status.connection is Connection.GAP)).subscribe(gaps.append)
        heard, _ = follow(events)
        virtual_time.advance_by(0)
        say(talk, 4)
        virtual_time.advance_by(0)
        lossy.cut()
        virtual_time.advance_by(1)
        say(talk)
        talk.commit()
        virtual_time.advance_by(1)
        assert heard.completed
        assert [one.sequence for one in heard.items if isinstance(one, Accepted)] == [1, 2, 3, 4, 6, 7]
        assert [(gap.sequence, gap.missing) for gap in gaps] == [(5, 1)]

    def test_a_history_without_what_was_heard_last_is_another_one(
        self, heard: Recorder, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        """Such as that of a server that was set back."""
        say(talk, 2)
        virtual_time.advance_by(0)
        last = talk.history()[-1].message_id
        wire.rewrite = lambda _rpc, response: None if response.envelope.message_id == last else response
        wire.cut()
        virtual_time.advance_by(1)
        assert isinstance(heard.error, MacpGapError)
        assert "is not the one that was read up to sequence 3" in str(heard.error)

    def test_where_all_was_told_the_end_is_asked_for_once_more_and_nothing_comes(
        self, heard: Recorder, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.in_process = False
        say(talk, 3)
        talk.commit()
        virtual_time.advance_by(1)
        exact(heard, talk)
        assert heard.completed
        assert wire.asked_after() == [0, 4]


class TestStatus:
    def test_it_tells_what_becomes_of_the_connection(
        self, events: SessionStream, talk: Conversation, wire: Wire, virtual_time: VirtualClock, no_jitter: None
    ) -> None:
        told: list[tuple[float, Status]] = []
        events.status.subscribe(lambda status: told.append((virtual_time.seconds, status)))
        follow(events)
        say(talk)
        virtual_time.advance_by(1)
        wire.next("StreamSession", Fault(error=CUT))
        wire.cut(LAGGED)
        say(talk)
        virtual_time.advance_by(1)
        assert told == [
            (0, Status(Connection.CONNECTED, 0)),
            (0, Status(Connection.CAUGHT_UP, 1)),
            (1, Status(Connection.LOST, 2, LAGGED)),
            (pytest.approx(1.05), Status(Connection.RECONNECTING, 2)),
            (pytest.approx(1.15), Status(Connection.RECONNECTING, 2)),
            (pytest.approx(1.15), Status(Connection.CONNECTED, 2)),
            (pytest.approx(1.15), Status(Connection.CAUGHT_UP, 3)),
        ]

    def test_a_clean_end_has_no_error(
        self, events: SessionStream, heard: Recorder, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        told: list[Status] = []
        events.status.subscribe(told.append)
        wire.cut(None)
        virtual_time.advance_by(0)
        assert told == [Status(Connection.LOST, 1)]

    def test_it_tells_nothing_of_what_was_and_never_ends(
        self, events: SessionStream, heard: Recorder, talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        told = Recorder()
        events.status.subscribe(told)
        say(talk)
        talk.commit()
        virtual_time.advance_by(1)
        assert heard.completed
        assert (told.items, told.completed) == ([], False)

    def test_who_leaves_it_hears_no_more(
        self, events: SessionStream, heard: Recorder, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        told = Recorder()
        subscription = events.status.subscribe(told)
        virtual_time.advance_by(0)
        subscription.dispose()
        virtual_time.advance_by(0)
        wire.cut()
        virtual_time.advance_by(1)
        assert told.items == []

    def test_it_tells_of_every_subscription_of_its_stream(
        self, events: SessionStream, virtual_time: VirtualClock
    ) -> None:
        told: list[Status] = []
        events.status.subscribe(told.append)
        follow(events)
        follow(events)
        virtual_time.advance_by(0)
        assert [status.connection for status in told].count(Connection.CONNECTED) == 2

    @pytest.mark.parametrize("connection", Connection)
    def test_one_who_listens_to_it_and_raises_hears_its_own_error_and_disturbs_nobody(
        self, forgetful: Wire, virtual_time: VirtualClock, connection: Connection
    ) -> None:
        talk = Conversation(forgetful.client(), DECISION)
        events = forgetful.client().session_events(talk.session_id, on_gap="continue")
        errors: list[Exception] = []
        raised = 0

        def raising(status: Status) -> None:
            nonlocal raised
            if raised or status.connection is connection:
                raised += 1
                raise ZeroDivisionError

        events.status.subscribe(raising, errors.append)
        told: list[Status] = []
        events.status.subscribe(told.append)
        heard, _ = follow(events)
        virtual_time.advance_by(0)
        forgetful.cut()
        say(talk)
        talk.commit()
        virtual_time.advance_by(1)
        assert [type(error) for error in errors] == [ZeroDivisionError]
        assert raised == 1
        assert (heard.error, heard.completed) == (None, True)
        assert {status.connection for status in told} == set(Connection)


class TestWaitForStart:
    def test_it_waits_for_a_session_that_has_yet_to_start(
        self, wire: Wire, talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        later = Conversation(talk.client, DECISION, start=False)
        heard, _ = follow(wire.client().session_events(later.session_id, wait=30))
        virtual_time.advance_by(25)
        assert (heard.items, heard.error) == ([], None)
        assert later.start() == OK
        say(later)
        virtual_time.advance_by(0.5)
        exact(heard, later)

    def test_in_marbles(self, marbles: Marbles, wire: Wire, talk: Conversation, no_jitter: None) -> None:
        later = Conversation(talk.client, DECISION, start=False)
        started = talk.client.rx.send(later.envelope("chair", later.opening))
        marbles.act("2s x", {"x": started.subscribe})
        kinds = wire.client().session_events(later.session_id, wait=3).pipe(ops.map(lambda one: one.message_type))
        marbles.expect(kinds.pipe(ops.take(1))).to_be("2250ms (SessionStart |)")

    @pytest.mark.parametrize("seconds", [0.01, 1, 30, 1000])
    def test_as_long_as_it_was_told_to(
        self, wire: Wire, talk: Conversation, virtual_time: VirtualClock, seconds: float
    ) -> None:
        heard, _ = follow(wire.client().session_events(virtual_time.new_id(), wait=seconds))
        virtual_time.advance_by(seconds - 0.001)
        assert heard.error is None
        virtual_time.advance_by(0.001)
        assert isinstance(heard.error, MacpTransportError)
        assert heard.error.code == "SESSION_NOT_FOUND"
        assert wire.open_streams == 0

    @pytest.mark.parametrize("lost", [False, True], ids=["from the start", "while it waits"])
    def test_and_for_a_server_as_long_as_ever(self, wire: Wire, virtual_time: VirtualClock, lost: bool) -> None:
        if not lost:
            wire.down = CUT
        heard, _ = follow(wire.client().session_events(virtual_time.new_id(), wait=10))
        virtual_time.advance_by(2)
        wire.down = CUT
        virtual_time.advance_by(RECONNECT.give_up_after + 1)
        assert isinstance(heard.error, MacpTransportError)
        assert heard.error.status == "UNAVAILABLE"
        assert wire.open_streams == 0

    def test_an_outage_while_it_waits_is_told_and_survived(
        self, wire: Wire, talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        later = Conversation(talk.client, DECISION, start=False)
        events = wire.client().session_events(later.session_id, wait=30)
        told: list[Connection] = []
        events.status.subscribe(lambda status: told.append(status.connection))
        wire.next("StreamSession", Fault(), Fault(error=CUT), Fault(error=CUT), Fault(), Fault(error=CUT))
        heard, _ = follow(events)
        virtual_time.advance_by(3)
        assert later.start() == OK
        virtual_time.advance_by(1)
        exact(heard, later)
        lost, again = Connection.LOST, Connection.RECONNECTING
        assert told == [lost, again, again, lost, again, Connection.CONNECTED, Connection.CAUGHT_UP]

    def test_without_it_an_unknown_session_is_an_error_at_once(self, connect: Connect) -> None:
        client = connect("chair")
        with pytest.raises(MacpTransportError) as failed:
            client.session_events(client.clock.new_id()).run()
        assert failed.value.code == "SESSION_NOT_FOUND"

    def test_an_outsider_is_not_let_wait(self, connect: Connect) -> None:
        client = connect("chair")
        session = DecisionSession(client)
        session.start(intent="secret", participants=["chair"], ttl_ms=60_000)
        with pytest.raises(MacpStreamError, match="FORBIDDEN"):
            client.acting_as("mallory").session_events(session.session_id, wait=30).run()

    def test_agents_may_join_before_the_start(self, connect: Connect) -> None:
        client = connect("chair")
        session = DecisionSession(client)
        heard = Recorder()
        session.events.subscribe(heard)
        session.start(intent="early", participants=["chair"], ttl_ms=60_000)
        session.propose("p1", "one")
        heard.wait_for(2)
        assert heard.error is None

    def test_a_session_that_was_there_is_not_waited_for(
        self, wire: Wire, talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        """It is gone: a memory-only server that was restarted knows none of its sessions."""
        heard, _ = follow(wire.client().session_events(talk.session_id, wait=30))
        virtual_time.advance_by(1)
        unknown = MacpTransportError("NOT_FOUND", "no such session", code="SESSION_NOT_FOUND")
        wire.next("StreamSession", *[Fault(error=unknown)] * 1000)
        wire.cut()
        virtual_time.advance_by(1)
        assert heard.error is unknown


class TestLive:
    def test_what_was_accepted_before_is_not_live_and_what_comes_then_is(self, connect: Connect) -> None:
        client = connect("chair")
        talk = Conversation(client, DECISION)
        say(talk, 2)
        events = client.session_events(talk.session_id)
        caught_up, heard = Recorder(), Recorder()
        events.status.pipe(ops.filter(lambda status: status.connection is Connection.CAUGHT_UP)).subscribe(caught_up)
        events.subscribe(heard)
        caught_up.wait_for(1)
        say(talk, 2)
        heard.wait_for(5)
        assert [one.live for one in heard.items if isinstance(one, Accepted)] == [False, False, False, True, True]

    def test_what_is_caught_up_on_after_a_loss_is_not_live(
        self, heard: Recorder, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        say(talk)
        virtual_time.advance_by(0)
        wire.cut()
        say(talk)
        virtual_time.advance_by(1)
        say(talk)
        virtual_time.advance_by(0)
        assert [one.live for one in heard.items if isinstance(one, Accepted)] == [False, True, False, True]

    def test_a_history_is_never_live(self, talk: Conversation, wire: Wire) -> None:
        say(talk, 3)
        assert not any(accepted.live for accepted in wire.client().history(talk.session_id))


class TestEnd:
    """On all three runtimes, since the server never ends the call by itself."""

    def followed(self, client: MacpClient, talk: Conversation) -> Recorder:
        events = client.session_events(talk.session_id)
        caught_up, heard = Recorder(), Recorder()
        events.status.pipe(ops.filter(lambda status: status.connection is Connection.CAUGHT_UP)).subscribe(caught_up)
        events.subscribe(heard)
        caught_up.wait_for(1)
        return heard

    def test_behind_the_commitment(self, client: MacpClient) -> None:
        talk = Conversation(client, DECISION)
        heard = self.followed(client, talk)
        say(talk, 20)
        talk.commit()
        heard.wait_for_end()
        exact(heard, talk)
        assert heard.completed

    def test_at_a_cancel_with_everything_delivered(self, client: MacpClient) -> None:
        talk = Conversation(client, DECISION)
        heard = self.followed(client, talk)
        say(talk, 20)
        client.cancel_session(talk.session_id)
        heard.wait_for_end()
        exact(heard, talk)
        assert (heard.completed, len(heard.items)) == (True, 21)

    def test_at_the_expiry_with_everything_delivered(self, client: MacpClient) -> None:
        """Of which the server tells nobody by itself, and sweeps once a minute."""
        talk = Conversation(client, DECISION, ttl_ms=500)
        heard = self.followed(client, talk)
        say(talk, 5)
        heard.wait(lambda heard: heard.completed or heard.error is not None, seconds=2)
        exact(heard, talk)
        assert talk.state() == "EXPIRED"

    @pytest.mark.parametrize("end", ["commit", "cancel", "expire"])
    def test_at_once_where_the_session_ended_long_ago(self, client: MacpClient, end: str) -> None:
        talk = Conversation(client, DECISION, ttl_ms=400 if end == "expire" else 60_000)
        say(talk, 3)
        if end == "commit":
            talk.commit()
        elif end == "cancel":
            client.cancel_session(talk.session_id)
        else:
            client.session_events(talk.session_id).pipe(ops.count()).run()
        heard, _ = follow(client.session_events(talk.session_id))
        heard.wait_for_end()
        exact(heard, talk)
        assert heard.completed

    def test_not_at_a_handoff_that_was_declined(self, client: MacpClient) -> None:
        talk = Conversation(client, HANDOFF)
        heard = self.followed(client, talk)
        for said in (
            ("chair", handoff.offer("h1", "alice")),
            ("alice", handoff.decline("h1")),
            ("chair", handoff.offer("h2", "bob")),
            ("bob", handoff.accept_handoff("h2")),
            ("chair", handoff.add_context("h2", context=b"the keys")),
        ):
            assert talk.say(*said) == OK
        heard.wait_for(6)
        assert not heard.completed
        assert talk.commit(action="handoff.accepted") == OK
        heard.wait_for_end()
        exact(heard, talk)

    def test_not_at_a_proposal_that_was_rejected_for_good(self, client: MacpClient) -> None:
        talk = Conversation(client, PROPOSAL)
        heard = self.followed(client, talk)
        assert talk.say("alice", proposal.propose("p1", title="one")) == OK
        assert talk.say("bob", proposal.reject("p1", terminal=True)) == OK
        assert talk.say("alice", proposal.withdraw("p1")) == OK
        heard.wait_for(4)
        assert not heard.completed
        client.cancel_session(talk.session_id)
        heard.wait_for_end()
        exact(heard, talk)

    def test_not_while_it_is_suspended_and_its_deadline_moves(self, client: MacpClient) -> None:
        talk = Conversation(client, DECISION, ttl_ms=700)
        heard = self.followed(client, talk)
        client.suspend_session(talk.session_id)
        silence = Recorder()
        client.session_events(talk.session_id).pipe(ops.take_with_time(1.5)).subscribe(silence)
        silence.wait_for_end()
        assert not heard.completed
        client.resume_session(talk.session_id)
        say(talk)
        heard.wait(lambda heard: heard.completed or heard.error is not None, seconds=3)
        exact(heard, talk)
        assert talk.state() == "EXPIRED"

    def test_everything_is_delivered_though_it_ended_while_the_connection_was_lost(
        self, heard: Recorder, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.down = CUT
        wire.cut()
        say(talk, 5)
        talk.client.cancel_session(talk.session_id)
        virtual_time.advance_by(5)
        assert not heard.completed
        wire.up()
        virtual_time.advance_by(1)
        exact(heard, talk)
        assert heard.completed
        assert wire.open_streams == 0

    def test_everything_is_delivered_though_the_connection_is_lost_after_it_ended(
        self, heard: Recorder, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        say(talk, 5)
        wire.cut()
        wire.next("StreamSession", Fault(error=CUT, after=2), Fault(error=LAGGED), Fault(error=CUT, after=1))
        talk.client.cancel_session(talk.session_id)
        virtual_time.advance_by(5)
        exact(heard, talk)
        assert heard.completed


class TestSlowReader:
    def test_whoever_falls_behind_the_servers_buffer_has_everything_all_the_same(self, connect: Connect) -> None:
        """The server's buffer holds 256 envelopes; what flow control holds besides is outrun by their size."""
        talk = Conversation(connect("alice"), DECISION, initiator="alice")
        client = connect("chair")
        events = client.session_events(talk.session_id)
        lost: list[Status] = []
        events.status.pipe(ops.filter(lambda status: status.connection is Connection.LOST)).subscribe(lost.append)
        read: list[str] = []
        for accepted in events:
            if not read:
                for number in range(1500):
                    said = decision.propose(str(number), "x", rationale="r" * 8192)
                    assert talk.say("alice", said, message_id=str(number)) == OK
                assert talk.commit("alice") == OK
            read.append(accepted.message_id)
        assert read == [envelope.message_id for envelope in talk.history()]
        assert len(read) == 1502
        assert [getattr(status.error, "code", None) for status in lost][:1] == ["STREAM_LAGGED"]


SUFFERS = st.builds(
    Fault,
    error=st.sampled_from([None, CUT, INTERNAL, LAGGED]),
    ends=st.booleans(),
    after=st.integers(0, 6),
    redelivers=st.sampled_from([0, 0, 1, 5, 40]),
    doubled=st.booleans(),
    delay=st.sampled_from([0.0, 0.0, 0.01, 0.7]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from([1, 2, 5, 300])),
        st.tuples(st.just("cut"), st.sampled_from([None, CUT, LAGGED])),
        st.tuples(st.just("suffer"), SUFFERS),
        st.tuples(st.sampled_from(["down", "up", "wait", "go on", "suspend", "resume"]), st.none()),
        st.tuples(st.just("pass"), st.sampled_from([0.0, 0.01, 0.3, 4.0])),
    ),
    max_size=25,
)


@given(steps=STEPS, after=st.integers(0, 2), end=st.sampled_from(["commit", "cancel", "expire"]), polls=st.booleans())
def test_whatever_the_connection_does_what_is_heard_is_the_history(
    steps: list[tuple[str, Any]], after: int, end: str, polls: bool
) -> None:
    clock = VirtualClock()
    runtime = Runtime(clock=clock)
    wire = Wire(runtime)
    wire.in_process = not polls
    talk = Conversation(MacpClient.embedded(agent="chair", runtime=runtime), DECISION, ttl_ms=600_000)
    say(talk)
    if after:  # nobody can tell what comes again from what it has never heard
        steps = without_redelivery(steps)
    reader = Reader(wire.client().session_events(talk.session_id, after), clock)
    play(steps, clock, wire, talk, reader)
    wire.up()
    reader.go_on()
    if end == "commit":
        assert talk.commit() == OK
    elif end == "cancel":
        talk.client.cancel_session(talk.session_id)
    clock.advance_by(700 if end == "expire" else 200)
    exact(reader.heard, talk, after)
    assert reader.heard.completed
    talk.client.close()
    wire.close(lambda: None)
    assert runtime.open_calls == 0


@given(steps=STEPS, on_gap=st.sampled_from(["fail", "continue"]))
def test_where_history_is_forgotten_what_is_heard_is_a_beginning_of_it_and_one_gap_is_told(
    steps: list[tuple[str, Any]], on_gap: Any
) -> None:
    clock = VirtualClock()
    runtime = Runtime(clock=clock, settings=Settings(compact_ended=True))
    wire = Wire(runtime)
    talk = Conversation(MacpClient.embedded(agent="chair", runtime=runtime), DECISION, ttl_ms=600_000)
    say(talk)
    events = wire.client().session_events(talk.session_id, on_gap=on_gap)
    told: list[Status] = []
    events.status.subscribe(told.append)
    reader = Reader(events, clock)
    play(without_redelivery(steps), clock, wire, talk, reader)  # what is forgotten does not come again
    said = talk.history()
    assert talk.commit() == OK
    wire.up()
    reader.go_on()
    clock.advance_by(200)
    heard = reader.heard
    assert [one.message_id for one in heard.items][: len(said)] == [
        envelope.message_id for envelope in said[: len(heard.items)]
    ]
    missing = len(said) + 1 - len(heard.items)
    gaps = [status.missing for status in told if status.connection is Connection.GAP]
    if not missing:
        assert (heard.completed, gaps) == (True, [])
    elif on_gap == "fail":
        assert isinstance(heard.error, MacpGapError)
        assert (heard.error.seen, heard.error.lowest) == (len(heard.items), len(said) + 1)
    else:
        assert (heard.completed, gaps) == (True, [missing])
    wire.close(lambda: None)


def without_redelivery(steps: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(step, replace(what, redelivers=0) if step == "suffer" else what) for step, what in steps]


def play(steps: list[tuple[str, Any]], clock: VirtualClock, wire: Wire, talk: Conversation, reader: Reader) -> None:
    """Lets things happen to a session, and to the wire over which it is read."""
    open_ = True
    for step, what in steps:
        if step == "say" and open_:
            say(talk, what)
        elif step == "cut":
            wire.cut(what)
        elif step == "suffer":
            wire.next("StreamSession", what if what.error or what.ends else replace(what, after=0))
        elif step == "down":
            wire.down = CUT
        elif step == "up":
            wire.up()
        elif step == "wait":
            reader.wait()
        elif step == "go on":
            reader.go_on()
        elif step == "suspend" and open_:
            talk.client.suspend_session(talk.session_id)
            open_ = False
        elif step == "resume" and not open_:
            talk.client.resume_session(talk.session_id)
            open_ = True
        elif step == "pass":
            clock.advance_by(what)
    if not open_:
        talk.client.resume_session(talk.session_id)
