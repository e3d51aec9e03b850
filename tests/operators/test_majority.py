from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactivex import from_iterable
from reactivex import operators as ops

from macp_rx import MacpSessionError
from macp_rx import operators as mo
from macp_rx.testing import Marbles, Where
from tests.operators import elections
from tests.operators.checks import NO, YES
from tests.operators.voices import LEGEND


def test_it_speaks_when_no_remaining_vote_can_change_it(marbles: Marbles) -> None:
    source = marbles.hot("-v-y-w-|", LEGEND)
    marbles.expect(source.pipe(mo.majority(electorate=3))).to_be("---Y---|", {"Y": YES})
    marbles.expect_subscriptions(source).to_be("^------!")


def test_against_as_soon_as_a_majority_is_out_of_reach(marbles: Marbles) -> None:
    source = marbles.hot("-w-x-v-|", LEGEND)
    marbles.expect(source.pipe(mo.majority(electorate=3))).to_be("---N---|", {"N": NO})


def test_a_tie_is_against(marbles: Marbles) -> None:
    source = marbles.hot("-v-w-|", LEGEND)
    marbles.expect(source.pipe(mo.majority(electorate=2))).to_be("---N-|", {"N": NO})


def test_only_the_electorate_counts(marbles: Marbles) -> None:
    source = marbles.hot("-v-y-|", LEGEND)
    marbles.expect(source.pipe(mo.majority(electorate=["alice", "bob", "dave"]))).to_be("-----|")


def test_one_verdict_for_each_proposal(marbles: Marbles) -> None:
    source = marbles.hot("-v-z-|", LEGEND)
    first = Where(lambda verdict: verdict.proposal_id == "p1" and verdict.positive)
    second = Where(lambda verdict: verdict.proposal_id == "p2" and not verdict.positive)
    marbles.expect(source.pipe(mo.majority(electorate=1))).to_be("-a-b-|", {"a": first, "b": second})


def test_it_says_why(marbles: Marbles) -> None:
    source = marbles.hot("-v-w-y-|", LEGEND)
    verdict = mo.Verdict("p1", True, "a majority approves: 2 approve, 1 reject, 0 abstain of 3", mo.Count(2, 1))
    marbles.expect(source.pipe(mo.majority(electorate=3))).to_be("-----V-|", {"V": verdict})


def test_error_empty_and_early_dispose(marbles: Marbles) -> None:
    marbles.expect(marbles.cold("-v-#", LEGEND, error=ValueError("lost")).pipe(mo.majority(1))).to_be(
        "-Y-#", {"Y": YES}, error=ValueError("lost")
    )
    marbles.expect(marbles.cold("-|").pipe(mo.majority(1))).to_be("-|")
    source = marbles.cold("-v-w-|", LEGEND)
    marbles.expect(source.pipe(mo.majority(3)), "^-!").to_be("-")
    marbles.expect_subscriptions(source).to_be("^-!")


@pytest.mark.parametrize("electorate", [0, -1, []])
def test_an_electorate_has_members(electorate: Any) -> None:
    with pytest.raises(MacpSessionError, match="at least one"):
        mo.majority(electorate)


@pytest.mark.parametrize(("electorate", "says"), [("alice", "not one name"), (2.5, "a collection of names, not 2.5")])
def test_neither_a_name_nor_half_a_member_is_an_electorate(electorate: Any, says: str) -> None:
    with pytest.raises(MacpSessionError, match=says):
        mo.majority(electorate)


@given(st.data(), st.integers(1, 5))
def test_a_verdict_is_what_every_continuation_would_say(data: st.DataObject, size: int) -> None:
    electorate = elections.members(size)
    cast = data.draw(elections.votes(electorate))
    elections.check(
        mo.majority(electorate), cast, electorate, lambda votes: 2 * list(votes.values()).count("APPROVE") > size
    )


@given(st.data(), st.integers(1, 5))
def test_where_names_do_not_count_everybody_is_a_member(data: st.DataObject, size: int) -> None:
    electorate = elections.members(size)
    cast = [one for one in data.draw(elections.votes(electorate)) if one[0] in electorate]
    by_name, by_number = (
        from_iterable(elections.ballots(cast)).pipe(mo.majority(who), ops.to_list()).run() for who in (electorate, size)
    )
    assert by_name == by_number
