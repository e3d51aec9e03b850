"""What was accepted, as a line to read."""

from __future__ import annotations

from macp.v1.envelope_pb2 import Envelope

from macp_rx import Accepted, Message, SessionStart
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision


def accepted(message: Message, mode: str = DECISION) -> Accepted:
    envelope = Envelope(
        mode=mode, message_type=message.message_type, sender="alice", payload=message.payload_bytes, message_id="m1"
    )
    return Accepted(3, envelope)


def test_it_says_who_has_said_what() -> None:
    vote = accepted(decision.vote("p1", "APPROVE", reason="it's\nfine"))
    assert str(vote) == """3 alice Vote: proposal_id='p1', vote='APPROVE', reason="it's\\nfine\""""


def test_what_a_session_s_messages_repeat_is_left_out() -> None:
    start = SessionStart(mode=DECISION, intent="choose", participants=["alice", "bob"], ttl_ms=1000)
    assert str(accepted(start.message)) == (
        "3 alice SessionStart: intent='choose', participants=['alice', 'bob'], ttl_ms=1000"
    )


def test_a_payload_that_nobody_can_read_is_counted() -> None:
    assert str(accepted(Message("ext.auction.v1", b"12 EUR", "Bid"), "ext.auction.v1")) == "3 alice Bid: 6 bytes"
    assert str(accepted(Message(DECISION, b"\xff", "Vote"))) == "3 alice Vote: 1 bytes"
