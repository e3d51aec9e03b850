"""A session stream completes when its session ends, with everything delivered."""

from __future__ import annotations

import pytest
from reactivex import operators as ops

from macp_rx import MacpClient
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION, HANDOFF, PROPOSAL
from macp_rx.protocol.modes import handoff, proposal
from tests.conftest import Recorder
from tests.runtime.conversation import OK, Conversation
from tests.streams.exact import exact, follow, followed, say
from tests.streams.wire import CUT, LAGGED, Fault, Wire


class TestEnd:
    """On all three runtimes, since the server never ends the call by itself."""

    def test_behind_the_commitment(self, client: MacpClient) -> None:
        talk = Conversation(client, DECISION)
        heard = followed(client, talk)
        say(talk, 20)
        talk.commit()
        heard.wait_for_end()
        exact(heard, talk)
        assert heard.completed

    def test_at_a_cancel_with_everything_delivered(self, client: MacpClient) -> None:
        talk = Conversation(client, DECISION)
        heard = followed(client, talk)
        say(talk, 20)
        client.cancel_session(talk.session_id)
        heard.wait_for_end()
        exact(heard, talk)
        assert (heard.completed, len(heard.items)) == (True, 21)

    def test_at_the_expiry_with_everything_delivered(self, client: MacpClient) -> None:
        """Of which the server tells nobody by itself, and sweeps once a minute."""
        talk = Conversation(client, DECISION, ttl_ms=500)
        heard = followed(client, talk)
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
        heard = followed(client, talk)
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
        heard = followed(client, talk)
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
        heard = followed(client, talk)
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
