"""The hop from one thread to another: bounded, one at a time, one drain per wake."""

from __future__ import annotations

import logging
import threading
from collections import deque
from time import monotonic
from typing import Any, Final, Generic, Literal, TypeVar

from reactivex import Observable, abc
from reactivex.disposable import Disposable, SingleAssignmentDisposable
from reactivex.internal import DisposedException, noop
from reactivex.scheduler import EventLoopScheduler

from macp_rx.clock import Clock
from macp_rx.errors import MacpOverflowError, MacpSessionError
from macp_rx.streams.stream import OVERFLOW_FACTOR, Demand, Stream, on_demand

__all__ = ["BUFFER", "Delivery", "Overflow"]

T = TypeVar("T")

_log = logging.getLogger("macp_rx.streams")

BUFFER: Final = 256

Overflow = Literal["pause", "drop_oldest", "drop_newest", "latest", "error"]
"""What happens when a consumer does not keep up: the source waits, something is dropped and counted, or it is an error."""

POLICIES: Final = ("pause", "drop_oldest", "drop_newest", "latest", "error")

LINGER: Final = 0.002
"""Seconds after which a thread that delivers from a busy stream looks again by itself. To wake it for every item added 40 % to
the cost of reading, and one look costs 30 us, most of it the kernel's (measured)."""

BUSY: Final = 5000
"""Items a second from which on a stream is busy. One that is not is delivered at once: nobody's answer waits for a look."""

BATCH: Final = 1024
"""So many items are delivered before others on the scheduler get their turn."""


