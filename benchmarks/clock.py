"""Virtual time: a hundred live timers, each of which schedules the next."""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Callable, Iterable

from reactivex import abc
from reactivex.testing import TestScheduler

from benchmarks import Row, ratio
from macp_rx.clock import VirtualClock

__all__ = ["rows"]

TIMERS = 100
EVENTS = 50_000


def rows(rounds: int) -> Iterable[Row]:
    """Events a second, against a bare heapq that pops, pushes and calls, and against RxPY's TestScheduler."""
    rates: dict[str, list[float]] = {"bare": [], "ours": [], "rxpy": []}
    for _ in range(rounds):
        for name, run in (("bare", _bare), ("ours", _ours), ("rxpy", _rxpy)):
            rates[name].append(EVENTS / _seconds(run))
    each = {name: f"{statistics.median(values) / 1000:.0f} k/s" for name, values in rates.items()}
    what = f"virtual time, {TIMERS} live timers: events"
    bare, rxpy = (ratio(rates["ours"], rates[peer]) for peer in ("bare", "rxpy"))
    yield Row(what, each["ours"], each["bare"], "bare heapq pop, push, call", bare, "≥ 0.3x", bare >= 0.3)
    yield Row(what, each["ours"], each["rxpy"], "RxPY TestScheduler.advance_to", rxpy, "≥ 4x", rxpy >= 4)


def _seconds(run: Callable[[], Callable[[], None]]) -> float:
    go = run()
    began = time.process_time()
    go()
    return time.process_time() - began


def _bare() -> Callable[[], None]:
    left = EVENTS

    def action(_scheduler: object, _state: object) -> None:
        nonlocal left
        left -= 1

    def go() -> None:
        queue: list[tuple[int, int, Callable[[object, object], None]]] = [(n, n, action) for n in range(TIMERS)]
        number = TIMERS
        while left > 0:
            due, _number, act = heapq.heappop(queue)
            act(None, None)
            number += 1
            heapq.heappush(queue, (due + TIMERS, number, act))

    return go


def _ours() -> Callable[[], None]:
    clock = VirtualClock(max_events=10**9)
    left = EVENTS

    def action(scheduler: abc.SchedulerBase, _state: object = None) -> None:
        nonlocal left
        left -= 1
        if left > 0:
            scheduler.schedule_relative(0.0001, action)

    for number in range(TIMERS):
        clock.schedule_relative(number * 1e-6, action)
    return clock.run_until_idle


def _rxpy() -> Callable[[], None]:
    clock = TestScheduler()
    left = EVENTS

    def action(scheduler: abc.SchedulerBase, _state: object = None) -> None:
        nonlocal left
        left -= 1
        if left > 0:
            scheduler.schedule_relative(100.0, action)

    for number in range(TIMERS):
        clock.schedule_relative(float(number), action)
    return lambda: clock.advance_to(1e9)
