from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactivex import from_iterable
from reactivex import operators as ops

from macp_rx import MacpSessionError
from macp_rx import operators as mo
from macp_rx.protocol.modes import decision
from macp_rx.testing import Marbles, Where, said
from tests.operators.voices import LEGEND

YES = Where(lambda verdict: verdict.positive, "a positive verdict")
NO = Where(lambda verdict: not verdict.positive, "a negative verdict")


def test_it_speaks_when_no_remaining_vote_can_change_it(marbles: Marbles) -> None:
    source = marbles.hot("-v-y-w-|", LEGEND)
    marbles.expect(source.pipe(mo.majority(electorate=3))).to_be("---Y---|", {"Y": YES})


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


def test_error_empty_and_early_dispose(marbles: Marbles) -> None:
    marbles.expect(marbles.cold("-#", error=ValueError("lost")).pipe(mo.majority(1))).to_be(
        "-#", error=ValueError("lost")
    )
    marbles.expect(marbles.cold("-|").pipe(mo.majority(1))).to_be("-|")
    source = marbles.cold("-v-w-|", LEGEND)
    marbles.expect(source.pipe(mo.majority(3)), "^-!").to_be("-")
    marbles.expect_subscriptions(source).to_be("^-!")


@pytest.mark.parametrize("electorate", [0, -1, []])
def test_an_electorate_has_members(electorate: int) -> None:
    with pytest.raises(MacpSessionError, match="at least one"):
        mo.majority(electorate)


def test_a_name_is_no_electorate() -> None:
    with pytest.raises(MacpSessionError, match="not one name"):
        mo.majority("alice")


@given(st.lists(st.sampled_from(["APPROVE", "REJECT", "ABSTAIN"]), max_size=9), st.integers(1, 9))
def test_a_verdict_is_what_every_continuation_would_say(cast: list[str], size: int) -> None:
    """Compared with counting to the end, for the worst that the missing votes can be."""
    accepted = [
        said(f"agent-{number}", decision.vote("p1", vote)).accepted(number) for number, vote in enumerate(cast[:size])
    ]
    verdicts = from_iterable(accepted).pipe(mo.majority(size), ops.to_list()).run()
    approve, missing = cast[:size].count("APPROVE"), size - len(accepted)
    certain_for, certain_against = 2 * approve > size, 2 * (approve + missing) <= size
    assert [verdict.positive for verdict in verdicts] == (
        [True] if certain_for else [False] if certain_against and accepted else []
    )
