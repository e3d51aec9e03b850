"""Envelopes: how they are answered, in which order they are judged, their ids, and their bytes."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from macp.modes.decision.v1.decision_pb2 import ProposalPayload
from macp.modes.multi_round.v1.multi_round_pb2 import ContributePayload
from macp.v1 import core_pb2
from macp.v1.core_pb2 import CommitmentPayload, CommitmentRef, ModeDescriptor, SessionStartPayload
from macp.v1.envelope_pb2 import SessionState

from macp_rx import MacpClient, MacpTransportError
from macp_rx.protocol.commitment import commitment_hash
from macp_rx.protocol.messages import DECISION, HANDOFF, MULTI_ROUND, PROPOSAL, QUORUM, TASK
from macp_rx.protocol.modes import decision, multi_round
from macp_rx.transport.methods import SEND
from tests.conftest import Connect, Recorder
from tests.runtime.conversation import OK, Conversation, answer

ILLEGAL_IDS = {
    "too short": "a" * 21,
    "too long": "a" * 129,
    "empty": "",
    "a foreign letter": "é" * 30,
    "a dot": "a.b" * 10,
    "an upper-case UUID": "E4EAAAF2-D142-41B3-8D5F-5A4B0B0B5C6D",
    "a mixed-case UUID": "e4eaaaf2-d142-41b3-8d5f-5A4b0b0b5c6d",
    "a UUID of version 1": "e4eaaaf2-d142-11b3-8d5f-5a4b0b0b5c6d",
    "a UUID of version 3": "e4eaaaf2-d142-31b3-8d5f-5a4b0b0b5c6d",
    "a UUID of version 5": "e4eaaaf2-d142-51b3-8d5f-5a4b0b0b5c6d",
    "the nil UUID": "00000000-0000-0000-0000-000000000000",
    "the max UUID": "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "a UUID in braces": "{e4eaaaf2-d142-41b3-8d5f-5a4b0b0b5c6d}",
    "a UUID as a URN": "urn:uuid:e4eaaaf2-d142-41b3-8d5f-5a4b0b0b5c6d",
}
"""What Python's ``uuid.UUID`` or a careless pattern would take."""


def fresh(client: MacpClient) -> str:
    """Digits that make an id new on a server that other tests use too."""
    return client.clock.new_id().replace("-", "")


def test_a_refusal_of_send_is_an_ack_and_not_a_status(connect: Connect) -> None:
    """Item 1: every refusal but a missing envelope comes in an Ack with ``ok=False``, UNAUTHENTICATED included."""
    client = connect("chair")
    talk = Conversation(client, DECISION)
    vote = decision.vote("p1", "APPROVE")
    assert talk.say("chair", vote) == "INVALID_ENVELOPE"
    assert talk.say("mallory", vote) == "FORBIDDEN"
    assert talk.say("chair", vote, mode=" ") == "INVALID_ENVELOPE"
    assert talk.say("chair", vote, macp_version="1.1") == "UNSUPPORTED_PROTOCOL_VERSION"
    assert talk.say("chair", vote, session_id="nowhere") == "SESSION_NOT_FOUND"
    assert talk.say("chair", b"x" * 1_048_577, "Vote") == "PAYLOAD_TOO_LARGE"
    client.auth = None
    assert answer(client.send, talk.envelope("chair", vote)) == "UNAUTHENTICATED"


def test_a_send_without_an_envelope_is_a_status(connect: Connect) -> None:
    """Item 1: the one refusal that is none of an envelope."""
    client, heard = connect("chair"), Recorder()
    transport = client._connection.transport  # no public call sends nothing
    client.clock.run_soon(lambda: transport.unary(SEND, core_pb2.SendRequest(), heard, auth=client.auth, timeout=10))
    heard.wait_for_end()
    assert isinstance(heard.error, MacpTransportError)
    assert (heard.error.status, heard.error.code) == ("INVALID_ARGUMENT", "INVALID_ENVELOPE")


