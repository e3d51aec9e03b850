"""What becomes of a session stream's connection, as a stream of its own."""

from __future__ import annotations

import pytest

from macp_rx import MacpClient
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION
from macp_rx.streams.session import SessionStream
from macp_rx.streams.status import Connection, Status
from tests.conftest import Recorder
from tests.runtime.conversation import Conversation
from tests.streams.exact import exact, follow, say
from tests.streams.wire import CUT, LAGGED, Fault, Wire


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

    @pytest.mark.parametrize("end", ["commit", "cancel"])
    def test_the_call_that_checks_the_sessions_end_is_not_told_of(self, client: MacpClient, end: str) -> None:
        talk = Conversation(client, DECISION)
        events = client.session_events(talk.session_id)
        told: list[Status] = []
        events.status.subscribe(told.append)
        heard, _ = follow(events)
        heard.wait_for(1)
        say(talk)
        heard.wait_for(2)
        if end == "commit":
            talk.commit()
        else:
            client.cancel_session(talk.session_id)
        heard.wait_for_end()
        exact(heard, talk)
        assert [status.connection for status in told] == [Connection.CONNECTED, Connection.CAUGHT_UP]

    def test_where_it_ended_long_ago_it_says_once_that_it_has_caught_up(
        self, events: SessionStream, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.in_process = False
        say(talk)
        talk.commit()
        told: list[Status] = []
        events.status.subscribe(told.append)
        heard, _ = follow(events)
        virtual_time.advance_by(1)
        assert heard.completed
        assert len(wire.made("StreamSession")) == 2
        assert told == [Status(Connection.CONNECTED, 0), Status(Connection.CAUGHT_UP, 3)]

    def test_what_breaks_while_the_end_is_checked_is_told(
        self, events: SessionStream, heard: Recorder, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.in_process = False
        say(talk)
        told: list[Status] = []
        events.status.subscribe(told.append)
        wire.next("StreamSession", Fault(error=CUT))
        talk.commit()
        virtual_time.advance_by(1)
        assert heard.completed
        assert told == [
            Status(Connection.LOST, 3, CUT),
            Status(Connection.RECONNECTING, 3),
            Status(Connection.CONNECTED, 3),
            Status(Connection.CAUGHT_UP, 3),
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
        self, forgetful_wire: Wire, virtual_time: VirtualClock, connection: Connection
    ) -> None:
        talk = Conversation(forgetful_wire.client(), DECISION)
        events = forgetful_wire.client().session_events(talk.session_id, on_gap="continue")
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
        forgetful_wire.cut()
        say(talk)
        talk.commit()
        virtual_time.advance_by(1)
        assert [type(error) for error in errors] == [ZeroDivisionError]
        assert raised == 1
        assert (heard.error, heard.completed) == (None, True)
        assert {status.connection for status in told} == set(Connection)