class Delivery:
    """An operator that delivers on a scheduler, through a bounded buffer.

    RxPY's ``observe_on`` has no bound, costs 20 times as much, and is silent for ever once a consumer has raised (measured).

    Args:
        scheduler: what the consumer runs on.
        buffer: how many items may wait for it.
        overflow: what happens when as many do.
    """

    def __init__(self, scheduler: abc.SchedulerBase, *, buffer: int = BUFFER, overflow: Overflow = "pause") -> None:
        if buffer < 1:
            raise MacpSessionError(f"a buffer of {buffer} holds nothing; at least 1")
        if overflow not in POLICIES:
            raise MacpSessionError(f"overflow {overflow!r} is none of {', '.join(POLICIES)}")
        self._scheduler = scheduler
        self._buffer = 1 if overflow == "latest" else buffer
        self._overflow: Overflow = overflow
        self._hops: dict[_Hop[Any], None] = {}
        self.dropped: int = 0
        """How many items were dropped so far, by all subscriptions."""

    @property
    def waiting(self) -> int:
        """How many items wait for their consumers now."""
        return sum(hop.waiting for hop in tuple(self._hops))

    def __call__(self, source: Observable[T]) -> Observable[T]:
        """The source, delivered on the scheduler.

        Raises:
            MacpSessionError: it should wait and cannot: an operator in between hides from it that it should.
        """
        if self._overflow == "pause" and not (isinstance(source, Stream) and source.can_wait):
            raise MacpSessionError(
                "overflow='pause' needs a source that can be told to wait, and an operator that is not macp_rx's own stands "
                "between it and deliver_on, or it is no stream of macp_rx: put deliver_on before that operator, or choose what "
                "else to do (drop_oldest, drop_newest, latest, error)"
            )

        def subscribe(observer: abc.ObserverBase[T], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
            hop = _Hop(self, source, observer, self._hops)
            self._hops[hop] = None
            hop.start(self._scheduler, self._buffer, self._overflow, scheduler)
            return Disposable(on_demand(hop, scheduler))

        result: Observable[T] = Observable(subscribe)
        if not isinstance(source, Stream):
            return result
        return Stream(result, source.clock, can_wait=True, client=source)

    def drops(self) -> None:
        """Counts one item that was dropped, and says so in the log at the 1st, 10th, 100th …"""
        self.dropped += 1
        if str(self.dropped).strip("0") == "1":
            _log.warning(
                "deliver_on(overflow=%r) has dropped %d items: its consumer is too slow", self._overflow, self.dropped
            )


class _Hop(abc.ObserverBase[T], Generic[T]):
    """One subscription: items come in on the source's thread and go out on the scheduler's."""

    def __init__(
        self, delivery: Delivery, source: Observable[T], observer: abc.ObserverBase[T], hops: dict[_Hop[Any], None]
    ) -> None:
        self._delivery = delivery
        self._hops = hops
        self._source = source
        self._observer = observer
        self._items: deque[T] = deque()
        self._lock = threading.Lock()
        self._scheduled = self._paused = self._ended = self._over = False
        self._error: Exception | None = None
        self._upstream = SingleAssignmentDisposable()
        self._demand: Demand | None = None
        self._looked = 0.0
        self.dropped = 0

    @property
    def waiting(self) -> int:
        return len(self._items)

    def start(
        self, scheduler: abc.SchedulerBase, buffer: int, overflow: Overflow, consumer: abc.SchedulerBase | None
    ) -> None:
        self._scheduler = scheduler
        self._buffer = buffer
        self._policy = overflow
        # where a timer costs no thread, and time is real
        self._lingers = isinstance(scheduler, EventLoopScheduler)
        if isinstance(self._source, Stream):
            # a close is told to who waits behind the hop, and is silence for who subscribed
            lose, behind = (self.on_error, consumer.buffers) if isinstance(consumer, Demand) else (noop, ())
            self._demand = Demand(self._source.clock, lose, self, *behind)
        self._upstream.disposable = self._source.subscribe(self, scheduler=self._demand)

    # What comes in.

    def on_next(self, value: T) -> None:
        items = self._items
        if len(items) >= self._buffer and not self._make_room():
            return
        items.append(value)
        if not self._scheduled:
            self._wake()

    def _make_room(self) -> bool:
        """What the policy says when the buffer is full; whether the new item has a place."""
        match self._policy:
            case "pause":
                assert self._demand is not None
                self._demand.pause()
                if len(self._items) < OVERFLOW_FACTOR * self._buffer:  # what was on its way still comes
                    return True
            case "drop_newest":
                self._drops()
                return False
            case "drop_oldest" | "latest":
                try:
                    self._items.popleft()
                except IndexError:  # it has just been delivered
                    return True
                self._drops()
                return True
            case _:
                pass  # an error
        self._upstream.dispose()
        self.on_error(MacpOverflowError(f"{len(self._items)} items wait for a consumer that does not keep up"))
        return False

    def _drops(self) -> None:
        self.dropped += 1
        self._delivery.drops()

    def on_error(self, error: Exception) -> None:
        if not self._ended:
            self._error = error
            self.on_completed()

    def on_completed(self) -> None:
        self._ended = True
        self._wake()

    # What goes out.

    def _wake(self) -> None:
        with self._lock:
            if self._scheduled or self._paused:
                return
            self._scheduled = True
        self._schedule()

    def _schedule(self) -> None:
        try:
            self._scheduler.schedule(self._run)
        except Exception as error:  # it was disposed, or shut down: who waits would wait for ever
            self._finish(error)

    def _run(self, _scheduler: abc.SchedulerBase, _state: object = None) -> None:
        try:
            self._drain()
        except Exception:  # raised by on_error, or by on_completed: there is nobody left to tell
            if isinstance(self._scheduler, Clock):
                raise
            # RxPY's EventLoopScheduler would end, in silence for all the others on it; an executor says nothing (measured)
            _log.exception("a subscriber behind deliver_on raised when it heard of the end, or has no on_error")

    def _drain(self) -> None:
        items, half, deliver = self._items, self._buffer // 2, self._observer.on_next
        looked, self._looked = self._looked, monotonic()
        busy = len(items) > BUSY * (self._looked - looked)
        try:
            for _ in range(BATCH):
                if self._over or self._paused or not items:
                    break
                deliver(items.popleft())
                if len(items) == half and self._demand is not None:
                    self._demand.resume()
        except Exception as error:  # its own error, once; the scheduler and the others notice nothing
            self._finish(error)
            return
        if not (busy and self._linger()):
            self._rest()

    def _linger(self) -> bool:
        """Whether the drain will look again by itself: so it does while its source is busy."""
        if not self._lingers or self._items or self._ended or self._over:
            return False
        try:
            self._scheduler.schedule_relative(LINGER, self._run)
        except DisposedException:
            return False
        return True

    def _rest(self) -> None:
        if not (items := self._items) and self._demand is not None:
            self._demand.resume()  # a buffer of one has no half
        with self._lock:
            self._scheduled = bool(items) and not (self._paused or self._over)
        if self._scheduled:
            self._schedule()
        elif self._ended and not items and not self._paused:
            self._finish(self._error)
        elif items or self._ended:
            self._wake()  # it came between the last look and the rest

    def _finish(self, error: Exception | None) -> None:
        if not self._over:
            self.cancel()
            if error is None:
                self._observer.on_completed()
            else:
                self._observer.on_error(error)

    # What a source must be able to do: the consumer of a hop may itself be slow.

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if self._items or self._ended:
            self._wake()

    def cancel(self) -> None:
        self._over = True
        self._items.clear()
        self._hops.pop(self, None)
        self._upstream.dispose()
