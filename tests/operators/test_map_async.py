from __future__ import annotations

import asyncio
from typing import Any

import pytest
import reactivex as rx
from reactivex.disposable import Disposable

from macp_rx import MacpClient, MacpOverflowError, MacpSessionError, MacpTimeoutError, Runtime, stream
from macp_rx import operators as mo
from macp_rx.testing import Marbles
from tests.conftest import Recorder


async def slow(item: str) -> str:
    await asyncio.sleep(0.003)
    return item.upper()


async def broken(item: str) -> str:
    await asyncio.sleep(0.001)
    raise ValueError(item)


def says(item: str, error: Exception) -> str:
    return f"{item}_{type(error).__name__}"


def test_calls_overlap_and_the_first_to_end_is_the_first_to_be_heard(marbles: Marbles) -> None:
    async def wait(item: str) -> str:
        await asyncio.sleep(float(item) / 1000)
        return item

    marbles.expect(marbles.hot("-5-1-|").pipe(mo.map_async(wait))).to_be("----1-(5 |)")


def test_only_so_many_at_a_time(marbles: Marbles) -> None:
    source = marbles.hot("-(a b c)-|")
    marbles.expect(source.pipe(mo.map_async(slow, concurrency=2))).to_be("----(A B)--(C |)")


def test_a_plain_function_answers_at_once(marbles: Marbles) -> None:
    marbles.expect(marbles.hot("-a-b-|").pipe(mo.map_async(str.upper))).to_be("-A-B-|")


def test_an_error_ends_it_and_cancels_the_others(marbles: Marbles) -> None:
    cancelled: list[str] = []

    async def call(item: str) -> str:
        if item == "b":
            return await broken(item)
        try:
            return await slow(item)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    source = marbles.hot("-(a b)----|")
    marbles.expect(source.pipe(mo.map_async(call))).to_be("--#", error=ValueError("b"))
    marbles.expect_subscriptions(source).to_be("^-!")
    marbles.check(lambda: None if cancelled == ["a"] else f"cancelled {cancelled}")


def test_a_function_that_raises_before_it_awaits(marbles: Marbles) -> None:
    def call(item: str) -> Any:
        raise ValueError(item)

    marbles.expect(marbles.hot("-a-|").pipe(mo.map_async(call))).to_be("-#", error=ValueError("a"))


def test_a_timeout(marbles: Marbles) -> None:
    source = marbles.hot("-a------|")
    expected = MacpTimeoutError("no answer within 0.002 s")
    marbles.expect(source.pipe(mo.map_async(slow, timeout=0.002))).to_be("---#", error=expected)


def test_a_timeout_of_the_functions_own_is_its_own(marbles: Marbles) -> None:
    async def call(_item: str) -> str:
        async with asyncio.timeout(0.001):
            return await slow("a")

    source = marbles.hot("-a------|")
    marbles.expect(source.pipe(mo.map_async(call, timeout=1, otherwise=says))).to_be("--a_TimeoutError-----|")


def test_otherwise_stands_in_for_what_failed(marbles: Marbles) -> None:
    source = marbles.hot("-a-b----|")
    marbles.expect(source.pipe(mo.map_async(broken, otherwise=says))).to_be("--a_ValueError-b_ValueError---|")


def test_otherwise_that_fails_ends_it(marbles: Marbles) -> None:
    def otherwise(item: str, error: Exception) -> str:
        raise KeyError(item) from error

    source = marbles.hot("-a------|")
    marbles.expect(source.pipe(mo.map_async(broken, otherwise=otherwise))).to_be("--#", error=KeyError("a"))


def test_a_call_that_cancels_itself_has_failed(marbles: Marbles) -> None:
    async def call(_item: str) -> str:
        raise asyncio.CancelledError

    source = marbles.hot("-a--|")
    expected = MacpSessionError("a call of map_async ended with CancelledError()")
    marbles.expect(source.pipe(mo.map_async(call))).to_be("-#", error=expected)


