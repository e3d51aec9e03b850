"""What the deciding operators say, a `Verdict` or `UNDECIDED`, and what they have in common: how votes are taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Final

from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable, abc

from macp_rx.errors import MacpSessionError
from macp_rx.operators.lift import each
from macp_rx.operators.roster import Electorate
from macp_rx.operators.tally import Count
from macp_rx.protocol.messages import Accepted

__all__ = ["UNDECIDED", "Ballots", "Judge", "Undecided", "Verdict", "approved_by", "decide", "exactly"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision about one proposal that no remaining vote can change.

    Attributes:
        proposal_id: what was decided about.
        positive: for it, or not.
        reason: why, for people.
        tally: the votes when it was decided.
    """

    proposal_id: str
    positive: bool
    reason: str
    tally: Count


class Undecided(Enum):
    """No verdict in time."""

    UNDECIDED = "undecided"


UNDECIDED: Final = Undecided.UNDECIDED
"""What ``within(seconds, otherwise=UNDECIDED)`` says when no verdict came in time."""


class Ballots:
    """The votes on one proposal, by weight; everybody weighs 1 unless the operator says otherwise.

    Args:
        whole: what the electorate weighs.
    """

    __slots__ = ("abstain", "approve", "left", "reject", "votes")

    def __init__(self, whole: int | Fraction) -> None:
        self.approve: int | Fraction = 0
        """What those weigh who approve."""
        self.reject: int | Fraction = 0
        """What those weigh who reject."""
        self.left: int | Fraction = whole
        """What those weigh who have not voted."""
        self.votes: dict[str, str] = {}
        """Sender -> the vote that stands."""

    def add(self, sender: str, vote: str, weight: int | Fraction) -> None:
        """One more vote of somebody who has not voted."""
        self.votes[sender] = vote
        self.left -= weight
        if vote == "APPROVE":
            self.approve += weight
        elif vote == "REJECT":
            self.reject += weight

    def count(self) -> Count:
        """How many have voted what."""
        votes = list(self.votes.values())
        approve, reject = votes.count("APPROVE"), votes.count("REJECT")
        return Count(approve, reject, len(votes) - approve - reject)


Judge = Callable[[Ballots], "tuple[bool, str] | None"]
"""What no remaining vote can change, and how to say it; None as long as there is no such thing."""


def decide(
    electorate: Electorate, judge: Judge, weights: Mapping[str, Fraction] | None = None
) -> Callable[[Observable[Accepted[VotePayload]]], Observable[Verdict]]:
    """An operator that says one Verdict for each proposal, when a judge has one; later votes on it count no more.

    The rules of every such operator: only the electorate's votes count, of a sender's votes on a proposal the first stands,
    and each proposal is decided for itself.

    Args:
        electorate: who may vote.
        judge: decides after each vote that counts. It must decide when all have voted.
        weights: what each member weighs; everybody the same by default.
    """
    names = electorate.names
    whole = sum(weights.values()) if weights is not None else electorate.size

    def operator(source: Observable[Accepted[VotePayload]]) -> Observable[Verdict]:
        def rule(observer: abc.ObserverBase[Verdict]) -> Callable[[Accepted[VotePayload]], None]:
            proposals: dict[str, Ballots | None] = {}  # None: it is decided

            def take(accepted: Accepted[VotePayload]) -> None:
                sender = accepted.envelope.sender
                if names is not None and sender not in names:
                    return
                vote = accepted.payload
                proposal_id = vote.proposal_id
                ballots = proposals.get(proposal_id)
                if ballots is None:
                    if proposal_id in proposals:
                        return
                    ballots = proposals[proposal_id] = Ballots(whole)
                if sender in ballots.votes:
                    return
                ballots.add(sender, vote.vote, 1 if weights is None else weights[sender])
                verdict = judge(ballots)
                if verdict is not None:
                    proposals[proposal_id] = None
                    positive, said = verdict
                    count = ballots.count()
                    reason = f"{said}: {count} of {electorate.size}"
                    observer.on_next(Verdict(proposal_id, positive, reason, count))

            return take

        return each(source, rule)

    return operator


def approved_by(needed: int, who: str) -> Judge:
    """The judge who wants so many approvals: against, as soon as so many can no longer come.

    Args:
        needed: how many.
        who: how to call them, such as ``a majority``.
    """

    def judge(ballots: Ballots) -> tuple[bool, str] | None:
        if ballots.approve >= needed:
            return True, f"{who} approves"
        if ballots.approve + ballots.left < needed:
            return False, f"{who} can no longer approve"
        return None

    return judge


def exactly(what: str, number: float | Fraction) -> Fraction:
    """The number that is meant, so that two thirds of three are two: the simplest fraction that this float stands for.

    Args:
        what: what the number is, for the error.
        number: as the caller wrote it.

    Raises:
        MacpSessionError: it is no finite number.
    """
    if isinstance(number, Fraction):
        return number
    if not isinstance(number, int | float) or not math.isfinite(number):
        raise MacpSessionError(f"{what} is {number!r}, and must be a finite number")
    simple = Fraction(number).limit_denominator(1_000_000)
    return simple if float(simple) == number else Fraction(str(number))
