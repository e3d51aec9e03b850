"""Elections by brute force: what every way in which the missing votes may come would lead to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import reactivex as rx
from hypothesis import strategies as st
from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted
from macp_rx import operators as mo
from macp_rx.protocol.modes import decision
from macp_rx.testing import said

__all__ = ["Cast", "Counted", "ballots", "certain", "check", "members", "votes"]

VOTES = ("APPROVE", "REJECT", "ABSTAIN")
PROPOSALS = ("p1", "p2")
OUTSIDER = "mallory"

Cast = tuple[str, str, str]
"""Who votes on which proposal, and how."""

Counted = Callable[[Mapping[str, str]], bool]
"""Whether a proposal is carried when everybody has voted: sender -> vote."""

Decide = Callable[[Observable[Accepted[VotePayload]]], Observable[mo.Verdict]]


def members(size: int) -> list[str]:
    """An electorate of so many."""
    return [f"agent-{number}" for number in range(size)]


def votes(electorate: Sequence[str]) -> st.SearchStrategy[list[Cast]]:
    """Votes as they come: of members and others, again and again, on two proposals."""
    cast = st.tuples(st.sampled_from([*electorate, OUTSIDER]), st.sampled_from(PROPOSALS), st.sampled_from(VOTES))
    return st.lists(cast, max_size=4 * len(electorate))


def ballots(cast: Sequence[Cast]) -> list[Accepted]:
    """The votes, accepted."""
    return [
        said(sender, decision.vote(proposal_id, vote)).accepted(number)
        for number, (sender, proposal_id, vote) in enumerate(cast, start=1)
    ]


def certain(standing: Mapping[str, str], electorate: Sequence[str], carried: Counted) -> bool | None:
    """What every completion of these votes leads to; None if they differ."""
    missing = [member for member in electorate if member not in standing]
    found = {
        carried({**standing, **dict(zip(missing, rest, strict=True))})
        for rest in itertools.product(VOTES, repeat=len(missing))
    }
    return found.pop() if len(found) == 1 else None


def expected(cast: Sequence[Cast], electorate: Sequence[str], carried: Counted) -> list[tuple[int, str, bool]]:
    """Behind which vote each proposal is decided, and how."""
    standing: dict[str, dict[str, str]] = {proposal_id: {} for proposal_id in PROPOSALS}
    decided: dict[str, tuple[int, str, bool]] = {}
    for number, (sender, proposal_id, vote) in enumerate(cast, start=1):
        if sender in electorate:
            standing[proposal_id].setdefault(sender, vote)
            result = certain(standing[proposal_id], electorate, carried)
            if result is not None and proposal_id not in decided:
                decided[proposal_id] = (number, proposal_id, result)
    return list(decided.values())


def check(operator: Decide, cast: Sequence[Cast], electorate: Sequence[str], carried: Counted) -> None:
    """Fails unless the operator says what is certain, as soon as it is, and never anything else."""
    heard: list[tuple[int, str, bool]] = []
    number = 0

    def counted(accepted: Accepted) -> Accepted:
        nonlocal number
        number = accepted.sequence
        return accepted

    def note(verdict: mo.Verdict) -> None:
        heard.append((number, verdict.proposal_id, verdict.positive))

    rx.from_iterable(ballots(cast)).pipe(ops.map(counted), operator).subscribe(note)
    assert heard == expected(cast, electorate, carried)
