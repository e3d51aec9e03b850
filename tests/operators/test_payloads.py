from __future__ import annotations

from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ProposalPayload, VotePayload
from macp.v1.envelope_pb2 import Envelope

from macp_rx import Accepted, MacpSessionError
from macp_rx import operators as mo
from macp_rx.protocol.messages import DECISION
from macp_rx.testing import Marbles, Where
from tests.operators.voices import LEGEND


def test_what_of_type_passes_without_its_envelope(marbles: Marbles) -> None:
    source = marbles.hot("-p-v-e-w-|", LEGEND)
    first, second = VotePayload(proposal_id="p1", vote="APPROVE"), VotePayload(proposal_id="p1", vote="REJECT")
    marbles.expect(source.pipe(mo.payloads(VotePayload))).to_be("---a---b-|", {"a": first, "b": second})
    marbles.expect_subscriptions(source).to_be("^--------!")


def test_several(marbles: Marbles) -> None:
    source = marbles.hot("-p-v-e-|", LEGEND)
    kinds = {
        name: Where(lambda payload, cls=cls: isinstance(payload, cls))
        for name, cls in (("p", ProposalPayload), ("e", EvaluationPayload))
    }
    marbles.expect(source.pipe(mo.payloads(ProposalPayload, EvaluationPayload))).to_be("-p---e-|", kinds)


def test_bytes_that_are_no_payload_end_it(marbles: Marbles) -> None:
    envelope = Envelope(mode=DECISION, message_type="Vote", message_id="m1", sender="alice", payload=b"\xff")
    source = marbles.hot("-b-v-|", {**LEGEND, "b": Accepted(1, envelope)})
    expected = MacpSessionError("Vote 'm1' from 'alice': payload is no VotePayload")
    marbles.expect(source.pipe(mo.payloads(VotePayload))).to_be("-#", error=expected)
    marbles.expect_subscriptions(source).to_be("^!")
