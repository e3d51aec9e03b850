"""A session stream can wait for a session that has yet to start."""

from __future__ import annotations

import pytest
from reactivex import operators as ops

from macp_rx import DecisionSession, MacpStreamError, MacpTransportError
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION
from macp_rx.streams.retry import RECONNECT
from macp_rx.streams.status import Connection
from macp_rx.testing import Marbles
from tests.conftest import Connect, Recorder
from tests.runtime.conversation import OK, Conversation
from tests.streams.exact import exact, follow, say
from tests.streams.wire import CUT, Fault, Wire


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
