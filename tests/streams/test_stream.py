"""A Stream iterates, awaits, runs, keeps its nature through operators, and makes its source wait."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import reactivex as rx
from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.disposable import Disposable
from reactivex.internal.exceptions import SequenceContainsNoElementsError
from reactivex.observable.connectableobservable import ConnectableObservable
from reactivex.scheduler import EventLoopScheduler

from macp_rx import LoopClock, MacpOverflowError, MacpWouldBlockError, Stream, stream
from macp_rx.streams.stream import Demand, Pull
from macp_rx.transport.loop import LoopLease
from tests.conftest import Recorder


@pytest.fixture
def clock() -> Iterator[LoopClock]:
    lease = LoopLease()
    yield lease.clock
    lease.release()


class Counter:
    """A source that counts as fast as it may, one item per turn of the clock, and that can be told to wait."""

    def __init__(self, clock: LoopClock, limit: int = 10**9) -> None:
        self.emitted = 0
        self.disposed = threading.Event()
        self._clock = clock
        self._limit = limit
        self._paused = False
        self.paused = threading.Event()
        self.told_elsewhere = False
        self.stream = Stream(Observable(self._subscribe), clock)

    def pause(self) -> None:
        self._paused = True
        self.paused.set()
        self.told_elsewhere |= not self._clock.on_own_thread()

    def resume(self) -> None:
        self._paused = False
        self._turn()

    def _subscribe(self, observer: abc.ObserverBase[int], scheduler: abc.SchedulerBase | None = None) -> Disposable:
        self._observer = observer
        if isinstance(scheduler, Demand):
            scheduler.add(self)
        self._clock.run_soon(self._turn)
        return Disposable(self.disposed.set)

    def _turn(self) -> None:
        if self._paused or self.disposed.is_set():
            return
        if self.emitted == self._limit:
            self._observer.on_completed()
            return
        self.emitted += 1
        self._observer.on_next(self.emitted)
        self._clock.schedule(lambda _scheduler, _state: self._turn())


def turns(clock: LoopClock, count: int) -> threading.Event:
    """Set after so many turns of the clock, in each of which a source that does not wait would emit."""
    passed = threading.Event()

    def turn(_scheduler: abc.SchedulerBase, left: int | None) -> None:
        if left:
            clock.schedule(turn, left - 1)
        else:
            passed.set()

    clock.schedule(turn, count)
    return passed


def test_for_yields_every_item_and_ends(clock: LoopClock) -> None:
    assert list(Counter(clock, 1000).stream) == list(range(1, 1001))


def test_a_slow_reader_makes_the_source_wait(clock: LoopClock) -> None:
    source = Counter(clock, 5000)
    items = iter(source.stream)
    assert list(itertools.islice(items, 5)) == [1, 2, 3, 4, 5]
    assert clock.wait(source.paused, 5)
    assert clock.wait(turns(clock, 500), 5)
    assert source.emitted <= 300  # 256 wait, and the source was told so
    assert list(items) == list(range(6, 5001))


def test_demand_reaches_the_source_through_operators_of_rxpy(clock: LoopClock) -> None:
    source = Counter(clock, 3000)
    items = iter(source.stream.pipe(ops.map(str), ops.filter(bool), ops.scan(lambda total, _item: total + 1, 0)))
    next(items)
    assert clock.wait(source.paused, 5)
    assert clock.wait(turns(clock, 500), 5)
    assert source.emitted <= 300
    assert sum(1 for _ in items) == 2999


def test_a_source_is_told_on_its_clocks_thread_whoever_delivers(clock: LoopClock) -> None:
    source, elsewhere = Counter(clock, 3000), EventLoopScheduler(exit_if_empty=True)
    items = iter(source.stream.pipe(ops.observe_on(elsewhere)))
    next(items)
    assert clock.wait(source.paused, 5)
    assert sum(1 for _ in items) == 2999
    assert not source.told_elsewhere  # a call of grpc.aio cannot be paused there: it needs the running loop


def test_a_source_that_cannot_even_be_left_costs_no_memory(clock: LoopClock) -> None:
    """It emits inside subscribe, so that nobody has anything to dispose yet."""
    pull = Pull[int](clock)

    def flood(observer: abc.ObserverBase[int], _scheduler: abc.SchedulerBase | None = None) -> Disposable:
        for number in range(10_000):
            observer.on_next(number)
        return Disposable()

    pull.subscribe(Observable(flood))
    assert [pull.take() for _ in range(4096)] == list(range(4096))
    assert not pull.available
    with pytest.raises(MacpOverflowError):
        pull.wait()


def test_where_demand_cannot_reach_the_bound_is_an_error_and_not_memory(clock: LoopClock) -> None:
    given_up = threading.Event()
    flood = rx.from_iterable(range(10_000)).pipe(ops.finally_action(given_up.set))
    items = iter(stream(flood, clock))
    assert next(items) == 0
    assert clock.wait(given_up, 5)  # the source was left, since nobody reads and it cannot wait
    with pytest.raises(MacpOverflowError, match="4096 items wait unread"):
        list(items)


def test_leaving_a_loop_disposes_the_subscription(clock: LoopClock) -> None:
    source = Counter(clock)
    for item in source.stream:
        if item == 3:
            break
    assert clock.wait(source.disposed, 5)


def test_async_for_on_another_loop(clock: LoopClock) -> None:
    async def read() -> list[int]:
        return [item async for item in Counter(clock, 1000).stream]

    assert asyncio.run(read()) == list(range(1, 1001))


def test_await_gives_the_last_item_from_any_loop(clock: LoopClock) -> None:
    async def last() -> int:
        return await Counter(clock, 10).stream

    assert asyncio.run(last()) == 10
    assert asyncio.run(last()) == 10  # a second loop in the same process


def test_run_gives_the_last_item(clock: LoopClock) -> None:
    assert Counter(clock, 10).stream.run() == 10


def test_run_and_await_say_that_there_was_nothing(clock: LoopClock) -> None:
    async def last() -> object:
        return await stream(rx.empty(), clock)

    with pytest.raises(SequenceContainsNoElementsError):
        stream(rx.empty(), clock).run()
    with pytest.raises(SequenceContainsNoElementsError):
        asyncio.run(last())


def test_errors_come_out_of_every_form(clock: LoopClock) -> None:
    failing = stream(rx.concat(rx.of(1), rx.throw(ValueError("late"))), clock)

    async def read() -> list[int]:
        return [item async for item in failing]

    with pytest.raises(ValueError, match="late"):
        failing.run()
    with pytest.raises(ValueError, match="late"):
        list(failing)
    with pytest.raises(ValueError, match="late"):
        asyncio.run(read())


def test_an_error_comes_after_the_items_before_it(clock: LoopClock) -> None:
    items = iter(stream(rx.concat(rx.of(1, 2), rx.throw(ValueError("late"))), clock))
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="late"):
        next(items)


def test_blocking_on_the_clocks_own_thread_is_refused(clock: LoopClock) -> None:
    refused: list[Exception] = []
    done = threading.Event()

    def block() -> None:
        try:
            Counter(clock, 1).stream.run()
        except MacpWouldBlockError as error:
            refused.append(error)
        done.set()

    clock.run_soon(block)
    assert done.wait(5)
    assert "await the same call" in str(refused[0])


def test_what_is_piped_is_a_stream_again(clock: LoopClock) -> None:
    piped = Counter(clock, 3).stream.pipe(ops.map(str), ops.filter(bool))
    assert isinstance(piped, Stream)
    assert piped.clock is clock
    assert list(piped) == ["1", "2", "3"]


def test_a_sum_and_a_slice_are_streams_again(clock: LoopClock) -> None:
    both = stream(rx.of(1, 2), clock) + stream(rx.of(3), clock)
    both += rx.of(4)
    assert isinstance(both, Stream)
    assert list(both) == [1, 2, 3, 4]
    assert list(both[1:3]) == [2, 3]


class _Overtaken(LoopClock):
    """Whoever schedules from another thread goes on only when the loop has come to schedule the same action again, and the
    loop goes on only when the subscriber has subscribed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.overtaken, self.subscribed = threading.Event(), threading.Event()
        self._seen: list[object] = []

    def schedule(self, action: abc.ScheduledAction[Any], state: Any = None) -> abc.DisposableBase:
        again = action in self._seen
        self._seen.append(action)
        if not self.on_own_thread():
            scheduled = super().schedule(action, state)
            assert self.overtaken.wait(5)
            return scheduled
        if again:
            self.loop.call_soon(self.overtaken.set)
            self.loop.call_soon(self.subscribed.wait, 5)
        return super().schedule(action, state)


