from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactivex import from_iterable

from macp_rx import MacpSessionError
from macp_rx import operators as mo
from macp_rx.testing import Marbles
from tests.operators import elections
from tests.operators.checks import NO, YES
from tests.operators.voices import LEGEND


def test_two_thirds_by_default_and_reached_is_enough(marbles: Marbles) -> None:
    source = marbles.hot("-v-y-w-|", LEGEND)
    marbles.expect(source.pipe(mo.supermajority(electorate=3))).to_be("---Y---|", {"Y": YES})
    marbles.expect_subscriptions(source).to_be("^------!")


def test_against_as_soon_as_the_share_is_out_of_reach(marbles: Marbles) -> None:
    source = marbles.hot("-v-w-y-|", LEGEND)
    marbles.expect(source.pipe(mo.supermajority(electorate=3, share=0.75))).to_be("---N---|", {"N": NO})


@pytest.mark.parametrize(
    ("share", "size", "needed"),
    [
        (2 / 3, 3, 2),  # in binary fractions two thirds of three is less than two …
        (2 / 3, 6, 4),
        (0.7, 10, 7),  # … and seven tenths of ten is more than seven
        (0.56, 25, 14),
        (Fraction(3, 5), 5, 3),
        (1, 4, 4),
    ],
)
def test_the_share_is_exactly_what_is_written(share: float, size: int, needed: int) -> None:
    electorate = elections.members(size)
    heard: list[int] = []
    votes = [(member, "p1", "APPROVE") for member in electorate]
    for count in range(1, size + 1):
        verdicts: list[mo.Verdict] = []
        source = from_iterable(elections.ballots(votes[:count]))
        mo.supermajority(electorate, share=share)(source).subscribe(verdicts.append)
        if verdicts:
            heard.append(count)
    assert heard[0] == needed


@pytest.mark.parametrize("share", [0.5, 0, 1.01, float("nan"), float("inf")])
def test_half_is_no_supermajority(share: float) -> None:
    with pytest.raises(MacpSessionError, match="share is"):
        mo.supermajority(3, share=share)


@given(st.data(), st.integers(1, 5), st.fractions(Fraction(11, 20), 1, max_denominator=20))
def test_a_verdict_is_what_every_continuation_would_say(data: st.DataObject, size: int, share: Fraction) -> None:
    electorate = elections.members(size)
    cast = data.draw(elections.votes(electorate))
    operator = mo.supermajority(electorate, share=data.draw(st.sampled_from([share, float(share)])))
    elections.check(operator, cast, electorate, lambda votes: list(votes.values()).count("APPROVE") >= share * size)
