"""commit_if_decided: a verdict becomes a commitment."""

from __future__ import annotations

from collections.abc import Callable

from macp.v1.core_pb2 import CommitmentPayload
from reactivex import Observable, abc

from macp_rx.operators.deciding import Undecided, Verdict
from macp_rx.operators.lift import each
from macp_rx.protocol.messages import Message
from macp_rx.protocol.validation import validate_required_field

__all__ = ["commit_if_decided"]


def commit_if_decided(
    *, action: str, declined: str | None = None, authority_scope: str = "session"
) -> Callable[[Observable[Verdict | Undecided]], Observable[Message[CommitmentPayload]]]:
    """Says a Commitment for each Verdict, and nothing for UNDECIDED.

    The verdict's sign is the commitment's, its reason the commitment's reason. Versions and the commitment's id are filled
    in where it is sent.

    Args:
        action: what is committed to when the verdict is positive, such as ``rollout.approved``.
        declined: the same for a negative verdict; without it a negative verdict commits to nothing.
        authority_scope: what the commitment binds.

    Marble:
        votes    -v-y-w-|
        > rx.compose(mo.majority(electorate=3), mo.commit_if_decided(action="rollout.approved"))
        says     ---C---|
        C: it.payload.action == "rollout.approved" and it.payload.outcome_positive

        votes    -x-w---|
        > rx.compose(mo.majority(electorate=3), mo.commit_if_decided(action="rollout.approved", declined="rollout.declined"))
        says     ---C---|
        C: it.payload.action == "rollout.declined" and not it.payload.outcome_positive
    """
    for name, said in (("action", action), ("declined", declined), ("authority_scope", authority_scope)):
        if said is not None:
            validate_required_field(name, said)

    def operator(source: Observable[Verdict | Undecided]) -> Observable[Message[CommitmentPayload]]:
        def rule(
            observer: abc.ObserverBase[Message[CommitmentPayload]],
        ) -> Callable[[Verdict | Undecided], None]:
            def take(verdict: Verdict | Undecided) -> None:
                if isinstance(verdict, Undecided):
                    return
                what = action if verdict.positive else declined
                if what is not None:
                    payload = CommitmentPayload(
                        action=what,
                        authority_scope=authority_scope,
                        reason=verdict.reason,
                        outcome_positive=verdict.positive,
                    )
                    observer.on_next(Message("", payload))

            return take

        return each(source, rule)

    return operator
