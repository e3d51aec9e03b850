"""majority: more than half of an electorate."""

from __future__ import annotations

from collections.abc import Callable, Collection

from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable

from macp_rx.operators.deciding import Verdict, approved_by, decide
from macp_rx.operators.roster import Electorate
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
    members = Electorate(electorate)
    return decide(members, approved_by(members.size // 2 + 1, "a majority"))
