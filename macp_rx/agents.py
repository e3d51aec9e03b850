"""Ready-made agents: functions from what was accepted to what to say."""

from __future__ import annotations

from collections.abc import Callable

from macp.modes.decision.v1.decision_pb2 import ProposalPayload, VotePayload
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import operators as mo
from macp_rx.protocol.messages import Accepted, Message
from macp_rx.protocol.modes import decision

__all__ = ["voter"]


def voter(
    decide: Callable[[Accepted[ProposalPayload]], str], *, reason: str = ""
) -> Callable[[Observable[Accepted]], Observable[Message[VotePayload]]]:
    """An agent that votes once on each proposal.

        accepted   S-p-----q---
        says       --v-----v---

    Args:
        decide: looks at a proposal and answers APPROVE, REJECT or ABSTAIN.
        reason: what it gives as its reason.
    """

    def vote(proposal: Accepted[ProposalPayload]) -> Message[VotePayload]:
        return decision.vote(proposal.payload.proposal_id, decide(proposal), reason=reason)

    def agent(events: Observable[Accepted]) -> Observable[Message[VotePayload]]:
        return events.pipe(mo.of_type(ProposalPayload), ops.map(vote))

    return agent
