"""The hop to another thread: 20,000 items through deliver_on, beside the same without a hop and RxPY's observe_on."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Iterable

import reactivex
from reactivex import Observable, abc
from reactivex.disposable import Disposable
from reactivex.scheduler import EventLoopScheduler

from benchmarks import Row, ratio, timed, wait_for
from macp_rx import operators as mo

__all__ = ["rows"]

ITEMS = 20_000
Hop = Callable[[EventLoopScheduler], Callable[[Observable[int]], Observable[int]]]


def rows(rounds: int) -> Iterable[Row]:
    """CPU that a hop adds to each item."""
    seconds = timed(
        {
            "none": lambda: _through(lambda thread: lambda source: source),
            "ours": lambda: _through(lambda thread: mo.deliver_on(thread, buffer=ITEMS, overflow="error")),
            "rxpy": lambda: _through(lambda thread: reactivex.operators.observe_on(thread)),
        },
        rounds,
    )
    ours, rxpy = (
        [(one - none) for one, none in zip(seconds[name], seconds["none"], strict=True)] for name in ("ours", "rxpy")
    )
    each, theirs = (statistics.median(added) / ITEMS * 1e6 for added in (ours, rxpy))
    shown = f"{each:.2f} us", f"{theirs:.1f} us"
    yield Row(
        "a hop to another thread: CPU per item", *shown, "RxPY observe_on", ratio(ours, rxpy), "≤ 2 us", each <= 2
    )


def _through(hop: Hop) -> None:
    done = threading.Event()
    thread = EventLoopScheduler()
    thread.schedule(lambda scheduler, state: None)  # its thread runs, in every contestant
    hop(thread)(reactivex.create(_items)).subscribe(on_completed=done.set)
    wait_for(done)
    thread.dispose()


def _items(observer: abc.ObserverBase[int], _scheduler: abc.SchedulerBase | None) -> abc.DisposableBase:
    for item in range(ITEMS):
        observer.on_next(item)
    observer.on_completed()
    return Disposable()
