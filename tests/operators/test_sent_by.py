from __future__ import annotations

import pytest
from macp.modes.decision.v1.decision_pb2 import VotePayload

from macp_rx import MacpSessionError
from macp_rx import operators as mo
from macp_rx.testing import Marbles
from tests.operators.voices import LEGEND


def test_what_they_have_said(marbles: Marbles) -> None:
    source = marbles.hot("-p-v-w-y-|", LEGEND)
    marbles.expect(source.pipe(mo.sent_by("alice", "carol"))).to_be("---v---y-|", LEGEND)
    marbles.expect_subscriptions(source).to_be("^--------!")


def test_ids_are_compared_exactly(marbles: Marbles) -> None:
    source = marbles.hot("-v-|", LEGEND)
    marbles.expect(source.pipe(mo.sent_by("Alice", "alice "))).to_be("---|")


def test_it_keeps_the_payload_s_type_before_and_behind_of_type(marbles: Marbles) -> None:
    source = marbles.hot("-p-v-w-|", LEGEND)
    for operators in (
        (mo.of_type(VotePayload), mo.sent_by("bob")),
        (mo.sent_by("bob"), mo.of_type(VotePayload)),
    ):
        marbles.expect(source.pipe(*operators)).to_be("-----w-|", LEGEND)


def test_somebody_must_be_named() -> None:
    with pytest.raises(MacpSessionError, match="senders has at least one"):
        mo.sent_by()