def test_the_shape_is_judged_before_the_credential(connect: Connect) -> None:
    """Item 2: whoever has no credential is still told what is wrong with the envelope."""
    client = connect("chair")
    talk = Conversation(client, DECISION)
    vote = decision.vote("p1", "APPROVE")
    client.auth = None
    for envelope, code in (
        (talk.envelope("chair", vote, macp_version="2.0"), "UNSUPPORTED_PROTOCOL_VERSION"),
        (talk.envelope("chair", vote, message_id=""), "INVALID_ENVELOPE"),
        (talk.envelope("chair", b"x" * 1_048_577, "Vote"), "PAYLOAD_TOO_LARGE"),
        (talk.envelope("chair", vote), "UNAUTHENTICATED"),
    ):
        assert answer(client.send, envelope) == code


def test_a_session_start_is_judged_in_the_protocols_order(connect: Connect) -> None:
    """Item 2: the session id before the mode, the mode before the payload, the payload before whether it is known."""
    talk = Conversation(connect("chair"), DECISION)
    broken = SessionStartPayload(ttl_ms=0)
    assert talk.say("chair", broken, session_id="s1", mode="nope") == "INVALID_SESSION_ID"
    assert talk.say("chair", broken, mode="nope") == "MODE_NOT_SUPPORTED"
    assert talk.say("chair", broken, message_id="start") == "INVALID_ENVELOPE"
    assert talk.start() == "duplicate"


def test_a_known_id_is_a_duplicate_whoever_sends_it_and_whatever_else_it_says(connect: Connect) -> None:
    """Item 2: dedupe comes before the mode's match, authorization and the session's state."""
    talk = Conversation(connect("chair"), DECISION)
    assert talk.say("chair", decision.propose("p1", "one"), message_id="m1") == OK

    def again() -> list[str]:
        return [
            talk.say("chair", decision.propose("p1", "one"), message_id="m1"),
            talk.say("mallory", decision.vote("p9", "REJECT"), message_id="m1"),
            talk.say("alice", b"\xff", "Nonsense", message_id="m1", mode="nope"),
        ]

    assert again() == ["duplicate"] * 3
    talk.client.suspend_session(talk.session_id)
    assert again() == ["duplicate"] * 3
    talk.client.resume_session(talk.session_id)
    assert talk.commit() == OK
    assert again() == ["duplicate"] * 3
    assert talk.kinds() == ["SessionStart", "Proposal", "Commitment"]


def test_a_duplicate_makes_no_session_expire(connect: Connect, is_reference: bool) -> None:
    """Item 2: nor does it find out that the session's time is over. Ours has a timer, and knows by itself."""
    talk = Conversation(connect("chair"), DECISION, start=False)
    opening = talk.envelope("chair", talk.opening, message_id="start", timestamp_unix_ms=1)  # long over
    assert talk.client.send(opening).session_state == SessionState.SESSION_STATE_OPEN
    again = talk.client.send(opening)
    assert again.duplicate
    expected = SessionState.SESSION_STATE_OPEN if is_reference else SessionState.SESSION_STATE_EXPIRED
    assert again.session_state == expected
    assert talk.say("chair", decision.propose("p1", "one")) == "SESSION_NOT_OPEN"


def test_a_session_start_that_is_sent_again_is_a_duplicate(connect: Connect) -> None:
    """Item 3: a known message id is answered with the present state, another id with SESSION_ALREADY_EXISTS."""
    talk = Conversation(connect("chair"), DECISION)
    assert talk.start() == "duplicate"
    assert talk.start(message_id="other") == "SESSION_ALREADY_EXISTS"
    assert talk.say("mallory", talk.opening, message_id="start") == "duplicate"
    assert talk.say("chair", decision.propose("p1", "one"), message_id="m1") == OK
    assert talk.start(message_id="m1") == "duplicate"
    assert talk.commit() == OK
    again = talk.client.send(talk.envelope("chair", talk.opening, message_id="start"))
    assert again.session_state == SessionState.SESSION_STATE_RESOLVED
    assert talk.start(message_id="other") == "SESSION_ALREADY_EXISTS"


def test_an_id_is_used_up_by_acceptance_in_one_session(connect: Connect) -> None:
    """Item 4: a refused message leaves its id free, another sender cannot have it twice, another session can."""
    client = connect("chair")
    one, other = Conversation(client, DECISION), Conversation(client, DECISION)
    assert one.say("alice", decision.vote("p1", "APPROVE"), message_id="m1") == "INVALID_ENVELOPE"
    assert one.say("chair", decision.propose("p1", "one"), message_id="m1") == OK
    assert one.say("alice", decision.vote("p1", "APPROVE"), message_id="m1") == "duplicate"
    assert other.say("alice", decision.propose("p1", "one"), message_id="m1") == OK
    assert [envelope.sender for envelope in one.history()] == ["chair", "chair"]


