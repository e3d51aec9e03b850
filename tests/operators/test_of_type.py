from __future__ import annotations

import pytest
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ProposalPayload, VotePayload
from macp.modes.proposal.v1 import proposal_pb2

from macp_rx import operators as mo
from macp_rx.testing import Marbles, misbehaving
from tests.operators.voices import LEGEND


def test_it_passes_what_carries_the_payload_and_keeps_sender_and_time(marbles: Marbles) -> None:
    source = marbles.hot("-p-v-e-w-|", LEGEND)
    marbles.expect(source.pipe(mo.of_type(VotePayload))).to_be("---v---w-|", LEGEND)
    marbles.expect_subscriptions(source).to_be("^--------!")


def test_several_payloads(marbles: Marbles) -> None:
    source = marbles.hot("-p-v-e-w-|", LEGEND)
    marbles.expect(source.pipe(mo.of_type(ProposalPayload, EvaluationPayload))).to_be("-p---e---|", LEGEND)


def test_the_class_decides_and_not_its_name(marbles: Marbles) -> None:
    source = marbles.hot("-p-|", LEGEND)
    marbles.expect(source.pipe(mo.of_type(proposal_pb2.ProposalPayload))).to_be("---|")


def test_an_error_passes(marbles: Marbles) -> None:
    source = marbles.cold("-v-#", LEGEND, error=ValueError("lost"))
    marbles.expect(source.pipe(mo.of_type(VotePayload))).to_be("-v-#", LEGEND, error=ValueError("lost"))


def test_empty_stays_empty(marbles: Marbles) -> None:
    marbles.expect(marbles.cold("---|").pipe(mo.of_type(VotePayload))).to_be("---|")


def test_leaving_early_leaves_the_source(marbles: Marbles) -> None:
    source = marbles.cold("-v-w-|", LEGEND)
    marbles.expect(source.pipe(mo.of_type(VotePayload)), "^-!").to_be("-v", LEGEND)
    marbles.expect_subscriptions(source).to_be("^-!")


@pytest.mark.parametrize("thread", [False, True])
def test_what_comes_after_the_end_is_not_passed_on(thread: bool) -> None:
    heard: list[object] = []
    source = misbehaving("v|w|", LEGEND, thread=thread)
    mo.of_type(VotePayload)(source).subscribe(heard.append, heard.append, lambda: heard.append("|"))
    assert [getattr(item, "sender", item) for item in heard] == ["alice", "|"]
