"""unanimous: everybody."""

from __future__ import annotations

from collections.abc import Callable, Collection

from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable

from macp_rx.operators.deciding import Verdict, approved_by, decide
from macp_rx.operators.roster import Electorate
from macp_rx.protocol.messages import Accepted

__all__ = ["unanimous"]


def unanimous(
    electorate: int | Collection[str],
) -> Callable[[Observable[Accepted[VotePayload]]], Observable[Verdict]]:
    """Emits one Verdict per proposal, as soon as no remaining vote can change it.

    For a proposal: the whole electorate approves. Against it: one has rejected it or abstained. Of a sender's votes the first
    stands.

    Args:
        electorate: who may vote, by name; or only how many they are, and then everybody's vote counts.

    Marble:
        votes    -v-y---|
        > mo.unanimous(electorate=["alice", "carol"])
        verdict  ---V---|
        V: it.positive

        votes    -v-x---|
        > mo.unanimous(electorate=3)
        verdict  ---V---|
        V: not it.positive
    """
    members = Electorate(electorate)
    return decide(members, approved_by(members.size, "the whole electorate"))
