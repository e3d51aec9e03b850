"""The session stream: everything a session accepted, in order, once, whatever the connection does."""

from __future__ import annotations

import pytest
from reactivex import operators as ops

from macp_rx import Accepted, DecisionSession, MacpClient, MacpTransportError, Runtime
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision
from macp_rx.streams.retry import RECONNECT, RetryPolicy
from macp_rx.streams.session import SessionStream
from macp_rx.streams.status import Connection, Status
from tests.conftest import Connect, Recorder
from tests.runtime.conversation import OK, Conversation
from tests.streams.exact import Reader, exact, follow, followed, say
from tests.streams.wire import CUT, HOPELESS, INTERNAL, LAGGED, Fault, Wire

LOSSES = [
    pytest.param(LAGGED, id="lagged"),
    pytest.param(CUT, id="unavailable"),
    pytest.param(INTERNAL, id="reset"),
    pytest.param(MacpTransportError("INTERNAL", code="INTERNAL_ERROR"), id="internal error"),
    pytest.param(MacpTransportError("CANCELLED", "GOAWAY"), id="cancelled by the server"),
    pytest.param(MacpTransportError("UNKNOWN", "Stream removed"), id="unknown"),
    pytest.param(None, id="clean end"),
]


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

    def test_where_nobody_has_ever_answered_it_gives_up_sooner_and_says_why(
        self, events: SessionStream, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        """More likely a wrong address than an outage."""
        wire.reached = False
        wire.down = CUT
        heard, _ = follow(events)
        virtual_time.advance_by(RECONNECT.first_contact - 0.001)
        assert heard.error is None
        virtual_time.advance_by(0.001)
        assert isinstance(heard.error, MacpTransportError)
        assert heard.error.message == "no connection within 10 s: the connection was reset"
        assert wire.open_streams == 0

    def test_where_somebody_else_was_answered_meanwhile_it_is_as_patient_as_ever(
        self, events: SessionStream, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.reached = False
        wire.down = CUT
        heard, _ = follow(events)
        virtual_time.advance_by(5)
        wire.reached = True
        virtual_time.advance_by(200)
        wire.up()
        virtual_time.advance_by(0)
        exact(heard, talk)

    def test_how_long_it_waits_for_the_first_answer_can_be_told(
        self, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.reached = False
        wire.down = CUT
        heard, _ = follow(wire.client().session_events(talk.session_id, retry=RetryPolicy(first_contact=60)))
        virtual_time.advance_by(59)
        wire.up()
        virtual_time.advance_by(0)
        exact(heard, talk)

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


class TestLive:
    def test_what_was_accepted_before_is_not_live_and_what_comes_then_is(self, client: MacpClient) -> None:
        talk = Conversation(client, DECISION)
        say(talk, 2)
        heard = followed(client, talk)
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
