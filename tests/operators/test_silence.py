from __future__ import annotations

from datetime import timedelta

import pytest
import reactivex as rx

from macp_rx import MacpSessionError
from macp_rx import operators as mo
from macp_rx.testing import Marbles
from tests.operators.checks import check_timers

NONE = {"N": None}


def test_it_tells_of_each_silence_once_with_the_last_item_before_it(marbles: Marbles) -> None:
    source = marbles.hot("-a-b----------c--|")
    marbles.expect(source.pipe(mo.silence(0.003))).to_be("------b----------|")
    marbles.expect_subscriptions(source).to_be("^----------------!")


def test_also_of_the_one_before_the_first_item(marbles: Marbles) -> None:
    source = marbles.hot("------a----|")
    marbles.expect(source.pipe(mo.silence(0.004))).to_be("----N-----a|", NONE)


def test_it_begins_with_the_subscription(marbles: Marbles) -> None:
    source = marbles.hot("--a------------|")
    marbles.expect(source.pipe(mo.silence(0.004)), "-----^").to_be("---------N-----|", NONE)


def test_an_item_at_the_very_end_of_the_time_comes_first(marbles: Marbles) -> None:
    """A hot source's timer is older than ours, and at equal times the older one is first."""
    source = marbles.hot("---a-|")
    marbles.expect(source.pipe(mo.silence(0.003))).to_be("-----|")


def test_the_end_is_no_silence(marbles: Marbles) -> None:
    marbles.expect(marbles.cold("-a|").pipe(mo.silence(timedelta(seconds=1)))).to_be("--|")
    failing = marbles.cold("-a#", error=ValueError("lost"))
    marbles.expect(failing.pipe(mo.silence(1))).to_be("--#", error=ValueError("lost"))
    check_timers(marbles)


@pytest.mark.parametrize("seconds", [-1, float("nan"), timedelta(seconds=-1)])
def test_a_duration_is_no_negative_number(seconds: float) -> None:
    with pytest.raises(MacpSessionError, match="silence waits for some seconds"):
        mo.silence(seconds)


def test_on_a_plain_observable_it_asks_for_a_clock() -> None:
    with pytest.raises(MacpSessionError, match="silence needs a clock"):
        mo.silence(1)(rx.never())
