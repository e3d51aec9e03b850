"""How a session ended, as one value: true however it ended, whoever asks, and whatever is forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from macp.v1.core_pb2 import ModeDescriptor

from macp_rx import DecisionSession, MacpClient, MacpTransportError, Outcome, Runtime
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION, HANDOFF, MULTI_ROUND
from macp_rx.protocol.modes import handoff, multi_round
from macp_rx.runtime import Settings
from tests.conftest import RUNTIMES, RealServer, Recorder, connecting, running_server
from tests.runtime.conversation import OK, Conversation
from tests.streams.exact import say
from tests.streams.wire import CUT, LAGGED, Fault, Wire


@pytest.fixture(scope="module")
def server_with_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A real server as it is by default: on files, it forgets a session's history when the session ends."""
    with running_server(MACP_MEMORY_ONLY="0", MACP_DATA_DIR=str(tmp_path_factory.mktemp("data"))) as server:
        yield server


@pytest.fixture(params=RUNTIMES)
def forgetful(request: pytest.FixtureRequest) -> Iterator[MacpClient]:
    """A client of a runtime that does so."""
    with connecting(
        request.param,
        lambda: Runtime(settings=Settings(compact_ended=True)),
        lambda: request.getfixturevalue("server_with_files"),
    ) as connect:
        yield connect("chair")


def decided(client: MacpClient, *, positive: bool = True) -> Conversation:
    talk = Conversation(client, DECISION)
    say(talk)
    assert talk.commit(action="decision.approved" if positive else "decision.rejected", positive=positive) == OK
    return talk


class TestHow:
    @pytest.mark.parametrize("positive", [True, False])
    def test_it_was_resolved(self, client: MacpClient, positive: bool) -> None:
        talk = decided(client, positive=positive)
        outcome = client.outcome(talk.session_id).run()
        assert (outcome.state, outcome.reason, outcome.positive) == ("RESOLVED", "because", positive)
        assert outcome.commitment is not None
        assert outcome.commitment.commitment_id == "c1"

    def test_it_was_cancelled(self, client: MacpClient) -> None:
        talk = Conversation(client, DECISION)
        client.cancel_session(talk.session_id)
        assert client.outcome(talk.session_id).run() == Outcome("CANCELLED", None, "it was cancelled")

    def test_it_has_expired(self, client: MacpClient) -> None:
        talk = Conversation(client, DECISION, ttl_ms=300)
        outcome = client.outcome(talk.session_id).run()
        assert outcome == Outcome("EXPIRED", None, "its deadline has passed")
        assert not outcome.positive

    def test_a_declined_handoff_is_none(self, client: MacpClient) -> None:
        talk = Conversation(client, HANDOFF)
        ended = Recorder()
        client.outcome(talk.session_id).subscribe(ended)
        assert talk.say("chair", handoff.offer("h1", "alice")) == OK
        assert talk.say("alice", handoff.decline("h1")) == OK
        assert talk.state() == "OPEN"
        assert ended.items == []
        assert talk.commit(action="handoff.declined", positive=False) == OK
        ended.wait_for_end()
        (outcome,) = ended.items
        assert isinstance(outcome, Outcome)
        assert (outcome.state, outcome.positive) == ("RESOLVED", False)

    def test_of_an_extension_mode(self, client: MacpClient) -> None:
        talk = Conversation(client, MULTI_ROUND, ["alice", "bob"])
        for sender in ("alice", "bob"):
            assert talk.say(sender, multi_round.contribute("42")) == OK
        assert talk.commit(action="converged") == OK
        outcome = client.outcome(talk.session_id).run()
        assert outcome.commitment is not None
        assert (outcome.state, outcome.commitment.action) == ("RESOLVED", "converged")

    def test_it_is_told_once_when_it_has_ended(self, client: MacpClient) -> None:
        talk = Conversation(client, DECISION)
        say(talk)
        early = Recorder()
        session = DecisionSession(client, talk.session_id)
        session.outcome.subscribe(early)
        assert talk.commit() == OK
        early.wait_for_end()
        late = session.outcome.run()
        assert early.items == [late]
        assert early.completed


