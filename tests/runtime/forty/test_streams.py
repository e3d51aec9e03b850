"""StreamSession and the watches: what they say, what ends them, and what does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from macp.modes.decision.v1.decision_pb2 import VotePayload
from macp.v1.core_pb2 import ProgressPayload, SessionStartPayload, SignalPayload
from macp.v1.envelope_pb2 import Envelope
from macp.v1.policy_pb2 import WatchPoliciesResponse

from macp_rx import AuthConfig, MacpStream, MacpStreamError, MacpTransportError
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision, handoff
from macp_rx.protocol.policy import AcceptanceRules, build_decision_policy, build_handoff_policy, build_quorum_policy
from tests.conftest import Connect, Recorder
from tests.runtime.conversation import OK, Conversation, register

SECONDS = 10
"""How long a test waits for what must come."""


def heard(stream: MacpStream) -> str:
    """What a stream says next: a message's type, an inline error's code, or how the stream ends."""
    try:
        said = stream.read(SECONDS)
    except MacpStreamError as refused:
        return f"inline {refused.code}"
    except MacpTransportError as failed:
        return f"end {failed.status} {failed.code}"
    return said.message_type if said else "end"


@pytest.fixture
def talk(connect: Connect) -> Conversation:
    return Conversation(connect("chair"), DECISION)


def stream_of(talk: Conversation, agent: str, *, subscribed: bool = True) -> MacpStream:
    return talk.client.acting_as(agent).open_stream(talk.session_id if subscribed else "")


def test_a_stream_acknowledges_nothing_but_echoes_what_is_accepted(talk: Conversation) -> None:
    """Item 21: everybody hears it, its sender too; a duplicate and a report of progress are heard by nobody."""
    with stream_of(talk, "chair") as chair, stream_of(talk, "alice") as alice:
        proposal = talk.envelope("chair", decision.propose("p1", "one"))
        chair.send(proposal)
        assert [heard(chair), heard(chair)] == ["SessionStart", "Proposal"]
        chair.send(proposal)
        chair.send(talk.envelope("chair", ProgressPayload(progress_token="t", progress=1, total=2)))
        chair.send(talk.envelope("chair", decision.vote("p1", "APPROVE")))
        assert heard(chair) == "Vote"
        assert [heard(alice), heard(alice), heard(alice)] == ["SessionStart", "Proposal", "Vote"]


def test_a_stream_outlives_its_session(talk: Conversation) -> None:
    """Item 21: it hears the commitment, and then nothing, but stays open: it can even be asked for a replay."""
    with stream_of(talk, "chair") as chair:
        assert talk.say("chair", decision.propose("p1", "one")) == OK
        assert talk.commit() == OK
        everything = ["SessionStart", "Proposal", "Commitment"]
        assert [heard(chair) for _ in range(3)] == everything
        chair.send_subscribe(talk.session_id)
        assert [heard(chair) for _ in range(3)] == everything
        chair.close()
        assert heard(chair) == "end"


@pytest.mark.parametrize("end", ["commit", "cancel", "suspend"])
def test_speaking_in_a_session_that_is_not_open_ends_the_stream(talk: Conversation, end: str) -> None:
    """Item 21: with INVALID_ENVELOPE, whose text is SESSION_NOT_OPEN; even what was accepted before, which Send takes."""
    assert talk.say("chair", decision.propose("p1", "one"), message_id="m1") == OK
    {
        "commit": talk.commit,
        "cancel": lambda: talk.client.cancel_session(talk.session_id),
        "suspend": lambda: talk.client.suspend_session(talk.session_id),
    }[end]()
    again = talk.envelope("chair", decision.propose("p1", "one"), message_id="m1")
    with stream_of(talk, "chair", subscribed=False) as chair:
        chair.send(again)
        with pytest.raises(MacpTransportError) as ended:
            chair.read(SECONDS)
    assert (ended.value.status, ended.value.code) == ("INVALID_ARGUMENT", "INVALID_ENVELOPE")
    assert ended.value.message == "SESSION_NOT_OPEN"
    assert talk.client.send(again).duplicate


def unknown_policy(talk: Conversation) -> SessionStartPayload:
    return changed(talk.opening, policy_version="policy.unknown")


def changed(opening: SessionStartPayload, **changes: str) -> SessionStartPayload:
    payload = SessionStartPayload()
    payload.CopyFrom(opening)
    for name, value in changes.items():
        setattr(payload, name, value)
    return payload


def foreign_policy(talk: Conversation) -> str:
    return register(talk.client, build_quorum_policy)


OTHER_ID = "0123456789abcdefghijk-"
VOTE = decision.vote("p1", "APPROVE")

INLINE: dict[str, Callable[[Conversation], Envelope]] = {
    "INVALID_ENVELOPE": lambda talk: talk.envelope("alice", VotePayload(proposal_id="p1", vote="yes")),
    "FORBIDDEN": lambda talk: talk.envelope("alice", b"", "Nonsense"),
    "UNSUPPORTED_PROTOCOL_VERSION": lambda talk: talk.envelope("alice", VOTE, macp_version="2.0"),
    "SESSION_NOT_FOUND": lambda talk: talk.envelope("alice", VOTE, session_id=OTHER_ID),
    "MODE_NOT_SUPPORTED": lambda talk: talk.envelope("alice", talk.opening, session_id=OTHER_ID, mode="nope"),
    "UNKNOWN_POLICY_VERSION": lambda talk: talk.envelope("alice", unknown_policy(talk), session_id=OTHER_ID),
}

TERMINAL: dict[str, Callable[[Conversation], Envelope]] = {
    "RESOURCE_EXHAUSTED PAYLOAD_TOO_LARGE": lambda talk: talk.envelope("alice", b"x" * 1_048_577, "Vote"),
    "UNAUTHENTICATED UNAUTHENTICATED": lambda talk: talk.envelope("bob", VOTE),
    "ALREADY_EXISTS SESSION_ALREADY_EXISTS": lambda talk: talk.envelope("alice", talk.opening),
    "INVALID_ARGUMENT INVALID_SESSION_ID": lambda talk: talk.envelope("alice", talk.opening, session_id="s1"),
    "INVALID_ARGUMENT INVALID_POLICY_DEFINITION": lambda talk: talk.envelope(
        "alice", changed(talk.opening, policy_version=foreign_policy(talk)), session_id=OTHER_ID
    ),
    "INVALID_ARGUMENT INVALID_ENVELOPE": lambda talk: talk.envelope(
        "alice", SignalPayload(signal_type="hello"), session_id="", mode=""
    ),
}


@pytest.mark.parametrize("code", INLINE)
def test_a_refusal_that_is_told_inline(talk: Conversation, code: str) -> None:
    """Item 21: the stream goes on, and so can whoever was refused."""
    said = INLINE[code](talk)
    with stream_of(talk, "alice", subscribed=False) as alice:
        alice.send(said)
        with pytest.raises(MacpStreamError) as refused:
            alice.read(SECONDS)
        assert (refused.value.code, refused.value.message_id) == (code, said.message_id)
        alice.send(said)
        assert heard(alice) == f"inline {code}"


def test_a_denial_by_policy_is_told_inline(connect: Connect) -> None:
    """Item 21: with its reasons; afterwards the stream carries what is accepted."""
    client = connect("chair")
    talk = Conversation(client, DECISION, policy="policy.std.majority")
    assert talk.say("alice", decision.propose("p1", "one")) == OK
    with stream_of(talk, "chair", subscribed=False) as chair:
        chair.send(talk.envelope("chair", talk.commitment()))
        with pytest.raises(MacpStreamError) as refused:
            chair.read(SECONDS)
        assert refused.value.code == "POLICY_DENIED"
        assert [denial.code for denial in refused.value.denials] == ["quorum_not_met", "no_votes"]
        assert talk.say("alice", VOTE) == OK
        assert heard(chair) == "Vote"


@pytest.mark.parametrize("end", TERMINAL)
def test_a_refusal_that_ends_the_stream(talk: Conversation, end: str) -> None:
    """Item 21: with a status, and nothing inline."""
    client = talk.client.acting_as(AuthConfig.for_bearer("alice"))
    with client.open_stream() as alice:
        alice.send(TERMINAL[end](talk))
        assert heard(alice) == f"end {end}"


def test_a_stream_is_about_one_session(talk: Conversation) -> None:
    """Item 21: a frame for another one ends it."""
    other = Conversation(talk.client, DECISION)
    with stream_of(talk, "chair") as chair:
        assert heard(chair) == "SessionStart"
        chair.send(other.envelope("chair", decision.propose("p1", "one")))
        assert heard(chair) == "end INVALID_ARGUMENT INVALID_ENVELOPE"
    with stream_of(talk, "chair") as chair:
        assert heard(chair) == "SessionStart"
        chair.send_subscribe(other.session_id)
        assert heard(chair) == "end INVALID_ARGUMENT INVALID_ENVELOPE"


def test_an_outsider_whose_envelope_is_refused_hears_no_more_than_that(talk: Conversation, is_reference: bool) -> None:
    """`protocol.md` 6.7: the real server attaches first and asks later, and so feeds the session to mallory. Ours does not."""
    with stream_of(talk, "mallory", subscribed=False) as mallory:
        mallory.send(talk.envelope("mallory", VOTE))
        assert heard(mallory) == "inline FORBIDDEN"
        assert talk.say("chair", decision.propose("p1", "secret")) == OK
        mallory.send(talk.envelope("mallory", VOTE))
        assert heard(mallory) == ("Proposal" if is_reference else "inline FORBIDDEN")


def test_a_refused_subscription_leaves_the_stream_open(talk: Conversation) -> None:
    """Item 22: the refusal is inline, answers no message, and binds to nothing; who waits for a status waits for ever."""
    readable = Conversation(talk.client, DECISION, initiator="mallory")
    with stream_of(talk, "mallory") as mallory:
        with pytest.raises(MacpStreamError) as refused:
            mallory.read(SECONDS)
        assert (refused.value.code, refused.value.message_id, refused.value.session_id) == ("FORBIDDEN", "", "")
        mallory.send_subscribe(readable.session_id)
        assert heard(mallory) == "SessionStart"


def test_a_refused_subscription_is_the_end_for_our_client(talk: Conversation) -> None:
    """Item 22: a stream of events takes that one inline error for its own."""
    events = Recorder()
    talk.client.acting_as("mallory").session_events(talk.session_id).subscribe(events)
    events.wait_for_end()
    assert isinstance(events.error, MacpStreamError)
    assert events.error.code == "FORBIDDEN"


def test_nothing_marks_the_end_of_a_replay(talk: Conversation) -> None:
    """Item 23: what comes next is live. Only who says no more is told the end, which is how `history` is finite."""
    assert talk.say("chair", decision.propose("p1", "one")) == OK
    with stream_of(talk, "alice") as alice:
        assert [heard(alice), heard(alice)] == ["SessionStart", "Proposal"]
        assert talk.say("bob", VOTE) == OK
        assert heard(alice) == "Vote"
        alice.close()
        assert heard(alice) == "end"
    assert talk.kinds() == ["SessionStart", "Proposal", "Vote"]


def test_sequences_count_what_was_said(connect: Connect) -> None:
    """Item 24: the start is 1 and the runtime's own acceptance counts; a suspension does not. After n means from n + 1 on."""
    client = connect("chair")
    rules = AcceptanceRules(implicit_accept_timeout_ms=1)
    policy = register(client, build_handoff_policy, acceptance=rules)
    talk = Conversation(client, handoff.MODE, policy=policy)
    for _ in range(2):
        client.suspend_session(talk.session_id)
        client.resume_session(talk.session_id)
    assert talk.say("chair", handoff.offer("h1", "alice")) == OK
    for _ in range(10_000):
        assert talk.say("chair", handoff.add_context("h1")) == OK
        if "HandoffAccept" in talk.kinds():
            break
    assert talk.commit() == OK
    history = list(client.history(talk.session_id))
    assert [accepted.sequence for accepted in history] == list(range(1, len(history) + 1))
    assert [accepted.message_type for accepted in history[:2]] == ["SessionStart", "HandoffOffer"]
    for after in range(len(history) + 1):
        assert list(client.history(talk.session_id, after_sequence=after)) == history[after:]