def test_a_pipeline_that_is_overtaken_while_it_is_subscribed_loses_nothing(clock: LoopClock) -> None:
    slow, heard = _Overtaken(clock.loop), Recorder()
    stream(rx.of(1), slow).pipe(ops.concat(rx.of(2), rx.of(3))).subscribe(heard)
    slow.subscribed.set()
    heard.wait_for_end()
    assert heard.items == [1, 2, 3]


def test_what_ends_while_it_is_subscribed_is_left(clock: LoopClock) -> None:
    left = threading.Event()

    def at_once(observer: abc.ObserverBase[int], _scheduler: abc.SchedulerBase | None = None) -> Disposable:
        observer.on_next(1)
        return Disposable(left.set)

    assert stream(Observable(at_once), clock).pipe(ops.take(1)).run() == 1
    assert left.wait(5)


def test_a_connectable_keeps_its_connect(clock: LoopClock) -> None:
    assert isinstance(Counter(clock).stream.pipe(ops.publish()), ConnectableObservable)


FLUENT = {
    "map": (str,),
    "filter": (bool,),
    "take": (2,),
    "skip": (1,),
    "scan": (max,),
    "distinct": (),
    "start_with": (0,),
    "pairwise": (),
    "share": (),
    "timestamp": (),
    "to_list": (),
    "delay": (0.001,),
    "do_action": (print,),
    "default_if_empty": (0,),
}


