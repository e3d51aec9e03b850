"""What a session stream cannot have is told: what the server has forgotten, and what it never told."""

from __future__ import annotations

from typing import Any

import pytest
from reactivex import operators as ops

from macp_rx import Accepted, MacpTransportError
from macp_rx.clock import VirtualClock
from macp_rx.errors import MacpGapError
from macp_rx.protocol.messages import DECISION
from macp_rx.streams.retry import RECONNECT
from macp_rx.streams.status import Connection, Status
from tests.conftest import Recorder
from tests.runtime.conversation import OK, Conversation
from tests.streams.exact import exact, follow, say
from tests.streams.wire import CUT, Fault, Wire


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

    def test_a_reader_that_was_behind_is_told_what_it_lost(self, forgetful_wire: Wire) -> None:
        heard, _, talk = self.behind(forgetful_wire)
        error = heard.error
        assert isinstance(error, MacpGapError)
        assert (error.seen, error.lowest, error.session_id) == (3, 6, talk.session_id)
        assert (error.code, error.status) == ("HISTORY_UNAVAILABLE", "FAILED_PRECONDITION")
        assert str(error) == f"of session {talk.session_id!r} sequences 4 to 6 are forgotten"
        assert isinstance(error.__cause__, MacpTransportError)
        assert forgetful_wire.open_streams == 0

    def test_or_goes_on_behind_the_gap_and_ends(self, forgetful_wire: Wire) -> None:
        heard, statuses, _ = self.behind(forgetful_wire, on_gap="continue")
        assert heard.error is None
        assert heard.completed
        assert len(heard.items) == 3
        (gap,) = [status for status in statuses if status.connection is Connection.GAP]
        assert (gap.sequence, gap.missing) == (6, 3)
        assert isinstance(gap.error, MacpTransportError)

    def test_whoever_comes_later_finds_nothing(self, forgetful_wire: Wire, virtual_time: VirtualClock) -> None:
        _, _, talk = self.behind(forgetful_wire)
        late, _ = follow(forgetful_wire.client().session_events(talk.session_id))
        virtual_time.advance_by(1)
        assert isinstance(late.error, MacpGapError)
        assert (late.error.seen, late.error.lowest) == (0, 6)

    def test_whoever_had_caught_up_lost_nothing(self, forgetful_wire: Wire, virtual_time: VirtualClock) -> None:
        talk = Conversation(forgetful_wire.client(), DECISION)
        heard, _ = follow(forgetful_wire.client().session_events(talk.session_id))
        say(talk, 3)
        talk.commit()
        virtual_time.advance_by(0)
        assert len(heard.items) == 5
        assert heard.completed

    def test_what_is_forgotten_while_it_is_counted_is_told_too(
        self, forgetful_wire: Wire, virtual_time: VirtualClock
    ) -> None:
        talk = Conversation(forgetful_wire.client(), DECISION)
        say(talk, 2)
        heard, _ = follow(forgetful_wire.client().session_events(talk.session_id))
        virtual_time.advance_by(0)
        forgetful_wire.next("StreamSession", Fault(redelivers=2), Fault(error=CUT))
        forgetful_wire.cut()
        virtual_time.advance_by(0.05)
        assert forgetful_wire.asked_after() == [0, 2, 0]
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
