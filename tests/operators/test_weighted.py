from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macp_rx import MacpSessionError
from macp_rx import operators as mo
from macp_rx.testing import Marbles
from tests.operators import elections
from tests.operators.checks import NO, YES
from tests.operators.voices import LEGEND


def test_a_heavy_vote_decides_alone(marbles: Marbles) -> None:
    source = marbles.hot("-v-w-|", LEGEND)
    operator = mo.weighted({"alice": 3, "bob": 1, "carol": 1})
    marbles.expect(source.pipe(operator)).to_be("-Y---|", {"Y": YES})
    marbles.expect_subscriptions(source).to_be("^----!")


def test_a_tie_is_against_and_decimals_are_decimals(marbles: Marbles) -> None:
    """In binary fractions 0.1 + 0.2 is more than 0.3."""
    source = marbles.hot("-v-y-w-|", LEGEND)
    marbles.expect(source.pipe(mo.weighted({"alice": 0.1, "carol": 0.2, "bob": 0.3}))).to_be("-----N-|", {"N": NO})


def test_whoever_has_no_weight_has_no_vote(marbles: Marbles) -> None:
    source = marbles.hot("-w-x-v-|", LEGEND)
    marbles.expect(source.pipe(mo.weighted({"alice": 1e-9}))).to_be("-----Y-|", {"Y": YES})


def test_another_share(marbles: Marbles) -> None:
    source = marbles.hot("-v-y-|", LEGEND)
    weights = {"alice": 2, "bob": 1, "carol": 1}
    marbles.expect(source.pipe(mo.weighted(weights, more_than=0.5))).to_be("---Y-|", {"Y": YES})
    marbles.expect(source.pipe(mo.weighted(weights, more_than=0.25))).to_be("-Y---|", {"Y": YES})
    marbles.expect(source.pipe(mo.weighted(weights, more_than=Fraction(3, 4)))).to_be("-----|")


def test_it_says_why(marbles: Marbles) -> None:
    reason = "3 of 5 by weight approve, and more than 2.5 must: 1 approve, 0 reject, 0 abstain of 2"
    source = marbles.hot("-v-|", LEGEND)
    verdict = mo.Verdict("p1", True, reason, mo.Count(1))
    marbles.expect(source.pipe(mo.weighted({"alice": 3, "bob": 2}))).to_be("-V-|", {"V": verdict})


@pytest.mark.parametrize(
    ("weights", "more_than", "says"),
    [
        ({}, 0.5, "at least one member"),
        (["alice"], 0.5, "says what each vote weighs"),
        ({"alice": 0}, 0.5, "the weight of 'alice' is 0"),
        ({"alice": -1}, 0.5, "greater than 0"),
        ({"alice": float("nan")}, 0.5, "finite"),
        ({"alice": 1}, 1, "less than 1"),
        ({"alice": 1}, -0.1, "at least 0"),
    ],
)
def test_what_cannot_be_meant(weights: Any, more_than: float, says: str) -> None:
    with pytest.raises(MacpSessionError, match=says):
        mo.weighted(weights, more_than=more_than)


@given(st.data(), st.integers(1, 5), st.sampled_from([0.0, 0.25, 0.5, 0.7]))
def test_a_verdict_is_what_every_continuation_would_say(data: st.DataObject, size: int, more_than: float) -> None:
    electorate = elections.members(size)
    weight = st.sampled_from([1, 2, 0.1, 0.2, 0.3, 1e-9, 2.5])
    weights = {member: data.draw(weight) for member in electorate}
    cast = data.draw(elections.votes(electorate))
    exact = {member: Decimal(str(weight)) for member, weight in weights.items()}

    def carried(votes: Mapping[str, str]) -> bool:
        approve = sum(exact[member] for member, vote in votes.items() if vote == "APPROVE")
        return approve > Decimal(str(more_than)) * sum(exact.values())

    elections.check(mo.weighted(weights, more_than=more_than), cast, electorate, carried)
