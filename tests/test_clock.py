"""Virtual time: in order, without jumps, the same everywhere."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from reactivex import operators as ops

from macp_rx import LoopClock, MacpClosedError, MacpOverflowError, MacpSessionError, MacpWouldBlockError, stream
from macp_rx.clock import START, LoopTimeClock, VirtualClock, VirtualLoop
from macp_rx.envelope import new_session_id
from macp_rx.protocol.validation import is_session_id
from tests.conftest import Recorder


def test_first_in_first_out_at_equal_times() -> None:
    clock, ran = VirtualClock(), list[str]()
    clock.schedule_relative(1, lambda _s, _t: ran.append("c"))
    clock.schedule(lambda _s, _t: ran.append("a"))
    clock.schedule_relative(1, lambda _s, _t: ran.append("d"))
    clock.schedule(lambda _s, _t: ran.append("b"))
    clock.run_until_idle()
    assert ran == ["a", "b", "c", "d"]


def test_a_burst_of_a_thousand_stays_at_its_instant() -> None:
    """RxPY's VirtualTimeScheduler moves by a second after a hundred actions at one instant, and a timer comes early."""
    clock, times = VirtualClock(), list[int]()
    for _ in range(1000):
        clock.schedule_relative(0.3, lambda _s, _t: times.append(clock.time))
    clock.schedule_relative(12, lambda _s, _t: times.append(clock.time))
    clock.run_until_idle()
    assert times == [300_000] * 1000 + [12_000_000]


def test_advancing_runs_what_is_due_and_no_more() -> None:
    clock, ran = VirtualClock(), list[float]()
    for seconds in (0.5, 1.0, 1.5):
        clock.schedule_relative(seconds, lambda _s, seconds: ran.append(seconds or 0), seconds)
    clock.advance_by(1)
    assert (ran, clock.time) == ([0.5, 1.0], 1_000_000)
    clock.advance_to(START + timedelta(seconds=2))
    assert (ran, clock.now) == ([0.5, 1.0, 1.5], START + timedelta(seconds=2))
    assert clock.is_idle


def test_time_does_not_go_back() -> None:
    clock = VirtualClock()
    clock.advance_by(5)
    with pytest.raises(MacpSessionError, match="does not go back"):
        clock.advance_by(-1)
    with pytest.raises(MacpSessionError, match="does not go back"):
        clock.advance_to(START)


def test_the_start_can_be_set_and_absolute_times_are_kept_to_the_microsecond() -> None:
    clock = VirtualClock(start=datetime(2030, 5, 1, tzinfo=UTC))
    due, ran = datetime(2030, 5, 1, 0, 0, 0, 123457, tzinfo=UTC), list[datetime]()
    clock.schedule_absolute(due, lambda _s, _t: ran.append(clock.now))
    clock.schedule_absolute(due.timestamp(), lambda _s, _t: ran.append(clock.now))
    clock.run_until_idle()
    assert ran == [due, due]
    assert clock.now_ms == round(due.timestamp() * 1000)


def test_disposing_cancels_also_from_inside() -> None:
    clock, ran = VirtualClock(), list[str]()
    timer = clock.schedule_relative(1, lambda _s, _t: ran.append("never"))
    clock.schedule(lambda _s, _t: timer.dispose())
    ticking = clock.schedule_periodic(1, lambda state: (ran.append("tick"), state)[1])
    clock.schedule_relative(3.5, lambda _s, _t: ticking.dispose())
    clock.run_until_idle()
    assert ran == ["tick"] * 3


def test_an_endless_loop_is_named() -> None:
    clock = VirtualClock(max_events=5000)

    def again(_scheduler: object, _state: object = None) -> None:
        clock.schedule(again)

    clock.schedule(again)
    with pytest.raises(
        MacpOverflowError, match=r"5000 actions and no end at 0 s; .*again \(test_clock\.py:\d+\) 1000 times"
    ):
        clock.run_until_idle()


