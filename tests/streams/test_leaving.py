"""Who leaves a session stream, or raises in it, hears nothing more, and its call ends."""

from __future__ import annotations

import gc

import pytest

from macp_rx import Accepted, MacpTimeoutError
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION
from macp_rx.streams.session import SessionStream
from macp_rx.streams.status import Connection, Status
from tests.conftest import Recorder
from tests.runtime.conversation import Conversation
from tests.streams.exact import exact, follow, say
from tests.streams.wire import CUT, HOPELESS, Fault, Wire


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
        self, forgetful_wire: Wire, virtual_time: VirtualClock, connection: Connection
    ) -> None:
        """Then nothing more is told, no call is made, and nobody asks for the session's end."""
        talk = Conversation(forgetful_wire.client(), DECISION)
        events = forgetful_wire.client().session_events(talk.session_id, 1, on_gap="continue")
        heard, subscription = follow(events)
        told: list[Connection] = []
        calls: list[int] = []

        def leave(status: Status) -> None:
            told.append(status.connection)
            if status.connection is connection:
                subscription.dispose()
                calls.append(len(forgetful_wire.made("StreamSession")))

        events.status.subscribe(leave)
        virtual_time.advance_by(0)
        forgetful_wire.cut()
        say(talk)
        talk.commit()
        virtual_time.advance_by(400)
        assert told[-1] is connection
        assert [len(forgetful_wire.made("StreamSession"))] == calls
        assert forgetful_wire.open_streams == 0
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