class TestForgotten:
    @pytest.mark.parametrize("positive", [True, False])
    def test_the_receipt_keeps_the_commitment(self, forgetful: MacpClient, positive: bool) -> None:
        talk = decided(forgetful, positive=positive)
        with pytest.raises(MacpTransportError, match="are forgotten"):
            talk.history()
        outcome = forgetful.outcome(talk.session_id).run()
        assert (outcome.state, outcome.reason, outcome.positive) == ("RESOLVED", "because", positive)
        assert outcome.commitment == talk.commitment(outcome.commitment.action if outcome.commitment else "", positive)

    def test_who_listened_and_who_asks_hear_the_same(self, forgetful: MacpClient) -> None:
        talk = Conversation(forgetful, DECISION)
        say(talk)
        session = DecisionSession(forgetful, talk.session_id)
        heard, listening = Recorder(), Recorder()
        session.events.subscribe(listening)
        session.outcome.subscribe(heard)
        listening.wait_for(2)
        assert talk.commit() == OK
        heard.wait_for_end()
        assert heard.items == [forgetful.outcome(talk.session_id).run()]

    def test_it_was_cancelled(self, forgetful: MacpClient) -> None:
        talk = Conversation(forgetful, DECISION)
        say(talk)
        forgetful.cancel_session(talk.session_id)
        assert forgetful.outcome(talk.session_id).run() == Outcome("CANCELLED", None, "it was cancelled")

    def test_it_has_expired(self, forgetful: MacpClient) -> None:
        talk = Conversation(forgetful, DECISION, ttl_ms=300)
        forgetful.outcome(talk.session_id).run()
        assert forgetful.outcome(talk.session_id).run() == Outcome("EXPIRED", None, "its deadline has passed")

    def test_a_mode_that_has_no_receipts_tells_that_it_was_resolved(self, forgetful: MacpClient) -> None:
        mode = f"ext.notes-{forgetful.clock.new_id()[:8]}.v1"
        described = ModeDescriptor(
            mode=mode,
            mode_version="1.0.0",
            title="Notes",
            message_types=["Note", "Commitment"],
            terminal_message_types=["Commitment"],
        )
        assert forgetful.register_ext_mode(described).ok
        talk = Conversation(forgetful, mode)
        assert talk.commit() == OK
        outcome = forgetful.outcome(talk.session_id).run()
        assert outcome == Outcome("RESOLVED", None, "it was committed to")


class TestTrouble:
    def test_the_questions_are_asked_again(self, forgetful_wire: Wire) -> None:
        wire, client = forgetful_wire, forgetful_wire.client()
        talk = decided(client)
        wire.next("GetSession", Fault(error=CUT), Fault(error=CUT))
        wire.next("GetDecisionReceipt", Fault(error=CUT), Fault(error=LAGGED))
        wire.next("StreamSession", Fault(error=CUT), Fault(), Fault(error=CUT))
        outcome = client.outcome(talk.session_id).run()
        assert (outcome.state, outcome.positive) == ("RESOLVED", True)

    def test_a_refusal_is_told(self, wire: Wire, talk: Conversation, virtual_time: VirtualClock) -> None:
        refused = MacpTransportError("PERMISSION_DENIED", code="FORBIDDEN")
        client = wire.client()
        talk.client.cancel_session(talk.session_id)
        heard = Recorder()
        wire.next("GetSession", Fault(error=refused))
        client.outcome(talk.session_id, client.history(talk.session_id)).subscribe(heard)
        virtual_time.advance_by(1)
        assert heard.error is refused

    def test_of_a_reader_that_was_behind(self, forgetful_wire: Wire, virtual_time: VirtualClock) -> None:
        client = forgetful_wire.client()
        talk = Conversation(client, DECISION)
        session = DecisionSession(client, talk.session_id)
        heard = Recorder()
        session.outcome.subscribe(heard)
        virtual_time.advance_by(0)
        forgetful_wire.cut()
        say(talk, 3)
        assert talk.commit() == OK
        virtual_time.advance_by(1)
        (outcome,) = heard.items
        assert isinstance(outcome, Outcome)
        assert (outcome.state, outcome.positive) == ("RESOLVED", True)
        assert outcome.commitment is not None

    def test_of_a_session_with_an_envelope_that_was_never_told(
        self, wire: Wire, talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        """Whose events end with an error while it is open: the outcome waits all the same."""
        session = DecisionSession(wire.client(), talk.session_id)
        heard, events = Recorder(), Recorder()
        session.outcome.subscribe(heard)
        session.events.subscribe(events)
        virtual_time.advance_by(0)
        wire.rewrite = lambda rpc, response: None if rpc == "StreamSession" else response
        say(talk)
        virtual_time.advance_by(0)
        wire.rewrite = lambda _rpc, response: response
        say(talk)
        virtual_time.advance_by(0)
        wire.cut()
        virtual_time.advance_by(1)
        assert events.error is not None
        assert (heard.items, heard.error) == ([], None)
        assert talk.commit() == OK
        virtual_time.advance_by(1)
        assert [outcome.state for outcome in heard.items if isinstance(outcome, Outcome)] == ["RESOLVED"]

    def test_of_an_unknown_session(self, client: MacpClient) -> None:
        with pytest.raises(MacpTransportError) as failed:
            client.outcome(client.clock.new_id()).run()
        assert failed.value.code == "SESSION_NOT_FOUND"

    def test_a_stream_that_ends_before_its_session_has_no_outcome(self, client: MacpClient) -> None:
        talk = Conversation(client, DECISION)
        with pytest.raises(MacpTransportError, match="and the session is OPEN"):
            client.outcome(talk.session_id, client.history(talk.session_id)).run()
