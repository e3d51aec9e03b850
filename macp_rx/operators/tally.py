"""tally: the running count of votes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable, abc

from macp_rx.operators.lift import each
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import Accepted

__all__ = ["Count", "Tally", "tally"]


# Tuples, and not frozen dataclasses, whose __init__ costs twice as much: one of each is made per vote.


class Count(NamedTuple):
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


NO_VOTES: Final = Count()


class Tally(NamedTuple):
    """The votes on every proposal of a session. A value; a new one is made per vote, sharing the rest.

    Attributes:
        proposals: proposal id -> count.
    """

    proposals: Map[str, Count] = Map()

    def of(self, proposal_id: str) -> Count:
        """The votes on one proposal; zeros if nobody has voted on it."""
        return self.proposals.get(proposal_id, NO_VOTES)

    def plus(self, proposal_id: str, vote: str) -> Tally:
        """This tally and one more vote."""
        return Tally(self.proposals.set(proposal_id, self.of(proposal_id).plus(vote)))


def tally() -> Callable[[Observable[Accepted[VotePayload]]], Observable[Tally]]:
    """Emits the tally after each vote that counts: the first of a sender on a proposal stands (RFC-MACP-0007).

    Each step costs the same, however many votes there were. Who has voted, ``participation`` tells; who has voted how,
    ``states``.

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
            cast: set[tuple[str, str]] = set()

            def take(accepted: Accepted[VotePayload]) -> None:
                nonlocal current
                vote = accepted.payload
                proposal_id = vote.proposal_id
                ballot = (proposal_id, accepted.envelope.sender)
                if ballot not in cast:
                    cast.add(ballot)
                    current = current.plus(proposal_id, vote.vote)
                    observer.on_next(current)

            return take

        return each(source, rule)

    return operator
