"""vetoed: objections that decide."""

from __future__ import annotations

from collections.abc import Callable, Collection

from macp.modes.decision.v1.decision_pb2 import ObjectionPayload, ProposalPayload, VotePayload
from macp.v1.core_pb2 import CommitmentPayload
from reactivex import Observable, abc

from macp_rx.errors import MacpSessionError
from macp_rx.operators.deciding import Verdict
from macp_rx.operators.lift import each
from macp_rx.operators.roster import Electorate, roster
from macp_rx.operators.tally import Count
from macp_rx.protocol.messages import Accepted
from macp_rx.protocol.validation import validate_severity

__all__ = ["vetoed"]


def vetoed(
    electorate: int | Collection[str], *, severities: Collection[str] = ("critical",), threshold: int = 1
) -> Callable[[Observable[Accepted]], Observable[Verdict]]:
    """Emits one Verdict per proposal, as soon as no remaining objection can change it.

    Against a proposal: so many of the electorate have objected to it so severely. For it: they have not, and the first vote
    on any proposal was accepted, or a commitment, after which none can object (`protocol.md` 4.2). Somebody who objects twice
    counts once, and votes count for nothing, so the verdict's tally is empty.

    Args:
        electorate: who may veto, by name; or only how many they are, and then everybody's objection counts.
        severities: which objections count: ``low``, ``medium``, ``high``, ``critical``.
        threshold: how many of the electorate it takes, from 1 to all.

    Marble:
        accepted  -p-o---|
        > mo.vetoed(electorate=["alice", "bob"])
        verdict   ---V---|
        V: not it.positive

        accepted  -p-o-v-|
        > mo.vetoed(electorate=3, threshold=2)
        verdict   -----V-|
        V: it.positive
    """
    members = Electorate(electorate)
    severe = frozenset(roster("severities", severities))
    for severity in severe:
        validate_severity(severity)
    if not 1 <= threshold <= members.size:
        raise MacpSessionError(
            f"threshold is {threshold}, and the electorate has {members.size} members: it takes from 1 to {members.size}"
        )

    def operator(source: Observable[Accepted]) -> Observable[Verdict]:
        def rule(observer: abc.ObserverBase[Verdict]) -> Callable[[Accepted], None]:
            objectors: dict[str, set[str]] = {}  # of the proposals that are not decided
            vetoed: set[str] = set()
            closed = False

            def say(proposal_id: str, positive: bool, reason: str) -> None:
                observer.on_next(Verdict(proposal_id, positive, reason, Count()))

            def object_to(proposal_id: str, sender: str) -> None:
                found = objectors.setdefault(proposal_id, set())
                found.add(sender)
                if len(found) == threshold:
                    del objectors[proposal_id]
                    vetoed.add(proposal_id)
                    say(proposal_id, False, f"vetoed by {', '.join(sorted(found))}")

            def close() -> None:
                nonlocal closed
                closed = True  # what is delivered again from before is decided
                for proposal_id, found in objectors.items():
                    said = f"{len(found)} of {members.size} object, and {threshold} would have to"
                    say(proposal_id, True, f"nobody can veto it any more: {said}")

            def take(accepted: Accepted) -> None:
                if closed:
                    return
                payload = accepted.payload
                match payload:
                    case ProposalPayload() if payload.proposal_id not in vetoed:
                        objectors.setdefault(payload.proposal_id, set())
                    case ObjectionPayload() if payload.severity in severe and payload.proposal_id not in vetoed:
                        if members.names is None or accepted.sender in members.names:
                            object_to(payload.proposal_id, accepted.sender)
                    case VotePayload() | CommitmentPayload():
                        close()
                    case _:
                        pass

            return take

        return each(source, rule)

    return operator