def test_an_exception_comes_out_and_leaves_the_clock_usable() -> None:
    clock, ran = VirtualClock(), list[str]()
    clock.schedule(lambda _s, _t: 1 // 0)  # type: ignore[arg-type,return-value]
    clock.schedule(lambda _s, _t: ran.append("after"))
    with pytest.raises(ZeroDivisionError):
        clock.run_until_idle()
    clock.run_until_idle()
    assert ran == ["after"]


def test_waiting_runs_the_clock() -> None:
    clock, ready = VirtualClock(), threading.Event()
    clock.schedule_relative(82_800, lambda _s, _t: ready.set())
    assert not clock.wait(ready, timeout=1)
    assert clock.time == 1_000_000
    assert clock.wait(ready)
    assert clock.time == 82_800_000_000
    assert not clock.wait(threading.Event())  # nothing is left that could set it


def test_waiting_inside_an_action_is_refused() -> None:
    clock, refused = VirtualClock(), list[Exception]()

    def block(_scheduler: object, _state: object = None) -> None:
        try:
            clock.wait(threading.Event())
        except MacpWouldBlockError as error:
            refused.append(error)

    clock.schedule(block)
    clock.run_until_idle()
    assert len(refused) == 1


def test_another_thread_is_refused() -> None:
    clock, refused = VirtualClock(), list[Exception]()

    def schedule() -> None:
        try:
            clock.schedule(lambda _s, _t: None)
        except MacpWouldBlockError as error:
            refused.append(error)

    thread = threading.Thread(target=schedule)
    thread.start()
    thread.join()
    assert "belongs to the thread" in str(refused[0])


def test_streams_run_await_and_iterate_under_virtual_time() -> None:
    clock = VirtualClock()
    ticks = stream(rx.interval(3600), clock).pipe(ops.take(3))

    async def last() -> int:
        return await ticks

    assert list(ticks) == [0, 1, 2]
    assert ticks.run() == 2
    assert asyncio.run(last()) == 2
    assert clock.time == 9 * 3_600_000_000


def test_ids_and_jitter_come_from_the_seed() -> None:
    one, same, other = VirtualClock(7), VirtualClock(7), VirtualClock(8)
    drawn = [one.new_id() for _ in range(3)]
    assert drawn == [same.new_id() for _ in range(3)]
    assert drawn != [other.new_id() for _ in range(3)]
    assert all(is_session_id(made) for made in [*drawn, new_session_id()])
    assert one.jitter() == same.jitter()
    assert 0 <= one.jitter() < 1


def test_the_same_run_in_processes_with_different_hash_seeds_gives_one_digest() -> None:
    code = """
import hashlib
import reactivex as rx
from reactivex import operators as ops
from macp_rx.clock import VirtualClock
from macp_rx.timeline import Recorder
clock = VirtualClock(3)
recorder = Recorder(clock)
for name in ("a", "b", "c"):
    ticks = rx.timer(clock.jitter(), clock.jitter(), scheduler=clock).pipe(ops.map(lambda _: clock.new_id()), ops.take(50))
    recorder.record(ticks, name)
clock.run_until_idle()
print(hashlib.sha256(str(recorder.timeline).encode()).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(digests) == 1


@given(st.lists(st.integers(0, 50), max_size=30))
def test_any_schedule_runs_in_order_of_time_then_of_arrival(delays: list[int]) -> None:
    clock, ran = VirtualClock(), list[tuple[int, int]]()
    for number, delay in enumerate(delays):
        clock.schedule_relative(delay / 1000, lambda _s, key: ran.append(key or (0, 0)), (delay, number))
    clock.run_until_idle()
    assert ran == sorted((delay, number) for number, delay in enumerate(delays))


def test_a_wait_ends_with_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("macp_rx.clock.LOOK_SECONDS", 0.01)
    loop = asyncio.new_event_loop()
    clock, ended, waiting = LoopClock(loop), Recorder(), threading.Event()

    class Never(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waiting.set()
            return super().wait(timeout)

    def wait() -> None:
        try:
            clock.wait(Never())
        except MacpClosedError as error:
            ended.on_error(error)

    thread = threading.Thread(target=wait)

    async def begin() -> None:
        thread.start()
        await loop.run_in_executor(None, waiting.wait, 5)
        await loop.shutdown_default_executor()

    loop.run_until_complete(begin())
    loop.close()
    thread.join(5)
    assert "the loop of this clock is closed" in str(ended.error)
    for late in (lambda: clock.wait(threading.Event()), lambda: clock.schedule(lambda _s, _t: None)):
        with pytest.raises(MacpClosedError):
            late()


def test_on_a_virtual_loop_the_asyncio_face_tells_the_loops_time() -> None:
    """RxPY's AsyncIOScheduler tells the wall clock there: throttle_first(3) on ten ticks gave [0] (measured)."""
    loop = VirtualLoop()
    clock = LoopTimeClock(loop)

    async def throttled() -> list[int]:
        ticks = stream(rx.interval(1), clock).pipe(ops.take(10), ops.throttle_first(3), ops.to_list())
        return await ticks

    try:
        assert loop.run_until_complete(throttled()) == [0, 3, 6, 9]
        assert loop.time() == 10
    finally:
        loop.close()


def test_a_virtual_loop_says_when_it_would_wait_for_ever() -> None:
    loop = VirtualLoop()
    try:
        with pytest.raises(MacpWouldBlockError, match="nothing is scheduled"):
            loop.run_until_complete(loop.create_future())
    finally:
        loop.close()
