from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from macp_rx import operators as mo
from macp_rx.testing import Marbles
from tests.operators import elections
from tests.operators.checks import NO, YES
from tests.operators.voices import LEGEND


def test_for_it_with_the_last_approval(marbles: Marbles) -> None:
    source = marbles.hot("-v-v-y-|", LEGEND)
    marbles.expect(source.pipe(mo.unanimous(["alice", "carol"]))).to_be("-----Y-|", {"Y": YES})
    marbles.expect_subscriptions(source).to_be("^------!")


def test_against_with_the_first_rejection(marbles: Marbles) -> None:
    source = marbles.hot("-w-v-|", LEGEND)
    marbles.expect(source.pipe(mo.unanimous(3))).to_be("-N---|", {"N": NO})


def test_whoever_abstains_does_not_approve(marbles: Marbles) -> None:
    source = marbles.hot("-x-v-|", LEGEND)
    marbles.expect(source.pipe(mo.unanimous(3))).to_be("-N---|", {"N": NO})


@given(st.data(), st.integers(1, 5))
def test_a_verdict_is_what_every_continuation_would_say(data: st.DataObject, size: int) -> None:
    electorate = elections.members(size)
    cast = data.draw(elections.votes(electorate))
    elections.check(mo.unanimous(electorate), cast, electorate, lambda votes: set(votes.values()) == {"APPROVE"})
