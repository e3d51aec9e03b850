"""plurality: more for it than against it."""

from __future__ import annotations

from collections.abc import Callable, Collection

from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable

from macp_rx.operators.deciding import Ballots, Verdict, decide
from macp_rx.operators.roster import Electorate
from macp_rx.protocol.messages import Accepted

__all__ = ["plurality"]


def plurality(
    electorate: int | Collection[str],
) -> Callable[[Observable[Accepted[VotePayload]]], Observable[Verdict]]:
    """Emits one Verdict per proposal, as soon as no remaining vote can change it.

    For a proposal: more of the electorate approve it than reject it, however few they are. Against it: as many or more reject
    it, so a tie is against. An abstention is for neither side, and of a sender's votes the first stands.

    Args:
        electorate: who may vote, by name; or only how many they are, and then everybody's vote counts.

    Marble:
        votes    -v-x---|
        > mo.plurality(electorate=["alice", "carol"])
        verdict  ---V---|
        V: it.positive

        votes    -v-w-x-|
        > mo.plurality(electorate=3)
        verdict  -----V-|
        V: not it.positive
    """
    return decide(Electorate(electorate), _judge)


def _judge(ballots: Ballots) -> tuple[bool, str] | None:
    if ballots.approve > ballots.reject + ballots.left:
        return True, "more approve than reject"
    if ballots.approve + ballots.left <= ballots.reject:
        return False, "no more can approve than reject"
    return None
