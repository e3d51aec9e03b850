"""Time: deadlines, suspension, what is forgotten, and what happens when nobody answers."""

from __future__ import annotations

import pytest
from macp.modes.handoff.v1.handoff_pb2 import HandoffAcceptPayload

from macp_rx import MacpAckError, MacpClient, Runtime
from macp_rx.clock import VirtualClock
from macp_rx.protocol import lifecycle
from macp_rx.protocol.messages import DECISION, HANDOFF
from macp_rx.protocol.modes import MODES, decision, handoff
from macp_rx.protocol.policy import AcceptanceRules, build_handoff_policy, policy_from
from macp_rx.runtime import Settings
from tests.conftest import Connect
from tests.runtime.conversation import OK, Conversation, answer, register

HOUR = 3_600_000
DAY = 24 * HOUR
MANY = 10_000
"""How often a test looks for what must happen within milliseconds."""


def advance(client: MacpClient, milliseconds: int) -> None:
    assert isinstance(client.clock, VirtualClock)
    client.clock.advance_by(milliseconds / 1000)


def test_a_session_lives_from_its_clients_timestamp_on(connect: Connect) -> None:
    """Item 18: from the server's clock only where the client says nothing; so it may live longer than a day."""
    client = connect("chair")
    silent, early, late = (Conversation(client, DECISION, start=False) for _ in range(3))
    assert silent.start() == OK
    assert silent.metadata().expires_at_unix_ms == silent.metadata().started_at_unix_ms + 60_000
    stamp = client.clock.now_ms + 365 * DAY
    assert late.start(timestamp_unix_ms=stamp) == OK
    assert late.metadata().expires_at_unix_ms == stamp + 60_000
    assert late.metadata().started_at_unix_ms < stamp
    assert early.start(timestamp_unix_ms=1) == OK
    assert early.say("chair", decision.propose("p1", "one")) == "SESSION_NOT_OPEN"
    assert early.state() == "EXPIRED"
    negative = Conversation(client, DECISION, start=False)
    assert negative.start(timestamp_unix_ms=-5) == OK
    assert negative.say("chair", decision.propose("p1", "one")) == OK


def test_what_was_done_when_is_told_by_the_servers_clock(connect: Connect) -> None:
    """Item 18: a message's own timestamp is for people."""
    talk = Conversation(connect("chair"), DECISION)
    assert talk.say("alice", decision.propose("p1", "one"), timestamp_unix_ms=1) == OK
    activity = talk.activity("alice")
    assert activity is not None
    assert activity.last_message_at_unix_ms >= talk.metadata().started_at_unix_ms
    assert talk.history()[1].timestamp_unix_ms == 1


def test_the_deadline_itself_is_still_in_time(virtual: MacpClient) -> None:
    """Item 18: a session expires a millisecond later."""
    talk = Conversation(virtual, DECISION)
    advance(virtual, 60_000)
    assert talk.say("chair", decision.propose("p1", "one")) == OK
    advance(virtual, 1)
    assert talk.say("chair", decision.propose("p2", "two")) == "SESSION_NOT_OPEN"


def test_a_list_of_sessions_makes_none_expire(connect: Connect, is_reference: bool) -> None:
    """Item 19: the real server finds out when somebody asks about the session, or once a minute; ours at the deadline."""
    talk = Conversation(connect("chair"), DECISION, start=False)
    assert talk.start(timestamp_unix_ms=1) == OK
    assert talk.listed() == ("OPEN" if is_reference else "EXPIRED")
    assert talk.state() == "EXPIRED"
    assert talk.listed() == "EXPIRED"


def test_ours_expires_at_its_deadline_by_itself(virtual: MacpClient) -> None:
    """Item 19: nobody need look."""
    talk = Conversation(virtual, DECISION)
    advance(virtual, 60_000)
    assert talk.listed() == "OPEN"
    advance(virtual, 1)
    assert talk.listed() == "EXPIRED"


def test_a_session_that_is_suspended_too_long_expires_when_somebody_looks(connect: Connect, is_reference: bool) -> None:
    """Item 19: the real server does not expire it before; ours does by itself."""
    talk = Conversation(connect("chair"), DECISION, max_suspend_ms=1)
    talk.client.suspend_session(talk.session_id)
    for _ in range(MANY):
        if is_reference:
            assert talk.listed() == "SUSPENDED"
        if talk.state() == "EXPIRED":
            break
    assert talk.listed() == "EXPIRED"
    assert answer(talk.client.resume_session, talk.session_id) == "SESSION_NOT_OPEN"


def test_a_suspension_may_last_seven_days_unless_the_start_says_otherwise(virtual: MacpClient) -> None:
    """Item 19: reached is not yet exceeded; while it lasts, the session's own deadline stands still."""
    for changes, allowed in (({}, 7 * DAY), ({"max_suspend_ms": 30 * DAY}, 30 * DAY)):
        talk = Conversation(virtual, DECISION, **changes)
        virtual.suspend_session(talk.session_id)
        advance(virtual, allowed)
        assert talk.state() == "SUSPENDED"
        advance(virtual, 1)
        assert talk.listed() == "EXPIRED", (
            "the embedded runtime finds out when it happens, the real one when somebody looks"
        )
        assert talk.state() == "EXPIRED"


