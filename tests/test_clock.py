"""Virtual time: in order, without jumps, the same everywhere."""

from __future__ import annotations

import asyncio
import gc
import inspect
import subprocess
import sys
import threading
from collections.abc import Coroutine
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from reactivex import operators as ops

from macp_rx import (
    DecisionSession,
    LoopClock,
    MacpClient,
    MacpClosedError,
    MacpOverflowError,
    MacpSessionError,
    MacpWouldBlockError,
    Runtime,
    stream,
)
from macp_rx.clock import START, LoopTimeClock, VirtualClock, VirtualLoop
from macp_rx.envelope import new_session_id
from macp_rx.protocol.validation import is_session_id
from tests.conftest import Recorder

_T = TypeVar("_T")


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


class TestCoroutines:
    """asyncio on a VirtualClock: its timers are in the clock's own queue."""

    @staticmethod
    def run(clock: VirtualClock, coroutine: Coroutine[Any, Any, _T]) -> _T:
        task = clock.loop.create_task(coroutine)
        clock.run_until_idle()
        return task.result()

    def test_sleep_passes_virtual_time(self) -> None:
        clock, ran = VirtualClock(), list[tuple[str, int]]()

        async def sleeper(name: str, seconds: float) -> None:
            for _ in range(2):
                await asyncio.sleep(seconds)
                ran.append((name, clock.time))

        async def both() -> None:
            await asyncio.gather(sleeper("day", 86_400), sleeper("hour", 3600), sleeper("now", 0))

        self.run(clock, both())
        assert ran == [
            ("now", 0),
            ("now", 0),
            ("hour", 3_600_000_000),
            ("hour", 7_200_000_000),
            ("day", 86_400_000_000),
            ("day", 172_800_000_000),
        ]

    def test_they_take_turns_with_what_is_scheduled(self) -> None:
        clock, ran = VirtualClock(), list[str]()

        async def later() -> None:
            await asyncio.sleep(1)
            ran.append("coroutine")

        clock.schedule_relative(1, lambda _s, _t: ran.append("before"))
        task = clock.loop.create_task(later())
        clock.schedule_relative(1, lambda _s, _t: ran.append("behind what was queued when it slept"))
        clock.run_until_idle()
        assert task.done()
        assert ran == ["before", "behind what was queued when it slept", "coroutine"]

    def test_a_timeout_is_virtual_and_a_cancelled_one_moves_nothing(self) -> None:
        clock = VirtualClock()

        async def late() -> float:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await asyncio.sleep(10)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.sleep(10), 2)
            async with asyncio.timeout(3600):
                await asyncio.sleep(1)
            return asyncio.get_running_loop().time()

        assert self.run(clock, late()) == 8
        assert clock.time == 8_000_000  # and not the hour of the timer that was cancelled
        assert clock.is_idle

    def test_a_timer_of_the_loop_that_is_cancelled(self) -> None:
        clock, ran = VirtualClock(), list[int]()
        handle = clock.loop.call_later(3600, ran.append, 1)
        at = clock.loop.call_at(2, ran.append, 2)
        assert at.when() == 2
        handle.cancel()
        clock.run_until_idle()
        assert (ran, clock.time, handle.cancelled()) == ([2], 2_000_000, True)

    def test_a_callback_that_is_cancelled_does_not_run(self) -> None:
        clock, ran = VirtualClock(), list[int]()
        clock.loop.call_soon(ran.append, 1)
        clock.loop.call_soon(ran.append, 2).cancel()
        clock.loop.call_soon_threadsafe(ran.append, 3)
        clock.run_until_idle()
        assert ran == [1, 3]

    def test_a_group_cancels_the_others(self) -> None:
        clock, cancelled = VirtualClock(), list[int]()

        async def endless() -> None:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                cancelled.append(clock.time)
                raise

        async def broken() -> None:
            await asyncio.sleep(1)
            raise ValueError("no")

        async def group() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(endless())
                tasks.create_task(broken())

        with pytest.raises(ExceptionGroup) as raised:
            self.run(clock, group())
        assert raised.value.subgroup(ValueError) is not None
        assert (cancelled, clock.time) == ([1_000_000], 1_000_000)

    def test_queues_events_and_locks(self) -> None:
        clock, taken = VirtualClock(), list[tuple[int, int]]()

        async def work() -> None:
            queue, done, lock = asyncio.Queue[int](maxsize=1), asyncio.Event(), asyncio.Lock()

            async def produce() -> None:
                for number in range(3):
                    await asyncio.sleep(1)
                    await queue.put(number)
                await queue.join()
                done.set()

            async def consume() -> None:
                while True:
                    number = await queue.get()
                    async with lock:
                        await asyncio.sleep(5)
                    taken.append((number, clock.time))
                    queue.task_done()

            tasks = [asyncio.create_task(one()) for one in (produce, consume)]
            await done.wait()
            for task in tasks:
                task.cancel()

        self.run(clock, work())
        assert taken == [(0, 6_000_000), (1, 11_000_000), (2, 16_000_000)]

    def test_cancelling_a_task(self) -> None:
        clock, ends = VirtualClock(), list[str]()

        async def stubborn() -> None:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError as error:
                ends.append(str(error))
                await asyncio.sleep(1)  # tidying up takes its time
                ends.append("tidy")
                raise

        task = clock.loop.create_task(stubborn(), name="stubborn")
        clock.advance_by(2)
        task.cancel("enough")
        clock.run_until_idle()
        assert (ends, task.cancelled(), clock.time) == (["enough", "tidy"], True, 3_000_000)

    def test_the_current_task_and_its_context(self) -> None:
        clock = VirtualClock()
        name: ContextVar[str] = ContextVar("name", default="nobody")

        async def who(called: str) -> tuple[str, str, bool]:
            name.set(called)
            await asyncio.sleep(1)
            task = asyncio.current_task()
            assert task is not None
            return task.get_name(), name.get(), asyncio.get_running_loop() is clock.loop

        async def all_of_them() -> list[tuple[str, str, bool]]:
            tasks = [asyncio.create_task(who(called), name=called.upper()) for called in ("a", "b")]
            assert {*tasks} <= asyncio.all_tasks()
            return await asyncio.gather(*tasks)

        assert self.run(clock, all_of_them()) == [("A", "a", True), ("B", "b", True)]
        assert name.get() == "nobody"
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()

    def test_a_task_of_another_loop_may_wait_for_the_clock(self) -> None:
        """As the cell of a notebook does. It is the current one again behind it."""
        clock = VirtualClock()

        async def inside() -> asyncio.Task[Any] | None:
            await asyncio.sleep(3600)
            return asyncio.current_task()

        async def cell() -> None:
            cells, loop = asyncio.current_task(), asyncio.get_running_loop()
            task = clock.loop.create_task(inside())
            clock.run_until_idle()
            assert task.result() is task
            assert (asyncio.current_task(), asyncio.get_running_loop()) == (cells, loop)
            async with asyncio.timeout(60):
                await asyncio.sleep(0)

        asyncio.run(cell())

    def test_a_thread_is_refused_clearly(self) -> None:
        clock = VirtualClock()

        async def thread() -> None:
            await asyncio.to_thread(print)

        with pytest.raises(MacpWouldBlockError, match="need real time: under a VirtualClock there is one thread"):
            self.run(clock, thread())

    @pytest.mark.parametrize("what", ["create_connection", "add_signal_handler", "subprocess_exec"])
    def test_so_is_whatever_else_is_not_there(self, what: str) -> None:
        async def use() -> None:
            made = getattr(asyncio.get_running_loop(), what)(*[None] * 2)
            if inspect.isawaitable(made):
                await made

        with pytest.raises(NotImplementedError):
            self.run(VirtualClock(), use())

    def test_another_thread_is_refused_here_too(self) -> None:
        clock, refused = VirtualClock(), Recorder()

        def call() -> None:
            try:
                clock.loop.call_soon_threadsafe(print)
            except MacpWouldBlockError as error:
                refused.on_error(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        assert "belongs to the thread" in str(refused.error)
        assert clock.is_idle

    def test_what_a_callback_raises_is_logged_and_the_clock_goes_on(self, caplog: pytest.LogCaptureFixture) -> None:
        clock, ran = VirtualClock(), list[int]()

        def broken() -> None:
            raise ValueError("no")

        clock.loop.call_soon(broken)
        clock.loop.call_later(1, ran.append, 1)
        clock.run_until_idle()
        assert ran == [1]
        (record,) = caplog.records
        assert record.name == "asyncio"
        assert "Exception in callback" in record.getMessage()
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ValueError)

    def test_what_a_task_raises_and_nobody_asks_for_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        clock = VirtualClock()

        async def broken() -> None:
            raise ValueError("no")

        tasks = [clock.loop.create_task(broken())]
        clock.run_until_idle()
        tasks.clear()
        gc.collect()
        assert [record.getMessage() for record in caplog.records] == ["Task exception was never retrieved"]

    def test_a_stream_is_awaited_in_a_coroutine(self) -> None:
        clock = VirtualClock()
        ticks = stream(rx.interval(60), clock).pipe(ops.take(3))

        async def last() -> tuple[int, int]:
            await asyncio.sleep(1)
            return await ticks, clock.time

        assert self.run(clock, last()) == (2, 181_000_000)

    def test_a_stream_is_iterated_in_a_coroutine(self) -> None:
        clock, heard = VirtualClock(), list[tuple[int, int]]()
        ticks = stream(rx.interval(60), clock)

        async def some() -> None:
            async for tick in ticks:
                heard.append((tick, clock.time))
                await asyncio.sleep(90)  # two ticks come meanwhile, and wait
                if tick == 2:
                    break

        self.run(clock, some())
        assert heard == [(0, 60_000_000), (1, 150_000_000), (2, 240_000_000)]
        assert clock.is_idle

    def test_the_error_of_a_stream_is_raised_in_the_coroutine(self) -> None:
        clock = VirtualClock()
        failing = stream(rx.timer(1), clock).pipe(ops.map(lambda _: 1 // 0))

        async def wait() -> int:
            with pytest.raises(ZeroDivisionError):
                await failing
            with pytest.raises(ZeroDivisionError):
                async for _ in failing:
                    pass
            return clock.time

        assert self.run(clock, wait()) == 2_000_000

    def test_a_coroutine_that_is_cancelled_leaves_its_stream(self) -> None:
        clock = VirtualClock()
        left = Recorder()
        ticks = stream(rx.interval(1), clock).pipe(ops.finally_action(lambda: left.on_next(clock.time)))

        async def wait() -> None:
            await ticks

        task = clock.loop.create_task(wait())
        clock.advance_by(2.5)
        task.cancel()
        clock.run_until_idle()
        assert (left.items, task.cancelled(), clock.time) == ([2_500_000], True, 2_500_000)

    def test_a_runtime_answers_a_coroutine_on_the_same_clock(self) -> None:
        clock = VirtualClock(3)
        client = MacpClient.embedded(agent="chair", runtime=Runtime(clock=clock))

        async def coordinate() -> str:
            session = DecisionSession(client)
            await session.rx.start(intent="virtual", participants=["chair"], ttl_ms=60_000)
            await asyncio.sleep(30)
            await session.rx.propose("p1", "canary")
            return (await session.outcome).state

        assert self.run(clock, coordinate()) == "EXPIRED"
        assert 60_000_000 <= clock.time < 70_000_000

    def test_a_loop_clock_has_its_loop(self) -> None:
        loop = asyncio.new_event_loop()
        assert LoopClock(loop).loop is loop
        loop.close()
