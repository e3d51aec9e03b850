from __future__ import annotations

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


def test_so_many(marbles: Marbles) -> None:
    source = marbles.hot("-v-w-y-|", LEGEND)
    marbles.expect(source.pipe(mo.at_least(2, electorate=5))).to_be("-----Y-|", {"Y": YES})
    marbles.expect_subscriptions(source).to_be("^------!")


def test_half_of_them_carries_fifty_percent(marbles: Marbles) -> None:
    source = marbles.hot("-w-v-|", LEGEND)
    marbles.expect(source.pipe(mo.at_least(percent=50, electorate=2))).to_be("---Y-|", {"Y": YES})


def test_against_as_soon_as_so_many_can_no_longer_approve(marbles: Marbles) -> None:
    source = marbles.hot("-w-x-v-|", LEGEND)
    marbles.expect(source.pipe(mo.at_least(percent=50, electorate=3))).to_be("---N---|", {"N": NO})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "a count or percent"),
        ({"count": 1, "percent": 50}, "one of them only"),
        ({"count": 0}, "from 1 to 3"),
        ({"count": 4}, "from 1 to 3"),
        ({"percent": 0}, "greater than 0"),
        ({"percent": 100.1}, "at most 100"),
        ({"percent": float("nan")}, "finite"),
    ],
)
def test_what_cannot_be_meant(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(MacpSessionError, match=says):
        mo.at_least(**arguments, electorate=3)


@given(st.data(), st.integers(1, 5))
def test_a_verdict_is_what_every_continuation_would_say(data: st.DataObject, size: int) -> None:
    electorate = elections.members(size)
    cast = data.draw(elections.votes(electorate))
    count = data.draw(st.integers(1, size))
    elections.check(
        mo.at_least(count, electorate=electorate),
        cast,
        electorate,
        lambda votes: list(votes.values()).count("APPROVE") >= count,
    )
    percent = data.draw(st.integers(1, 100))
    elections.check(
        mo.at_least(percent=percent, electorate=electorate),
        cast,
        electorate,
        lambda votes: 100 * list(votes.values()).count("APPROVE") >= percent * size,
    )
