from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from macp_rx import operators as mo
from macp_rx.testing import Marbles
from tests.operators import elections
from tests.operators.checks import NO, YES
from tests.operators.voices import LEGEND


def test_one_approval_among_abstentions_is_more(marbles: Marbles) -> None:
    source = marbles.hot("-v-x-|", LEGEND)
    marbles.expect(source.pipe(mo.plurality(2))).to_be("---Y-|", {"Y": YES})
    marbles.expect_subscriptions(source).to_be("^----!")


def test_a_lead_that_the_rest_cannot_make_up(marbles: Marbles) -> None:
    source = marbles.hot("-v-y-w-|", LEGEND)
    marbles.expect(source.pipe(mo.plurality(3))).to_be("---Y---|", {"Y": YES})


def test_a_tie_is_against(marbles: Marbles) -> None:
    source = marbles.hot("-v-w-x-|", LEGEND)
    marbles.expect(source.pipe(mo.plurality(3))).to_be("-----N-|", {"N": NO})


def test_one_rejection_decides_where_one_vote_is_left(marbles: Marbles) -> None:
    source = marbles.hot("-w-v-|", LEGEND)
    marbles.expect(source.pipe(mo.plurality(2))).to_be("-N---|", {"N": NO})


@given(st.data(), st.integers(1, 5))
def test_a_verdict_is_what_every_continuation_would_say(data: st.DataObject, size: int) -> None:
    electorate = elections.members(size)
    cast = data.draw(elections.votes(electorate))

    def carried(votes: Mapping[str, str]) -> bool:
        said = list(votes.values())
        return said.count("APPROVE") > said.count("REJECT")

    elections.check(mo.plurality(electorate), cast, electorate, carried)