def test_page_tokens_are_a_keyset(connect: Connect) -> None:
    """Item 28: base64url of ``v1:`` and the last id, unpadded; in byte order, where ``_`` comes before small letters."""
    client = connect("chair")
    digits = fresh(client)
    ids = sorted(f"{letter}{digits}" for letter in "aZ_-0z")
    for session_id in ids:
        assert Conversation(client, DECISION, start=False).start(session_id=session_id) == OK
    listed = [session.session_id for session in client.list_sessions(page_size=5)]
    assert [session_id for session_id in listed if session_id.endswith(digits)] == ids
    assert listed == sorted(listed, key=str.encode)

    def token(text: str) -> str:
        return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()

    page = client.list_sessions_page(page_size=1)
    assert page.next_page_token == token(f"v1:{page.sessions[0].session_id}")
    # the cursor need not be an id that exists
    after = client.list_sessions_page(page_size=1000, page_token=token("v1:Z")).sessions
    assert all(session.session_id > "Z" for session in after)
    assert {f"Z{digits}", f"a{digits}"} <= {session.session_id for session in after}
    for bad in ("v1", token("v1:"), token("v2:a"), token("a"), token("v1:a") + "==", "*", "a" * 1025):
        assert answer(client.list_sessions_page, page_token=bad) == "INVALID_ARGUMENT INVALID_REQUEST"
    assert answer(client.list_sessions_page, page_size=-1) == "INVALID_ARGUMENT INVALID_REQUEST"


@pytest.mark.parametrize("illegal", ILLEGAL_IDS.values(), ids=ILLEGAL_IDS)
def test_an_id_that_is_almost_a_uuid_is_refused(connect: Connect, illegal: str) -> None:
    """Item 29: a UUID is lower-case, hyphenated, of version 4 or 7; there is no second chance as an opaque id."""
    talk = Conversation(connect("chair"), DECISION, start=False)
    assert talk.start(session_id=illegal) == ("INVALID_SESSION_ID" if illegal else "INVALID_ENVELOPE")


def test_every_legal_form_of_an_id_is_taken(connect: Connect) -> None:
    """Item 29: a UUID of version 4 or 7 with any variant, or 22 to 128 letters, digits, ``_`` and ``-``."""
    client = connect("chair")
    digits = fresh(client)
    head = f"{digits[:8]}-{digits[8:12]}"
    for legal in (
        f"{head}-7abc-8abc-{digits[-12:]}",
        f"{head}-4abc-fabc-{digits[-12:]}",
        digits,
        digits.upper(),
        digits[:22],
        f"{digits:->36}",  # 36 characters with a hyphen, but no UUID
        f"{digits:_<128}",
    ):
        assert Conversation(client, DECISION, start=False).start(session_id=legal) == OK, legal


def test_payload_bytes_are_kept_as_received(connect: Connect) -> None:
    """Item 30: fields in another order, defaults spelt out, fields that nobody knows: none of it is changed."""
    talk = Conversation(connect("chair"), DECISION)
    payload = b"\x12\x03one" + b"\x1a\x00" + b"\x0a\x02p1" + b"\xf2\x3f\x06future"
    assert ProposalPayload.FromString(payload).option == "one"
    assert ProposalPayload.FromString(payload).SerializeToString() != payload
    assert talk.say("chair", payload, "Proposal") == OK
    assert talk.history()[1].payload == payload


def test_a_commitment_of_a_newer_client_is_accepted_but_has_no_receipt(connect: Connect) -> None:
    """Item 30: the mode does not mind a field that the hash does not cover; the receipt does."""
    client = connect("chair")
    known, newer = Conversation(client, DECISION), Conversation(client, DECISION)
    for talk, more in ((known, b""), (newer, b"\xf2\x3f\x06future")):
        assert talk.say("chair", decision.propose("p1", "one")) == OK
        assert talk.say("chair", talk.commitment().SerializeToString() + more, "Commitment") == OK
    receipt = client.get_decision_receipt(known.session_id).receipt_json
    assert commitment_hash(known.commitment()) in receipt
    assert client.get_decision_receipt(known.session_id).receipt_json == receipt
    refused = answer(client.get_decision_receipt, newer.session_id)
    assert refused == "FAILED_PRECONDITION RECEIPT_UNAVAILABLE"