@pytest.mark.parametrize("name", FLUENT)
def test_what_a_fluent_method_returns_is_a_stream(clock: LoopClock, name: str) -> None:
    assert isinstance(getattr(Counter(clock, 3).stream, name)(*FLUENT[name]), Stream)


def test_every_fluent_method_of_rxpy_goes_through_pipe() -> None:
    """So that a new one cannot return something that does not iterate: a few return what is no single Observable."""
    other = {
        "partition",
        "partition_indexed",
        "run",
        "subscribe",
        "pipe",
        "to_future",
        "multicast",
        "publish",
        "replay",
    }
    methods = {
        name: method
        for mixin in Observable.__mro__
        if mixin.__module__.startswith("reactivex.observable.mixins")
        for name, method in vars(mixin).items()
        if not name.startswith("_") and inspect.isfunction(method)
    }
    assert len(methods) > 100
    around = {name for name, method in methods.items() if ".pipe(" not in inspect.getsource(method)}
    assert around - other == set(), "these do not go through pipe, so a Stream must wrap their result itself"


def test_timed_operators_of_rxpy_start_no_thread(clock: LoopClock) -> None:
    before = threading.active_count()
    assert [*Counter(clock, 3).stream.pipe(ops.delay(0.01), ops.timeout(5))] == [1, 2, 3]
    assert Counter(clock, 3).stream.pipe(ops.delay(0.01), ops.timeout(5)).run() == 3
    assert threading.active_count() == before


def test_an_abandoned_await_is_disposed(clock: LoopClock) -> None:
    source = Counter(clock)

    async def give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_awaiting(source.stream), 0.05)

    asyncio.run(give_up())
    assert clock.wait(source.disposed, 5)


async def _awaiting(source: Stream[int]) -> int:
    return await source
