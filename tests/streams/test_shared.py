"""One live call for all who subscribe to a session: each has everything, in order, once, and none waits for another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, DecisionSession, MacpClient, MacpTransportError, Message, Runtime, Stream
from macp_rx.clock import VirtualClock
from macp_rx.errors import MacpGapError
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision
from macp_rx.runtime import Settings
from macp_rx.streams.shared import WINDOW
from tests.conftest import Connect, Recorder, dial
from tests.runtime.conversation import OK, Conversation
from tests.streams.exact import Reader, exact, prefix, say
from tests.streams.wire import CUT, HOPELESS, LAGGED, Fault, Made, Wire


@pytest.fixture
def session(wire: Wire, talk: Conversation) -> DecisionSession:
    """The session, over the wire."""
    return DecisionSession(wire.client(), talk.session_id)


@pytest.fixture
def events(session: DecisionSession) -> Stream[Accepted]:
    """Its events."""
    return session.events


@pytest.fixture
def read(events: Stream[Accepted], virtual_time: VirtualClock) -> Callable[[], Reader]:
    """Makes readers of them, each of which has heard what there is."""

    def read() -> Reader:
        reader = Reader(events, virtual_time)
        virtual_time.advance_by(0)
        return reader

    return read


def live(wire: Wire) -> list[Made]:
    """The calls that follow the session."""
    return [call for call in wire.made("StreamSession") if not call.half_closed]


def catch_ups(wire: Wire) -> list[int]:
    """The sequences behind which somebody caught up."""
    return [call.requests[0].after_sequence for call in wire.made("StreamSession") if call.half_closed]


def raising(_accepted: Accepted) -> None:
    raise ZeroDivisionError


class TestOneCall:
    def test_all_subscribers_share_one(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        readers = [read() for _ in range(50)]
        say(talk, 3)
        virtual_time.advance_by(0)
        for reader in readers:
            exact(reader.heard, talk)
        assert len(wire.made("StreamSession")) == 1

    def test_a_server_sees_one(self) -> None:
        with Runtime() as runtime, runtime.serve() as server, dial(server.target) as client:
            talk = Conversation(client, DECISION)
            events = DecisionSession(client, talk.session_id).events
            readers = [Recorder() for _ in range(50)]
            for reader in readers:
                events.subscribe(reader)
            say(talk, 3)
            for reader in readers:
                reader.wait_for(4)
            assert runtime.open_calls == 1

    def test_the_last_to_leave_closes_it(
        self, read: Callable[[], Reader], wire: Wire, virtual_time: VirtualClock
    ) -> None:
        readers = [read() for _ in range(3)]
        for reader in readers:
            assert wire.open_streams > 0
            reader.leave()
            reader.leave()
            virtual_time.advance_by(0)
        assert wire.open_streams == 0

    def test_the_next_one_opens_it_anew(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        read().leave()
        virtual_time.advance_by(0)
        say(talk, 2)
        again = read()
        say(talk)
        virtual_time.advance_by(0)
        exact(again.heard, talk)
        assert len(live(wire)) == 2

    def test_it_reconnects_for_all(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        readers = [read() for _ in range(3)]
        wire.cut()
        say(talk, 2)
        virtual_time.advance_by(1)
        for reader in readers:
            exact(reader.heard, talk)
        assert (len(live(wire)), catch_ups(wire)) == (2, [])

    @pytest.mark.parametrize("end", ["commit", "cancel"])
    def test_it_ends_for_all(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock, end: str
    ) -> None:
        readers = [read() for _ in range(3)]
        say(talk, 2)
        if end == "commit":
            talk.commit()
        else:
            talk.client.cancel_session(talk.session_id)
        virtual_time.advance_by(1)
        for reader in readers:
            exact(reader.heard, talk)
            assert reader.heard.completed
        assert wire.open_streams == 0

    def test_who_subscribes_after_the_end_has_it_all(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire
    ) -> None:
        read()
        say(talk)
        talk.commit()
        late = read()
        exact(late.heard, talk)
        assert late.heard.completed

    def test_it_waits_half_a_minute_for_a_session_that_has_yet_to_start(
        self, wire: Wire, talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        later = Conversation(talk.client, DECISION, start=False)
        reader = Reader(DecisionSession(wire.client(), later.session_id).events, virtual_time)
        virtual_time.advance_by(29)
        assert later.start() == OK
        virtual_time.advance_by(1)
        exact(reader.heard, later)
        never = Reader(DecisionSession(wire.client(), virtual_time.new_id()).events, virtual_time)
        virtual_time.advance_by(29.999)
        assert never.heard.error is None
        virtual_time.advance_by(0.001)
        assert isinstance(never.heard.error, MacpTransportError)
        assert never.heard.error.code == "SESSION_NOT_FOUND"

    def test_from_any_thread(self, connect: Connect) -> None:
        """20 threads subscribe while somebody talks; each hears everything."""
        client = connect("chair")
        talk = Conversation(client, DECISION)
        events = DecisionSession(client, talk.session_id).events
        heard = [Recorder() for _ in range(20)]
        begin = threading.Barrier(len(heard) + 1)

        def subscribe(recorder: Recorder) -> None:
            begin.wait()
            events.subscribe(recorder)

        threads = [threading.Thread(target=subscribe, args=(recorder,)) for recorder in heard]
        for thread in threads:
            thread.start()
        begin.wait()
        say(talk, 50)
        for thread in threads:
            thread.join()
        assert talk.commit() == OK
        for recorder in heard:
            recorder.wait_for_end()
            exact(recorder, talk)


class TestComingLate:
    def test_what_is_in_the_window_takes_no_call(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        read()
        say(talk, WINDOW - 1)
        virtual_time.advance_by(0)
        late = read()
        exact(late.heard, talk)
        assert len(wire.made("StreamSession")) == 1

    def test_what_is_no_longer_there_comes_by_a_call_of_its_own(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        read()
        say(talk, WINDOW)
        virtual_time.advance_by(0)
        late = read()
        say(talk, 3)
        virtual_time.advance_by(0)
        exact(late.heard, talk)
        assert catch_ups(wire) == [0]

    def test_what_is_said_meanwhile_leaves_no_gap(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        """Whatever its catch-up call says last, the live call goes on behind it."""
        first = read()
        say(talk, WINDOW + 10)
        virtual_time.advance_by(0)
        wire.next("StreamSession", Fault(delay=1))
        late = read()
        say(talk, 5)
        virtual_time.advance_by(0.5)
        assert late.heard.items == []
        say(talk, 5)
        virtual_time.advance_by(1)
        exact(late.heard, talk)
        exact(first.heard, talk)
        assert catch_ups(wire) == [0]

    def test_so_much_that_it_must_catch_up_again_leaves_no_gap(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        read()
        say(talk, WINDOW + 10)
        virtual_time.advance_by(0)
        wire.next("StreamSession", Fault(delay=1))
        late = read()
        caught = len(talk.history())
        say(talk, WINDOW + 10)
        virtual_time.advance_by(2)
        exact(late.heard, talk)
        assert catch_ups(wire) == [0, caught]

    def test_the_call_that_catches_up_reconnects_too(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        read()
        say(talk, WINDOW + 10)
        virtual_time.advance_by(0)
        wire.next("StreamSession", Fault(error=CUT, after=100), Fault(error=LAGGED), Fault(ends=True, after=3))
        late = read()
        virtual_time.advance_by(2)
        exact(late.heard, talk)

    def test_what_it_was_told_of_the_past_is_not_live(
        self, read: Callable[[], Reader], talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        first = read()
        say(talk, 2)
        virtual_time.advance_by(0)
        late = read()
        say(talk)
        virtual_time.advance_by(0)
        assert [one.live for one in first.heard.items if isinstance(one, Accepted)] == [False, True, True, True]
        assert [one.live for one in late.heard.items if isinstance(one, Accepted)] == [False, False, False, True]

    def test_from_behind_a_sequence(self, talk: Conversation, wire: Wire, virtual_time: VirtualClock) -> None:
        say(talk, 5)
        shared = wire.client().shared_events(talk.session_id)
        readers = {after: Reader(shared.stream(after), virtual_time) for after in (3, 0, 6)}
        virtual_time.advance_by(0)
        say(talk, 2)
        virtual_time.advance_by(0)
        for after, reader in readers.items():
            exact(reader.heard, talk, after)
        assert len(live(wire)) == 1

    def test_a_catch_up_that_fails_is_its_own_misfortune(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        first = read()
        say(talk, WINDOW + 10)
        virtual_time.advance_by(0)
        wire.next("StreamSession", Fault(error=HOPELESS))
        late = read()
        say(talk)
        virtual_time.advance_by(0)
        assert late.heard.error is HOPELESS
        exact(first.heard, talk)

    def test_leaving_while_it_catches_up(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        first = read()
        say(talk, WINDOW + 10)
        virtual_time.advance_by(0)
        wire.next("StreamSession", Fault(delay=1))
        late = read()
        late.leave()
        virtual_time.advance_by(0)
        calls = wire.open_streams
        first.leave()
        virtual_time.advance_by(2)
        assert calls == 2  # the live one and the watch of sessions
        assert wire.open_streams == 0
        assert late.heard.items == []


class TestWaiting:
    def test_one_that_waits_delays_nobody_and_goes_on_where_it_was(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        slow, swift = read(), read()
        slow.wait()
        virtual_time.advance_by(0)
        say(talk, 10)
        virtual_time.advance_by(0)
        assert len(slow.heard.items) == 1
        exact(swift.heard, talk)
        slow.go_on()
        virtual_time.advance_by(0)
        exact(slow.heard, talk)
        assert len(wire.made("StreamSession")) == 1

    def test_one_that_falls_out_of_the_window_catches_up_by_a_call_of_its_own(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        slow, swift = read(), read()
        slow.wait()
        virtual_time.advance_by(0)
        say(talk, 1000)
        virtual_time.advance_by(0)
        exact(swift.heard, talk)
        slow.go_on()
        virtual_time.advance_by(0)
        exact(slow.heard, talk)
        assert (len(live(wire)), catch_ups(wire)) == (1, [1])

    def test_one_that_waits_while_it_catches_up_delays_nobody_either(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        swift = read()
        say(talk, WINDOW + 10)
        virtual_time.advance_by(0)
        wire.next("StreamSession", Fault(delay=1))
        slow = read()
        slow.wait()
        virtual_time.advance_by(2)
        assert slow.heard.items == []
        say(talk, 10)
        virtual_time.advance_by(0)
        exact(swift.heard, talk)
        slow.go_on()
        virtual_time.advance_by(0)
        exact(slow.heard, talk)

    def test_where_all_wait_the_server_is_held_back(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        """So far that it ends the call as lagging, which takes a reconnection and nothing else."""
        readers = [read(), read()]
        for reader in readers:
            reader.wait()
        virtual_time.advance_by(0)
        say(talk, 1000)
        virtual_time.advance_by(1)
        assert [len(reader.heard.items) for reader in readers] == [1, 1]
        for reader in readers:
            reader.go_on()
        virtual_time.advance_by(1)
        for reader in readers:
            exact(reader.heard, talk)
        assert len(live(wire)) == 2

    def test_one_that_comes_while_all_wait_does_not(
        self, read: Callable[[], Reader], talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        read().wait()
        virtual_time.advance_by(0)
        swift = read()
        say(talk, 3)
        virtual_time.advance_by(0)
        exact(swift.heard, talk)

    def test_where_the_only_one_that_does_not_leaves_the_server_is_held_back_again(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        slow, swift = read(), read()
        slow.wait()
        swift.leave()
        virtual_time.advance_by(0)
        say(talk, 1000)
        virtual_time.advance_by(1)
        slow.go_on()
        virtual_time.advance_by(1)
        exact(slow.heard, talk)
        assert catch_ups(wire) == []

    def test_one_that_waits_and_leaves_holds_nobody_back(
        self, read: Callable[[], Reader], talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        slow, swift = read(), read()
        slow.wait()
        virtual_time.advance_by(0)
        slow.leave()
        slow.go_on()
        say(talk, 3)
        virtual_time.advance_by(0)
        exact(swift.heard, talk)

    @pytest.mark.parametrize("said", [3, 1000])
    def test_one_that_waits_hears_the_end_behind_everything(
        self, read: Callable[[], Reader], talk: Conversation, virtual_time: VirtualClock, said: int
    ) -> None:
        slow, swift = read(), read()
        slow.wait()
        virtual_time.advance_by(0)
        say(talk, said)
        talk.commit()
        virtual_time.advance_by(1)
        assert swift.heard.completed
        assert not slow.heard.completed
        slow.go_on()
        virtual_time.advance_by(0)
        exact(slow.heard, talk)
        assert slow.heard.completed

    def test_one_that_has_fallen_out_when_the_history_is_forgotten_is_told_so(self, virtual_time: VirtualClock) -> None:
        runtime = Runtime(clock=virtual_time, settings=Settings(compact_ended=True))
        client = MacpClient.embedded(agent="chair", runtime=runtime)
        talk = Conversation(client, DECISION)
        events = DecisionSession(client, talk.session_id).events
        slow, swift = Reader(events, virtual_time), Reader(events, virtual_time)
        virtual_time.advance_by(0)
        slow.wait()
        virtual_time.advance_by(0)
        say(talk, 300)
        talk.commit()
        virtual_time.advance_by(0)
        slow.go_on()
        virtual_time.advance_by(1)
        assert len(swift.heard.items) == 302
        assert swift.heard.completed
        assert isinstance(slow.heard.error, MacpGapError)
        assert (slow.heard.error.seen, slow.heard.error.lowest) == (1, 302)

    def test_reading_slowly_with_for(self, connect: Connect) -> None:
        """One reads an item while 2,000 come; another reads as they come. Both have them all."""
        client = connect("chair")
        talk = Conversation(connect("alice"), DECISION, initiator="alice")
        events = DecisionSession(client, talk.session_id).events
        swift = Recorder()
        events.subscribe(swift)
        read: list[str] = []
        for accepted in events:
            if not read:
                for number in range(2000):
                    assert talk.say("alice", decision.propose(str(number), "x"), message_id=str(number)) == OK
                assert talk.commit("alice") == OK
            read.append(accepted.message_id)
        assert read == [envelope.message_id for envelope in talk.history()]
        swift.wait_for_end()
        exact(swift, talk)


class TestErrors:
    def test_an_error_reaches_all_and_who_comes_next_starts_afresh(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        """RxPY's share opens the source for it and throws its items away."""
        readers = [read(), read()]
        wire.cut(HOPELESS)
        virtual_time.advance_by(0)
        for reader in readers:
            assert reader.heard.error is HOPELESS
        say(talk, 3)
        again = read()
        say(talk)
        virtual_time.advance_by(0)
        exact(again.heard, talk)
        assert len(live(wire)) == 2

    def test_also_one_who_comes_from_inside_on_error(
        self, events: Stream[Accepted], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        heard = Recorder()
        events.subscribe(on_error=lambda _error: events.subscribe(heard))
        other = Recorder()
        events.subscribe(other)
        virtual_time.advance_by(0)
        wire.cut(HOPELESS)
        say(talk)
        virtual_time.advance_by(0)
        exact(heard, talk)
        assert other.error is HOPELESS

    def test_it_comes_behind_everything_that_was_heard(
        self, read: Callable[[], Reader], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        slow, _swift = read(), read()
        slow.wait()
        virtual_time.advance_by(0)
        say(talk, 3)
        virtual_time.advance_by(0)
        wire.cut(HOPELESS)
        virtual_time.advance_by(0)
        assert slow.heard.error is None
        slow.go_on()
        virtual_time.advance_by(0)
        assert slow.heard.error is HOPELESS
        assert len(slow.heard.items) == 4

    def test_one_that_raises_hears_its_own_error_once_and_the_others_notice_nothing(
        self, events: Stream[Accepted], talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        before, after = Recorder(), Recorder()
        errors: list[Exception] = []
        events.subscribe(before)
        events.subscribe(raising, errors.append)
        events.subscribe(after)
        virtual_time.advance_by(0)
        say(talk, 2)
        virtual_time.advance_by(0)
        assert [type(error) for error in errors] == [ZeroDivisionError]
        exact(before, talk)
        exact(after, talk)
        assert len(wire.made("StreamSession")) == 1

    def test_also_one_that_has_no_on_error(
        self, events: Stream[Accepted], talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        """RxPY raises where nobody takes an error: whoever runs the clock hears it, and no subscriber does."""
        before, after = Recorder(), Recorder()
        events.subscribe(before)
        events.subscribe(raising)
        events.subscribe(after)
        with pytest.raises(ZeroDivisionError):
            virtual_time.advance_by(0)
        say(talk, 2)
        virtual_time.advance_by(0)
        exact(before, talk)
        exact(after, talk)

    def test_also_on_a_loop(self, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
        client = connect("chair")
        talk = Conversation(client, DECISION)
        events = DecisionSession(client, talk.session_id).events
        before, after = Recorder(), Recorder()
        events.subscribe(before)
        events.subscribe(raising)
        events.subscribe(after)
        say(talk, 2)
        for heard in (before, after):
            heard.wait_for(3)
            exact(heard, talk)
        assert "ZeroDivisionError" in caplog.text  # asyncio's own word for what nobody takes

    def test_an_error_that_one_does_not_take_is_kept_from_nobody(
        self, events: Stream[Accepted], wire: Wire, virtual_time: VirtualClock
    ) -> None:
        first, last = Recorder(), Recorder()
        events.subscribe(first)
        events.subscribe(lambda _accepted: None)
        events.subscribe(last)
        virtual_time.advance_by(0)
        wire.cut(HOPELESS)
        with pytest.raises(MacpTransportError):
            virtual_time.advance_by(0)
        virtual_time.advance_by(0)
        assert (first.error, last.error) == (HOPELESS, HOPELESS)

    def test_a_completion_that_one_raises_on_is_kept_from_nobody(
        self, events: Stream[Accepted], talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        first, last = Recorder(), Recorder()
        events.subscribe(first)
        events.subscribe(on_completed=lambda: raising(Accepted(1, talk.envelope("chair", talk.opening))))
        events.subscribe(last)
        say(talk)
        talk.commit()
        with pytest.raises(ZeroDivisionError):
            virtual_time.advance_by(1)
        virtual_time.advance_by(1)
        assert (first.completed, last.completed) == (True, True)


class TestLeaving:
    def test_from_inside_on_next(
        self, events: Stream[Accepted], talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        heard, other = Recorder(), Recorder()

        def leave(accepted: Accepted) -> None:
            heard.on_next(accepted)
            if accepted.sequence == 2:
                subscription.dispose()

        subscription = events.subscribe(leave)
        events.subscribe(other)
        say(talk, 3)
        virtual_time.advance_by(0)
        assert len(heard.items) == 2
        exact(other, talk)

    def test_one_that_another_makes_leave_says_nothing_more(
        self, session: DecisionSession, talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        """Both hear an envelope at one instant: what the first does counts for the second."""

        def agent(events: Observable[Accepted]) -> Observable[Message]:
            return events.pipe(ops.filter(lambda accepted: accepted.sequence == 2), ops.map(lambda _: proposal))

        proposal = decision.propose("p1", "one")
        session.events.subscribe(lambda accepted: agent_leaves.dispose() if accepted.sequence == 2 else None)
        agent_leaves = session.join(agent)
        virtual_time.advance_by(0)
        say(talk)
        virtual_time.advance_by(0)
        assert len(talk.history()) == 2

    def test_a_closed_client_is_silent(
        self, read: Callable[[], Reader], events: Stream[Accepted], wire: Wire, virtual_time: VirtualClock
    ) -> None:
        subscribed = Recorder()
        events.subscribe(subscribed)
        virtual_time.advance_by(0)
        wire.close(lambda: None)
        virtual_time.advance_by(400)
        assert (subscribed.error, subscribed.completed) == (None, False)


READERS = st.integers(0, 4)
SUFFERS = st.sampled_from(
    [
        Fault(),
        Fault(error=CUT),
        Fault(error=LAGGED, after=3),
        Fault(ends=True, after=5),
        Fault(redelivers=4),
        Fault(doubled=True),
        Fault(delay=0.3),
    ]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["come", "leave", "wait", "go on"]), READERS),
        st.tuples(st.just("say"), st.sampled_from([1, 3, 300])),
        st.tuples(st.just("cut"), st.sampled_from([None, CUT, LAGGED])),
        st.tuples(st.just("suffer"), SUFFERS),
        st.tuples(st.just("pass"), st.sampled_from([0.0, 0.1, 2.0])),
    ),
    max_size=30,
)


@given(steps=STEPS, end=st.sampled_from(["commit", "cancel"]))
def test_whatever_happens_each_has_everything_once_over_one_live_call(steps: list[tuple[str, Any]], end: str) -> None:
    """Readers come, leave and wait while the connection breaks; those that stay have all, the others how it began."""
    clock = VirtualClock()
    runtime = Runtime(clock=clock)
    wire = Wire(runtime)
    talk = Conversation(MacpClient.embedded(agent="chair", runtime=runtime), DECISION, ttl_ms=86_400_000)
    say(talk)
    events = DecisionSession(wire.client(), talk.session_id).events
    readers: dict[int, Reader] = {}
    gone: list[Reader] = []
    for step, what in steps:
        if step == "come" and what not in readers:
            readers[what] = Reader(events, clock)
        elif step == "leave" and what in readers:
            gone.append(readers.pop(what))
            gone[-1].leave()
        elif step == "wait" and what in readers:
            readers[what].wait()
        elif step == "go on" and what in readers:
            readers[what].go_on()
        elif step == "say":
            say(talk, what)
        elif step == "cut":
            wire.cut(what)
        elif step == "suffer":
            wire.next("StreamSession", what)
        elif step == "pass":
            clock.advance_by(what)
        assert wire.following <= 1
    for reader in readers.values():
        reader.go_on()
    if end == "commit":
        assert talk.commit() == OK
    else:
        talk.client.cancel_session(talk.session_id)
    clock.advance_by(60)
    for reader in readers.values():
        exact(reader.heard, talk)
        assert reader.heard.completed
    for reader in gone:
        prefix(reader.heard, talk)
        assert reader.heard.error is None
    talk.client.close()
    assert runtime.open_calls == 0