def test_only_the_five_standard_modes_give_receipts(connect: Connect) -> None:
    """Item 30: a resolution of the other modes is no commitment."""
    client = connect("chair")
    talk = Conversation(client, MULTI_ROUND, ["alice"])
    assert talk.say("alice", multi_round.contribute("one")) == OK
    assert talk.commit() == OK
    assert talk.state() == "RESOLVED"
    refused = answer(client.get_decision_receipt, talk.session_id)
    assert refused == "FAILED_PRECONDITION RECEIPT_UNAVAILABLE"


def test_the_hash_knows_an_empty_reference_from_none() -> None:
    """Item 31: presence counts, empty strings are in it, and letters of any alphabet are themselves."""
    nothing, empty = CommitmentPayload(), CommitmentPayload(supersedes=CommitmentRef())
    assert commitment_hash(nothing) == "sha256:3240d1a7adb7bd9420ad5490182227ce699c9e4e465f7934885fe2ded939f32e"
    assert commitment_hash(empty) == "sha256:9776c22ef165f26817f89bb456cf6bc56a659eb1561a576f6ea9a435bd3291d7"
    members = dict.fromkeys(
        ("action", "authority_scope", "commitment_id", "configuration_version", "mode_version", "policy_version"), ""
    )
    reason = 'é\u2028\U0001f600\x7f"'
    whole = {**members, "outcome_positive": True, "reason": reason}
    canonical = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    expected = hashlib.sha256(b"macp-commitment-hash/1:" + canonical.encode()).hexdigest()
    assert commitment_hash(CommitmentPayload(outcome_positive=True, reason=reason)) == f"sha256:{expected}"


@pytest.mark.parametrize(
    ("mode", "message_type", "sender"),
    [
        (DECISION, "Vote", "alice"),
        (PROPOSAL, "Accept", "alice"),
        (TASK, "TaskRequest", "chair"),
        (HANDOFF, "HandoffContext", "chair"),
        (QUORUM, "Approve", "alice"),
    ],
)
def test_no_bytes_are_a_message_of_defaults(connect: Connect, mode: str, message_type: str, sender: str) -> None:
    """Item 32: what is refused is what the fields say, so that who may not speak at all is told that first."""
    talk = Conversation(connect("chair"), mode)
    assert talk.say(sender, b"", message_type) == "INVALID_ENVELOPE"
    assert talk.say("mallory", b"", message_type) == "FORBIDDEN"
    assert talk.say("mallory", b"", "Commitment") == "FORBIDDEN"


def test_no_bytes_are_accepted_where_defaults_are(connect: Connect) -> None:
    """Item 32: signals, progress, and messages of a mode that knows nothing of them."""
    client = connect("chair")
    talk = Conversation(client, DECISION)
    ambient = {"session_id": "", "mode": ""}
    assert talk.say("chair", b"", "Signal", **ambient) == OK
    assert talk.say("chair", b"", "Progress", **ambient) == OK
    mode = f"ext.test.{fresh(client)}.v1"
    client.register_ext_mode(
        ModeDescriptor(
            mode=mode, mode_version="1.0.0", message_types=["Note", "Commitment"], terminal_message_types=["Commitment"]
        )
    )
    notes = Conversation(client, mode)
    assert notes.say("alice", b"", "Note") == OK
    assert notes.history()[1].payload == b""


def test_no_bytes_are_refused_where_the_protocol_wants_some(connect: Connect) -> None:
    """Item 32: a SessionStart and a contribution are the two that must have bytes."""
    client = connect("chair")
    assert Conversation(client, DECISION, start=False).say("chair", b"", "SessionStart") == "INVALID_ENVELOPE"
    assert ContributePayload(value="").SerializeToString() == b""
    assert Conversation(client, MULTI_ROUND).say("alice", ContributePayload(value="")) == "INVALID_ENVELOPE"
