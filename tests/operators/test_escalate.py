from __future__ import annotations

import pytest
import reactivex as rx

from macp_rx import MacpSessionError
from macp_rx import operators as mo
from macp_rx.testing import Marbles, misbehaving


def test_whoever_answers_in_time_is_alone(marbles: Marbles) -> None:
    source, other = marbles.hot("--a----b-|"), marbles.cold("-x-|")
    marbles.expect(source.pipe(mo.escalate(0.004, other))).to_be("--a----b-|")
    marbles.expect_subscriptions(source).to_be("^--------!")
    marbles.expect_subscriptions(other).to_be()


def test_else_another_is_asked_and_both_are_heard(marbles: Marbles) -> None:
    source, other = marbles.hot("------a--b-|"), marbles.cold("-x---y-|")
    marbles.expect(source.pipe(mo.escalate(0.004, other))).to_be("-----x a--(b y)-|")
    marbles.expect_subscriptions(other).to_be("----^------!")


def test_it_ends_when_both_have(marbles: Marbles) -> None:
    other = marbles.cold("---x-|")
    marbles.expect(marbles.hot("-----|").pipe(mo.escalate(0.004, other))).to_be("-------x-|")
    marbles.expect(marbles.hot("-----------|").pipe(mo.escalate(0.004, other))).to_be("-------x---|")


def test_a_source_that_ends_without_an_answer_asks_nobody(marbles: Marbles) -> None:
    other = marbles.cold("-x-|")
    marbles.expect(marbles.hot("--|").pipe(mo.escalate(0.004, other))).to_be("--|")
    marbles.expect_subscriptions(other).to_be()


def test_an_error_of_either_ends_both(marbles: Marbles) -> None:
    source, other = marbles.hot("--------a-|"), marbles.cold("--#", error=ValueError("nobody there"))
    marbles.expect(source.pipe(mo.escalate(0.004, other))).to_be("------#", error=ValueError("nobody there"))
    marbles.expect_subscriptions(source).to_be("^-----!")
    failing, slow = marbles.hot("------#", error=ValueError("lost")), marbles.cold("-x------|")
    marbles.expect(failing.pipe(mo.escalate(0.004, slow))).to_be("-----x#", error=ValueError("lost"))
    marbles.expect_subscriptions(slow).to_be("----^-!")


def test_leaving_leaves_both(marbles: Marbles) -> None:
    source, other = marbles.hot("--------a-|"), marbles.cold("-x------|")
    marbles.expect(source.pipe(mo.escalate(0.004, other)), "^------!").to_be("-----x")
    marbles.expect_subscriptions(source).to_be("^------!")
    marbles.expect_subscriptions(other).to_be("----^--!")


def test_what_a_source_says_after_its_end_ends_nothing_twice(marbles: Marbles) -> None:
    broken = mo.escalate(0, misbehaving("x||"), scheduler=marbles.clock)(marbles.hot("---a-|"))
    marbles.expect(broken).to_be("x--a-|")


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_duration_is_no_negative_number(seconds: float) -> None:
    with pytest.raises(MacpSessionError, match="escalate waits for some seconds"):
        mo.escalate(seconds, rx.never())


def test_on_a_plain_observable_it_asks_for_a_clock() -> None:
    with pytest.raises(MacpSessionError, match="escalate needs a clock"):
        mo.escalate(1, rx.never())(rx.never())