def test_after_more_than_there_is_only_what_comes_is_heard(talk: Conversation) -> None:
    """Item 24: all of it, also what comes before that sequence."""
    with talk.client.open_stream(talk.session_id, after_sequence=100) as chair:
        chair.send(talk.envelope("chair", decision.propose("p1", "one")))
        assert heard(chair) == "Proposal"
        assert talk.say("bob", VOTE) == OK
        assert heard(chair) == "Vote"


def test_a_watch_of_policies_that_falls_behind_ends_without_an_error(connect: Connect) -> None:
    """Item 37: whoever needs it asks again; the first answer is the whole list."""
    client = connect("chair")
    # so much at each change that buffers on the way cannot hold what nobody reads
    large = register(client, build_decision_policy, description="x" * 60_000)
    behind = iter(client.watch_policies())
    first: WatchPoliciesResponse = next(behind)
    assert "policy.default" in [policy.policy_id for policy in first.descriptors]
    for _ in range(400):
        client.unregister_policy(register(client, build_decision_policy))
    assert len(list(behind)) < 800
    assert next(iter(client.watch_policies())).descriptors == first.descriptors
    client.unregister_policy(large)


def test_more_streams_than_a_connection_carries(talk: Conversation) -> None:
    """Item 38: a connection carries 128; the client opens as many connections as it takes."""
    listening = [Recorder() for _ in range(150)]
    subscriptions = [talk.client.session_events(talk.session_id).subscribe(one) for one in listening]
    for one in listening:
        one.wait_for(1)
    assert talk.say("chair", decision.propose("p1", "one")) == OK
    for one in listening:
        one.wait_for(2)
    for subscription in subscriptions:
        subscription.dispose()
