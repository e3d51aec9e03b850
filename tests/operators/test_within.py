from __future__ import annotations

from datetime import timedelta

import pytest
import reactivex as rx

from macp_rx import MacpSessionError, MacpTimeoutError
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.testing import Marbles
from tests.operators.checks import check_timers


def test_a_first_item_in_time_opens_the_way_for_the_rest(marbles: Marbles) -> None:
    source = marbles.hot("--a 10s b|")
    marbles.expect(source.pipe(mo.within(1))).to_be("--a 10s b|")
    marbles.expect_subscriptions(source).to_be("^-- 10s - !")


def test_without_one_it_says_otherwise_and_leaves_the_source(marbles: Marbles) -> None:
    source = marbles.hot("------a-|")
    marbles.expect(source.pipe(mo.within(0.004, otherwise="none"))).to_be("----(none |)")
    marbles.expect_subscriptions(source).to_be("^---!")


def test_or_fails(marbles: Marbles) -> None:
    source = marbles.hot("------a-|")
    expected = MacpTimeoutError("nothing came within 0.004 s")
    marbles.expect(source.pipe(mo.within(0.004))).to_be("----#", error=expected)


def test_a_timedelta_will_do(marbles: Marbles) -> None:
    source = marbles.cold("25h a|")
    marbles.expect(source.pipe(mo.within(timedelta(days=1), otherwise="late"))).to_be("24h (late |)")


def test_completion_and_error_pass_and_stop_the_timer(marbles: Marbles) -> None:
    marbles.expect(marbles.cold("--|").pipe(mo.within(1))).to_be("--|")
    marbles.expect(marbles.cold("--#", error=KeyError("x")).pipe(mo.within(1))).to_be("--#", error=KeyError("x"))


def test_leaving_early_stops_the_timer(marbles: Marbles) -> None:
    source = marbles.cold("-----a|")
    marbles.expect(source.pipe(mo.within(0.003, otherwise="none")), "^!").to_be("-")
    marbles.expect_subscriptions(source).to_be("^!")
    check_timers(marbles)


def test_on_a_plain_observable_it_asks_for_a_clock() -> None:
    with pytest.raises(MacpSessionError, match="scheduler="):
        mo.within(1)(rx.never())
    clock = VirtualClock()
    heard: list[object] = []
    mo.within(1, otherwise="none", scheduler=clock)(rx.never()).subscribe(heard.append)
    clock.run_until_idle()
    assert heard == ["none"]


@pytest.mark.parametrize("seconds", [-1, float("nan"), timedelta(seconds=-1)])
def test_a_duration_is_no_negative_number(seconds: float) -> None:
    with pytest.raises(MacpSessionError, match="within waits for some seconds"):
        mo.within(seconds)