def test_resuming_moves_the_deadline_by_the_pause(virtual: MacpClient) -> None:
    """Item 19: what was left of the session's time is left."""
    talk = Conversation(virtual, DECISION)
    begin = talk.metadata().expires_at_unix_ms
    advance(virtual, 10_000)
    virtual.suspend_session(talk.session_id)
    assert answer(virtual.suspend_session, talk.session_id) == "SESSION_NOT_OPEN"
    advance(virtual, 3 * HOUR)
    assert talk.metadata().expires_at_unix_ms == begin
    virtual.resume_session(talk.session_id)
    assert talk.metadata().expires_at_unix_ms == begin + 3 * HOUR
    assert answer(virtual.resume_session, talk.session_id) == "SESSION_NOT_OPEN"
    advance(virtual, 50_000)
    assert talk.say("chair", decision.propose("p1", "one")) == OK
    advance(virtual, 1)
    assert talk.listed() == "EXPIRED"


def test_all_pauses_together_have_the_limit(virtual: MacpClient) -> None:
    """Item 19: resuming beyond it is too late."""
    talk = Conversation(virtual, DECISION, max_suspend_ms=1000)
    for _ in range(2):
        virtual.suspend_session(talk.session_id)
        advance(virtual, 500)
        assert answer(virtual.resume_session, talk.session_id) == OK
    virtual.suspend_session(talk.session_id)
    advance(virtual, 1)
    assert answer(virtual.resume_session, talk.session_id) == "SESSION_NOT_OPEN"
    assert talk.state() == "EXPIRED"


def test_a_session_can_be_suspended_1024_times(connect: Connect) -> None:
    """Item 19: the resumption after that makes it expire."""
    client = connect("chair")
    talk = Conversation(client, DECISION)
    for _ in range(1024):
        client.suspend_session(talk.session_id)
        client.resume_session(talk.session_id)
    client.suspend_session(talk.session_id)
    assert answer(client.resume_session, talk.session_id) == "SESSION_NOT_OPEN"
    assert talk.state() == "EXPIRED"


def test_what_is_forgotten_is_counted_from_the_start(virtual_time: VirtualClock) -> None:
    """Item 20: so a session that lasts long is gone as soon as it ends, and is then unknown, not closed."""
    runtime = Runtime(clock=virtual_time, settings=Settings(retention_ms=HOUR))
    with runtime, MacpClient.embedded(agent="chair", runtime=runtime) as client:
        short, long, lasting = (Conversation(client, DECISION, ttl_ms=DAY) for _ in range(3))
        assert short.say("chair", decision.propose("p1", "one")) == OK
        assert short.commit() == OK
        advance(client, HOUR - 1)
        assert short.state() == "RESOLVED"
        advance(client, 1)
        assert answer(short.state) == "NOT_FOUND SESSION_NOT_FOUND"
        advance(client, HOUR)
        assert long.say("chair", decision.propose("p1", "one")) == OK
        assert long.commit() == OK
        advance(client, 1)
        assert answer(long.state) == "NOT_FOUND SESSION_NOT_FOUND"
        assert answer(long.history) == "NOT_FOUND SESSION_NOT_FOUND"
        assert long.say("chair", decision.vote("p1", "APPROVE")) == "SESSION_NOT_FOUND"
        assert long.start() == OK  # nobody remembers that the id was used
        assert lasting.state() == "OPEN"  # one that has not ended is kept


class Unanswered(Conversation):
    """A handoff that is offered to alice, and accepted by itself after a while."""

    def __init__(self, client: MacpClient, timeout_ms: int) -> None:
        rules = AcceptanceRules(implicit_accept_timeout_ms=timeout_ms)
        super().__init__(client, HANDOFF, policy=register(client, build_handoff_policy, acceptance=rules))
        assert self.say("chair", handoff.offer("h1", "alice"), timestamp_unix_ms=1) == OK
        activity = self.activity("chair")
        assert activity is not None
        self.offered_at = activity.last_message_at_unix_ms

    def wait(self, milliseconds: int) -> None:
        """Until so long after the offer by the server's clock, which a message that is not allowed tells."""
        said = self.envelope("mallory", handoff.accept_handoff("h1"))
        for _ in range(MANY):
            with pytest.raises(MacpAckError, match="FORBIDDEN") as refused:
                self.client.acting_as("mallory").send(said)
            if refused.value.ack.accepted_at_unix_ms >= self.offered_at + milliseconds:
                return
        raise AssertionError(f"{milliseconds} ms are not over")


