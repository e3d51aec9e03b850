"""confidence: how sure those are who evaluate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean

from macp.modes.decision.v1.decision_pb2 import EvaluationPayload
from reactivex import Observable, abc

from macp_rx.operators.lift import each
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import Accepted

__all__ = ["Confidence", "confidence"]


@dataclass(frozen=True, slots=True)
class Confidence:
    """The evaluations of one proposal.

    Attributes:
        proposal_id: which proposal.
        evaluations: sender -> its latest evaluation.
    """

    proposal_id: str
    evaluations: Map[str, EvaluationPayload] = field(default_factory=Map[str, EvaluationPayload])

    def of(self, *recommendations: str) -> tuple[float, ...]:
        """How sure those are who recommend one of these, in ascending order; without an argument, all."""
        return tuple(
            sorted(
                said.confidence
                for said in self.evaluations.values()
                if not recommendations or said.recommendation in recommendations
            )
        )

    def mean(self, *recommendations: str) -> float:
        """How sure those are on average who recommend one of these; 0 if nobody does."""
        sure = self.of(*recommendations)
        return fmean(sure) if sure else 0.0


def confidence() -> Callable[[Observable[Accepted[EvaluationPayload]]], Observable[Confidence]]:
    """Emits, after each evaluation that counts, what has been said of its proposal.

    REVIEW does not count, as under a policy: it says that somebody is still looking. Of a sender's evaluations of one proposal
    the latest stands, so that nobody weighs more by saying it twice, and one that is delivered again changes nothing.

    Marble:
        evaluations  -e-f-r-|
        > mo.confidence()
        confidence   -a-b---|
        a: it.proposal_id == "p1" and it.mean() == 0.5
        b: it.mean() == 0.75 and it.of("REJECT", "BLOCK") == (1.0,)
    """

    def operator(source: Observable[Accepted[EvaluationPayload]]) -> Observable[Confidence]:
        def rule(observer: abc.ObserverBase[Confidence]) -> Callable[[Accepted[EvaluationPayload]], None]:
            proposals: dict[str, Confidence] = {}
            newest: dict[tuple[str, str], int] = {}

            def take(accepted: Accepted[EvaluationPayload]) -> None:
                said, sender = accepted.payload, accepted.sender
                key = (said.proposal_id, sender)
                if said.recommendation == "REVIEW" or accepted.sequence <= newest.get(key, 0):
                    return
                newest[key] = accepted.sequence
                before = proposals.get(said.proposal_id) or Confidence(said.proposal_id)
                after = Confidence(said.proposal_id, before.evaluations.set(sender, said))
                proposals[said.proposal_id] = after
                observer.on_next(after)

            return take

        return each(source, rule)

    return operator