def test_its_queue_is_bounded(marbles: Marbles) -> None:
    source = marbles.hot("-(a b c d)-|")
    expected = MacpOverflowError("2 items wait for map_async; raise its concurrency, or sample upstream")
    marbles.expect(source.pipe(mo.map_async(slow, concurrency=1, buffer=2))).to_be("-#", error=expected)


def test_leaving_cancels_what_runs(marbles: Marbles) -> None:
    ends: list[str] = []

    async def call(item: str) -> str:
        try:
            return await slow(item)
        except asyncio.CancelledError:
            ends.append(f"cancelled at {marbles.clock.time}")
            raise

    source = marbles.hot("-a----|")
    marbles.expect(source.pipe(mo.map_async(call)), "^-!").to_be("-")
    marbles.expect_subscriptions(source).to_be("^-!")
    marbles.check(lambda: None if ends == ["cancelled at 2000"] else str(ends))


def test_an_error_of_the_source_cancels_what_runs(marbles: Marbles) -> None:
    marbles.expect(marbles.hot("-a-#").pipe(mo.map_async(slow))).to_be("---#")


def test_nothing_is_called_behind_its_own_failure(marbles: Marbles) -> None:
    """A source that speaks while it is subscribed to has not been left by then."""
    called: list[str] = []

    def call(item: str) -> str:
        called.append(item)
        raise ValueError(item)

    def subscribe(observer: Any, _: Any = None) -> Disposable:
        for item in "abc":
            observer.on_next(item)
        observer.on_completed()
        return Disposable()

    source = stream(rx.Observable(subscribe), marbles.clock)
    marbles.expect(source.pipe(mo.map_async(call))).to_be("#", error=ValueError("a"))
    marbles.check(lambda: None if called == ["a"] else f"called {called}")


def test_a_subscriber_that_raises_hears_its_own_error_and_leaves(marbles: Marbles) -> None:
    source, errors, items = marbles.hot("-(a b)----c-|"), list[str](), list[object]()

    def fail(item: object) -> None:
        items.append(item)
        raise ValueError("mine")

    def note(error: Exception) -> None:
        errors.append(f"{error} at {marbles.clock.time}")

    source.pipe(mo.map_async(slow, concurrency=1)).subscribe(fail, note)
    marbles.check(lambda: None if (items, errors) == (["A"], ["mine at 4000"]) else f"{items} {errors}")
    marbles.expect_subscriptions(source).to_be("^---!")


def test_a_call_that_is_dropped_before_it_began_is_no_warning(marbles: Marbles) -> None:
    marbles.expect(marbles.hot("-(a |)").pipe(mo.map_async(slow, finish=False))).to_be("-|")


def test_each_subscription_has_calls_of_its_own(marbles: Marbles) -> None:
    result = marbles.cold("a|").pipe(mo.map_async(slow))
    marbles.expect(result).to_be("---(A |)")
    marbles.expect(result, "-^").to_be("----(A |)")


@pytest.mark.parametrize("concurrency", [0, -1])
def test_no_concurrency(concurrency: int) -> None:
    with pytest.raises(MacpSessionError, match="at least 1"):
        mo.map_async(slow, concurrency=concurrency)


def test_a_plain_observable_has_no_clock() -> None:
    with pytest.raises(MacpSessionError, match="map_async needs a clock"):
        rx.of("a").pipe(mo.map_async(slow))


def test_in_real_time_it_runs_on_the_clients_loop_whatever_thread_the_source_speaks_on() -> None:
    """A task that is made on another thread does not wake its loop: the answers came when something else did, or never."""
    with MacpClient.embedded(agent="chair") as client:
        heard = Recorder()
        rx.of("a", "b").pipe(mo.map_async(slow, scheduler=client.clock)).subscribe(heard)
        heard.wait_for(2)
        assert heard.items == ["A", "B"]


def test_a_stream_can_be_awaited_in_it_under_virtual_time(marbles: Marbles) -> None:
    client = MacpClient.embedded(agent="chair", runtime=Runtime(clock=marbles.clock))

    async def ask(_item: str) -> int:
        return len((await client.rx.list_modes()).modes)

    marbles.expect(marbles.hot("-a------|").pipe(mo.map_async(ask))).to_be("-5------|", {"5": 5})
