"""weighted: a majority of votes that do not weigh the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable

from macp_rx.errors import MacpSessionError
from macp_rx.operators.deciding import Ballots, Verdict, decide, exactly
from macp_rx.operators.roster import Electorate
from macp_rx.protocol.messages import Accepted

__all__ = ["weighted"]


def weighted(
    electorate: Mapping[str, float | Fraction], *, more_than: float | Fraction = Fraction(1, 2)
) -> Callable[[Observable[Accepted[VotePayload]]], Observable[Verdict]]:
    """Emits one Verdict per proposal, as soon as no remaining vote can change it.

    For a proposal: those who approve weigh more than this share of the whole electorate. Against it: that can no longer
    happen. So a tie is against, an abstention helps nobody, whoever has no weight has no vote, and of a sender's votes the
    first stands. Weights are added as the decimals that they are written as: 0.1 and 0.2 balance 0.3.

    Args:
        electorate: who may vote -> what that vote weighs, greater than 0.
        more_than: of which share they must weigh more, at least 0 and less than 1; half by default.

    Marble:
        votes    -v-w-y-|
        > mo.weighted(electorate={"alice": 3, "bob": 1, "carol": 1})
        verdict  -V-----|
        V: it.positive

        votes    -w-v-y-|
        > mo.weighted(electorate={"alice": 1, "bob": 2, "carol": 1})
        verdict  -V-----|
        V: not it.positive
    """
    if not isinstance(electorate, Mapping):
        raise MacpSessionError(
            f"electorate says what each vote weighs, such as {{'alice': 2, 'bob': 1}}, not {electorate!r}"
        )
    weights = {name: exactly(f"the weight of {name!r}", weight) for name, weight in electorate.items()}
    for name, weight in weights.items():
        if weight <= 0:
            raise MacpSessionError(f"the weight of {name!r} is {electorate[name]}, and must be greater than 0")
    share = exactly("more_than", more_than)
    if not 0 <= share < 1:
        raise MacpSessionError(f"more_than is {more_than}, and must be at least 0 and less than 1")
    whole = sum(weights.values())
    limit = share * whole

    def judge(ballots: Ballots) -> tuple[bool, str] | None:
        if ballots.approve > limit:
            return True, f"{_g(ballots.approve)} of {_g(whole)} by weight approve, and more than {_g(limit)} must"
        if ballots.approve + ballots.left <= limit:
            most = _g(ballots.approve + ballots.left)
            return False, f"{most} of {_g(whole)} by weight can approve, and more than {_g(limit)} must"
        return None

    return decide(Electorate(weights), judge, weights)


def _g(weight: int | Fraction) -> str:
    return f"{float(weight):g}"
