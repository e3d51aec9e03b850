"""at_least: so many of an electorate, or so many in a hundred."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable

from macp_rx.errors import MacpSessionError
from macp_rx.operators.deciding import Verdict, approved_by, decide, exactly
from macp_rx.operators.roster import Electorate
from macp_rx.protocol.messages import Accepted

__all__ = ["at_least"]


def at_least(
    count: int | None = None, *, percent: float | None = None, electorate: int | Collection[str]
) -> Callable[[Observable[Accepted[VotePayload]]], Observable[Verdict]]:
    """Emits one Verdict per proposal, as soon as no remaining vote can change it.

    For a proposal: so many of the electorate approve; reached is enough, so half of an electorate carries 50 percent.
    Against it: so many can no longer approve. An abstention helps nobody, and of a sender's votes the first stands.

    Args:
        count: how many must approve, from 1 to the whole electorate.
        percent: or how many in a hundred, greater than 0 and at most 100; rounded up to whole members.
        electorate: who may vote, by name; or only how many they are, and then everybody's vote counts.

    Marble:
        votes    -v-w-y-|
        > mo.at_least(2, electorate=5)
        verdict  -----V-|
        V: it.positive

        votes    -w-x---|
        > mo.at_least(percent=50, electorate=3)
        verdict  ---V---|
        V: not it.positive
    """
    members = Electorate(electorate)
    needed = _needed(count, percent, members.size)
    return decide(members, approved_by(needed, f"a group of at least {needed}"))


def _needed(count: int | None, percent: float | None, size: int) -> int:
    if (count is None) == (percent is None):
        raise MacpSessionError("at_least takes a count or percent=, and one of them only")
    if percent is not None:
        if not 0 < exactly("percent", percent) <= 100:
            raise MacpSessionError(f"percent is {percent}, and must be greater than 0 and at most 100")
        return math.ceil(exactly("percent", percent) * size / 100)
    assert count is not None
    if not isinstance(count, int) or not 1 <= count <= size:
        raise MacpSessionError(f"count is {count}, and the electorate has {size} members: from 1 to {size} can approve")
    return count
