from __future__ import annotations

import itertools

import pytest
import reactivex as rx
from reactivex import Observable
from reactivex import operators as ops
from reactivex.scheduler import ImmediateScheduler

from macp_rx import MacpRefusedError, MacpSessionError, MacpTransportError, RetryPolicy
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.testing import Marbles, misbehaving
from tests.operators.checks import check_timers

GONE = MacpTransportError("UNAVAILABLE", "gone")
REFUSED = MacpRefusedError("FORBIDDEN", "no")
POLICY = RetryPolicy(first=0.004, cap=0.016, give_up_after=10)


def test_it_subscribes_again_after_a_pause_that_grows(marbles: Marbles) -> None:
    """Each pause is between half of what the policy says and all of it: 2 to 4 ms, 4 to 8, 8 to 16, 8 to 16 …"""
    source = marbles.cold("#", error=GONE)
    marbles.expect(source.pipe(mo.retry_with_backoff(POLICY)), "^ 60ms !").to_be("-")

    def check() -> str | None:
        at = [span.subscribed // 1000 for span in source.subscriptions]
        pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
        bounds = [(2, 4), (4, 8), *[(8, 16)] * (len(pauses) - 2)]
        right = len(pauses) > 4 and all(low <= pause <= high for pause, (low, high) in zip(pauses, bounds, strict=True))
        return None if right else f"pauses of {pauses} ms"

    marbles.check(check)


def test_an_item_is_progress(marbles: Marbles) -> None:
    source = marbles.cold("-a#", error=GONE)
    pauses = RetryPolicy(first=0.002, cap=1)
    taken = source.pipe(mo.retry_with_backoff(pauses), ops.take(8))
    last: list[int] = []
    marbles.act("s", {"s": lambda: taken.subscribe(on_completed=lambda: last.append(marbles.clock.time))})
    marbles.check(lambda: None if last[0] <= 8 * 4_000 else f"the pauses have grown: {last[0]} us")


def test_an_error_that_cannot_pass_passes(marbles: Marbles) -> None:
    source = marbles.cold("-a#", error=REFUSED)
    marbles.expect(source.pipe(mo.retry_with_backoff(POLICY))).to_be("-a#", error=REFUSED)
    marbles.expect_subscriptions(source).to_be("^-!")


def test_which_errors_may_pass_can_be_told(marbles: Marbles) -> None:
    source = marbles.hot("-a-#-----b-|", error=ValueError("lost"))

    def lost(error: Exception) -> bool:
        return isinstance(error, ValueError)

    marbles.expect(source.pipe(mo.retry_with_backoff(POLICY, when=lost))).to_be("-a-------b-|")


def test_what_the_test_of_an_error_raises_is_the_error(marbles: Marbles) -> None:
    source = marbles.cold("-#", error=GONE)

    def broken(_: Exception) -> bool:
        raise KeyError("x")

    marbles.expect(source.pipe(mo.retry_with_backoff(POLICY, when=broken))).to_be("-#", error=KeyError("x"))


def test_it_gives_up(marbles: Marbles) -> None:
    source = marbles.cold("#", error=GONE)
    short = RetryPolicy(first=0.001, cap=0.001, give_up_after=0.02)
    marbles.expect(source.pipe(mo.retry_with_backoff(short))).to_be("20ms #", error=GONE)


def test_without_patience_the_first_error_is_the_end(marbles: Marbles) -> None:
    """Where RxPY's retry(0) completes, and says nothing."""
    source = marbles.cold("-#", error=GONE)
    never = RetryPolicy(give_up_after=0)
    marbles.expect(source.pipe(mo.retry_with_backoff(never))).to_be("-#", error=GONE)


def test_the_end_is_the_end(marbles: Marbles) -> None:
    source = marbles.cold("-a|")
    marbles.expect(source.pipe(mo.retry_with_backoff(POLICY))).to_be("-a|")
    marbles.expect_subscriptions(source).to_be("^-!")


def test_leaving_in_a_pause_ends_it(marbles: Marbles) -> None:
    source = marbles.cold("-#", error=GONE)
    marbles.expect(source.pipe(mo.retry_with_backoff(RetryPolicy(first=10, cap=10))), "^---!").to_be("-")
    marbles.expect_subscriptions(source).to_be("^!")
    check_timers(marbles)


def test_a_source_that_fails_twice_is_tried_again_once() -> None:
    clock = VirtualClock()
    subscriptions = 0
    broken = misbehaving("a##b", {"#": GONE})

    def source(_: object) -> Observable[str]:
        nonlocal subscriptions
        subscriptions += 1
        return broken if subscriptions == 1 else rx.of("c")

    heard: list[object] = []
    retried = mo.retry_with_backoff(POLICY, scheduler=clock)(rx.defer(source))
    retried.subscribe(heard.append, heard.append, lambda: heard.append("|"))
    clock.run_until_idle()
    assert (heard, subscriptions) == (["a", "c", "|"], 2)


def test_it_needs_a_clock_for_the_chance_in_its_pauses() -> None:
    with pytest.raises(MacpSessionError, match="retry_with_backoff needs a clock"):
        mo.retry_with_backoff()(rx.never())
    with pytest.raises(MacpSessionError, match="from a Clock"):
        mo.retry_with_backoff(scheduler=ImmediateScheduler())(rx.never())  # type: ignore[arg-type]


def test_a_source_that_fails_while_it_is_subscribed_to_is_tried_again(virtual_time: VirtualClock) -> None:
    """Its pause has begun by the time its subscription comes back, and is not disposed with it."""
    answers = iter([rx.throw(GONE), rx.throw(GONE), rx.just("a")])
    source = rx.defer(lambda _scheduler: next(answers))
    heard: list[str] = []
    source.pipe(mo.retry_with_backoff(POLICY, scheduler=virtual_time)).subscribe(
        heard.append, scheduler=ImmediateScheduler()
    )
    virtual_time.advance_by(1)
    assert heard == ["a"]
