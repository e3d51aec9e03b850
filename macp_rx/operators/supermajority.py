"""supermajority: a share of an electorate that is more than half, such as two thirds."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from fractions import Fraction

from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable

from macp_rx.errors import MacpSessionError
from macp_rx.operators.deciding import Verdict, approved_by, decide, exactly
from macp_rx.operators.roster import Electorate
from macp_rx.protocol.messages import Accepted

__all__ = ["supermajority"]


def supermajority(
    electorate: int | Collection[str], *, share: float | Fraction = Fraction(2, 3)
) -> Callable[[Observable[Accepted[VotePayload]]], Observable[Verdict]]:
    """Emits one Verdict per proposal, as soon as no remaining vote can change it.

    For a proposal: at least this share of the electorate approves; reached is enough. Against it: that can no longer happen.
    An abstention helps nobody, and of a sender's votes the first stands. There is no tie: the share is more than half.

    Args:
        electorate: who may vote, by name; or only how many they are, and then everybody's vote counts.
        share: which share, greater than 0.5 and at most 1; two thirds by default.

    Marble:
        votes    -v-w-y-|
        > mo.supermajority(electorate=3)
        verdict  -----V-|
        V: it.positive

        votes    -v-w-y-|
        > mo.supermajority(electorate=3, share=0.75)
        verdict  ---V---|
        V: not it.positive
    """
    part = exactly("share", share)
    if not Fraction(1, 2) < part <= 1:
        raise MacpSessionError(f"share is {share}, and for a supermajority must be greater than 0.5 and at most 1")
    members = Electorate(electorate)
    return decide(members, approved_by(math.ceil(part * members.size), "a supermajority"))
