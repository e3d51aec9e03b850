"""majority: more than half of an electorate."""

from __future__ import annotations

from collections.abc import Callable, Collection

from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable, abc

from macp_rx.errors import MacpSessionError
from macp_rx.operators.deciding import Verdict
from macp_rx.operators.lift import each
from macp_rx.operators.tally import Tally
from macp_rx.protocol.messages import Accepted

__all__ = ["majority"]


def majority(
    electorate: int | Collection[str],
) -> Callable[[Observable[Accepted[VotePayload]]], Observable[Verdict]]:
    """Emits one Verdict per proposal, as soon as no remaining vote can change it.

    For a proposal: more than half of the electorate approves. Against it: so many have rejected or abstained that this
    can no longer happen. So a tie is against, an abstention helps nobody, and of a sender's votes the first stands.

    Args:
        electorate: who may vote, by name; or only how many they are, and then everybody's vote counts.

    Marble:
        votes    -v-w-y-|
        > mo.majority(electorate=3)
        verdict  -----V-|
        V: it.positive and it.tally == mo.Count(approve=2, reject=1)

        votes    -w-x---|
        > mo.majority(electorate=["alice", "bob", "carol"])
        verdict  ---V---|
        V: not it.positive
    """
    if isinstance(electorate, str):
        raise MacpSessionError(f"electorate is a number or a collection of names, not one name ({electorate!r})")
    size = electorate if isinstance(electorate, int) else len(set(electorate))
    if size < 1:
        raise MacpSessionError(f"an electorate has at least one member, not {size}")
    names = None if isinstance(electorate, int) else frozenset(electorate)

    def operator(source: Observable[Accepted[VotePayload]]) -> Observable[Verdict]:
        def rule(observer: abc.ObserverBase[Verdict]) -> Callable[[Accepted[VotePayload]], None]:
            votes = Tally()
            decided: set[str] = set()

            def take(accepted: Accepted[VotePayload]) -> None:
                nonlocal votes
                if names is not None and accepted.sender not in names:
                    return
                vote = accepted.payload
                votes = votes.plus(vote.proposal_id, accepted.sender, vote.vote)
                count = votes.of(vote.proposal_id)
                positive = 2 * count.approve > size
                negative = 2 * (count.approve + max(0, size - count.cast)) <= size
                if (positive or negative) and vote.proposal_id not in decided:
                    decided.add(vote.proposal_id)
                    said = "a majority approves" if positive else "a majority can no longer approve"
                    observer.on_next(Verdict(vote.proposal_id, positive, f"{said}: {count} of {size}", count))

            return take

        return each(source, rule)

    return operator
