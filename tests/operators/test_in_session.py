from __future__ import annotations

import pytest
from macp.v1.envelope_pb2 import Envelope

from macp_rx import Accepted, MacpSessionError
from macp_rx import operators as mo
from macp_rx.testing import Marbles


def of(session_id: str) -> Accepted:
    return Accepted(1, Envelope(session_id=session_id, message_type="Vote"))


SESSIONS = {name: of(name) for name in "abc"}


def test_what_was_accepted_in_them(marbles: Marbles) -> None:
    source = marbles.hot("-a-b-c-a-|", SESSIONS)
    marbles.expect(source.pipe(mo.in_session("a"))).to_be("-a-----a-|", SESSIONS)
    marbles.expect(source.pipe(mo.in_session("a", "b"))).to_be("-a-b---a-|", SESSIONS)
    marbles.expect_subscriptions(source).to_be("^--------!", "^--------!")


def test_one_must_be_named() -> None:
    with pytest.raises(MacpSessionError, match="session_ids has at least one"):
        mo.in_session()