def test_an_offer_that_nobody_answers_is_accepted(connect: Connect, is_reference: bool) -> None:
    """Item 25: in the target's name, at the deadline, before the message that finds out, which is refused all the same.

    The real server finds out when somebody who may speak does, or once a minute; ours at the deadline.
    """
    talk = Unanswered(connect("chair"), 1)
    talk.wait(1)
    if is_reference:
        assert talk.kinds() == ["SessionStart", "HandoffOffer"]  # neither mallory nor reading makes it so
    assert talk.say("alice", handoff.decline("h1")) == "INVALID_ENVELOPE"
    assert talk.kinds() == ["SessionStart", "HandoffOffer", "HandoffAccept"]
    accepted = talk.history()[2]
    assert (accepted.sender, accepted.message_id) == ("alice", "implicit-accept:h1")
    assert accepted.timestamp_unix_ms == talk.offered_at + 1
    assert HandoffAcceptPayload.FromString(accepted.payload) == HandoffAcceptPayload(
        handoff_id="h1", accepted_by="alice", reason="implicit accept (timeout)", implicit=True
    )
    assert talk.activity("alice") is None
    assert talk.commit(action="handoff.accepted") == OK


def test_the_runtimes_own_message_ids_are_used_up_too(connect: Connect) -> None:
    """Item 4: a client that sends one finds that it was accepted already, and only then that it is reserved."""
    talk = Unanswered(connect("chair"), 1)
    own = {"message_id": "implicit-accept:h1"}
    talk.wait(2)
    assert talk.say("chair", handoff.add_context("h1")) == OK
    assert talk.say("bob", handoff.add_context("h1"), **own) == "duplicate"


def test_ours_accepts_at_the_deadline_by_itself(virtual: MacpClient) -> None:
    """Item 25: reached is due. A pause does not count, and moves the deadline."""
    talk = Unanswered(virtual, 1000)
    advance(virtual, 400)
    virtual.suspend_session(talk.session_id)
    advance(virtual, HOUR)
    virtual.resume_session(talk.session_id)
    advance(virtual, 599)
    assert talk.kinds() == ["SessionStart", "HandoffOffer"]
    advance(virtual, 1)
    assert talk.kinds() == ["SessionStart", "HandoffOffer", "HandoffAccept"]
    assert talk.history()[2].timestamp_unix_ms == talk.offered_at + 1000 + HOUR


def test_expiry_comes_before_an_acceptance_that_is_due_as_well(virtual: MacpClient) -> None:
    """Item 25: nobody accepts anything in a session that is over."""
    talk = Unanswered(virtual, 60_001)
    advance(virtual, 120_000)
    assert talk.state() == "EXPIRED"
    assert talk.kinds() == ["SessionStart", "HandoffOffer"]


def test_only_who_may_speak_makes_a_due_acceptance_happen(virtual: MacpClient) -> None:
    """Item 25: on the pure functions, which do what the real server does; a message that is refused leaves it there."""
    talk = Unanswered(virtual, 1000)
    opening, offer = talk.history()
    policy = policy_from(build_handoff_policy("p", acceptance=AcceptanceRules(implicit_accept_timeout_ms=1000)))
    policies = {talk.opening.policy_version: policy}
    start = lifecycle.start(opening, 0, mode=MODES[HANDOFF], policies=policies)
    offered, _ = lifecycle.receive(start, MODES[HANDOFF], offer, 100)

    def after(sender: str, handoff_id: str, now: int) -> tuple[lifecycle.Session, str]:
        said = talk.envelope(sender, handoff.decline(handoff_id))
        session, refusal = lifecycle.receive(offered, MODES[HANDOFF], said, now)
        return session, refusal.code if refusal else OK

    assert after("mallory", "h1", 5000) == (offered, "FORBIDDEN")
    assert after("alice", "unknown", 1099) == (offered, "INVALID_ENVELOPE")
    accepted, answered = after("alice", "h1", 5000)
    assert answered == "INVALID_ENVELOPE"
    assert (accepted.newest.kind, accepted.newest.at) == (lifecycle.Kind.SYNTHETIC, 1100)
    assert accepted.activity == offered.activity


def test_the_runtimes_ids_are_reserved_in_handoff_sessions(connect: Connect) -> None:
    """Item 26: for every message, the SessionStart among them; small letters and the colon count."""
    client = connect("chair")
    own = {"message_id": "implicit-accept:x"}
    assert Conversation(client, HANDOFF, start=False).start(**own) == "INVALID_ENVELOPE"
    talk = Conversation(client, HANDOFF)
    assert talk.say("chair", handoff.offer("h1", "alice"), **own) == "INVALID_ENVELOPE"
    assert talk.say("chair", handoff.offer("h1", "alice"), message_id="Implicit-Accept:h1") == OK
    assert talk.say("chair", handoff.add_context("h1"), **own) == "INVALID_ENVELOPE"
    assert talk.say("alice", handoff.accept_handoff("h1"), **own) == "INVALID_ENVELOPE"
    assert talk.say("mallory", handoff.accept_handoff("h1"), **own) == "FORBIDDEN"
    assert talk.say("alice", HandoffAcceptPayload(handoff_id="h1", implicit=True)) == "INVALID_ENVELOPE"
    assert talk.say("alice", handoff.accept_handoff("h1"), message_id="implicit-accept") == OK
    assert talk.commit(message_id="implicit-accept:c") == "INVALID_ENVELOPE"
    assert talk.commit() == OK
    elsewhere = Conversation(client, DECISION, start=False)
    assert elsewhere.start(**own) == OK
