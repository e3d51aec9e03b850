"""tally: the running count of votes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from immutables import Map
from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable, abc

from macp_rx.operators.lift import each
from macp_rx.protocol.messages import Accepted

__all__ = ["Count", "Tally", "tally"]


@dataclass(frozen=True, slots=True)
class Count:
    """The votes on one proposal.

    Attributes:
        approve: how many said APPROVE.
        reject: how many said REJECT.
        abstain: how many said ABSTAIN.
    """

    approve: int = 0
    reject: int = 0
    abstain: int = 0

    @property
    def cast(self) -> int:
        """How many have voted, abstentions included."""
        return self.approve + self.reject + self.abstain

    def plus(self, vote: str) -> Count:
        """This count and one more vote."""
        if vote == "APPROVE":
            return Count(self.approve + 1, self.reject, self.abstain)
        if vote == "REJECT":
            return Count(self.approve, self.reject + 1, self.abstain)
        return Count(self.approve, self.reject, self.abstain + 1)

    def __str__(self) -> str:
        return f"{self.approve} approve, {self.reject} reject, {self.abstain} abstain"


@dataclass(frozen=True, slots=True)
class Tally:
    """The votes on every proposal of a session. A value; a new one is made per vote, sharing the rest.

    Attributes:
        proposals: proposal id -> count.
        votes: (proposal id, sender) -> the vote that stands.
    """

    proposals: Map[str, Count] = field(default_factory=Map[str, Count])
    votes: Map[tuple[str, str], str] = field(default_factory=Map[tuple[str, str], str])

    def of(self, proposal_id: str) -> Count:
        """The votes on one proposal; zeros if nobody has voted on it."""
        return self.proposals.get(proposal_id, Count())

    def plus(self, proposal_id: str, sender: str, vote: str) -> Tally:
        """This tally and one more vote. The first vote of a sender on a proposal stands (RFC-MACP-0007)."""
        key = (proposal_id, sender)
        if key in self.votes:
            return self
        return Tally(self.proposals.set(proposal_id, self.of(proposal_id).plus(vote)), self.votes.set(key, vote))


def tally() -> Callable[[Observable[Accepted[VotePayload]]], Observable[Tally]]:
    """Emits the tally after each vote that counts; a repeated vote of one sender on one proposal does not.

    Each step costs the same, however many votes there were.

    Marble:
        votes  -v-v-w-|
        > mo.tally()
        tally  -1---2-|
        1: it.of("p1") == mo.Count(approve=1)
        2: it.of("p1") == mo.Count(approve=1, reject=1)
    """

    def operator(source: Observable[Accepted[VotePayload]]) -> Observable[Tally]:
        def rule(observer: abc.ObserverBase[Tally]) -> Callable[[Accepted[VotePayload]], None]:
            current = Tally()

            def take(accepted: Accepted[VotePayload]) -> None:
                nonlocal current
                vote = accepted.payload
                counted = current.plus(vote.proposal_id, accepted.sender, vote.vote)
                if counted is not current:
                    current = counted
                    observer.on_next(current)

            return take

        return each(source, rule)

    return operator
