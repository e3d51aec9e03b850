"""Sources that a marble string drives: hot, cold, and misbehaving on purpose."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from macp.v1.envelope_pb2 import Envelope
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, Disposable

from macp_rx.clock import VirtualClock
from macp_rx.marbles import Mark, parse
from macp_rx.protocol.messages import MACP_VERSION, Accepted, Message
from macp_rx.streams.stream import Stream
from macp_rx.timeline import Completed, Failed, Next, Notification, Span

__all__ = ["SESSION_ID", "MarbleSource", "Said", "misbehaving", "said"]

SESSION_ID: Final = "00000000-0000-4000-8000-000000000000"
"""The session of every envelope that a marble test makes."""


class MarbleError(Exception):
    """What ``#`` stands for, unless the test says otherwise."""


@dataclass(frozen=True, slots=True)
class Said:
    """Stands in a legend for an accepted envelope: each time its name occurs, the next one of the lane.

    In an expectation it stands for any accepted envelope with this sender and this payload.

    Attributes:
        sender: who says it.
        message: what.
    """

    sender: str
    message: Message

    def accepted(self, sequence: int) -> Accepted:
        """The envelope at a position of the lane."""
        envelope = Envelope(
            macp_version=MACP_VERSION,
            mode=self.message.mode,
            message_type=self.message.message_type,
            message_id=f"m{sequence}",
            session_id=SESSION_ID,
            sender=self.sender,
            payload=self.message.payload_bytes,
        )
        return Accepted(sequence, envelope)

    def matches(self, value: object) -> bool:
        """Whether an accepted envelope says this."""
        if not isinstance(value, Accepted):
            return False
        accepted: Accepted = value  # pyright: ignore[reportUnknownVariableType]
        return (accepted.sender, accepted.mode) == (self.sender, self.message.mode) and bool(
            accepted.payload == self.message.payload
        )


def said(sender: str, message: Message) -> Said:
    """A legend entry: ``sender`` says ``message``, and the runtime accepts it."""
    return Said(sender, message)


Scheduled = tuple[int, Notification]


def scheduled(marks: Sequence[Mark], legend: Mapping[str, Any], error: Exception | None) -> list[Scheduled]:
    """What a lane's marks mean."""
    found: list[Scheduled] = []
    sequence = 0
    for mark in marks:
        if mark.what == "|":
            found.append((mark.time, Completed()))
        elif mark.what == "#":
            found.append((mark.time, Failed(error or legend.get("#") or MarbleError())))
        elif mark.what not in "^!":
            value = legend.get(mark.what, mark.what)
            if isinstance(value, Said):
                sequence += 1
                value = value.accepted(sequence)
            found.append((mark.time, Next(value)))
    return found


class MarbleSource(Stream[Any]):
    """An observable that says what a marble string says, and remembers its subscriptions.

    Args:
        name: for failures.
        notifications: what it says, and when.
        clock: under whose time.
        hot: it runs from the clock's start, whoever listens; a cold one runs from each subscription.
    """

    def __init__(self, name: str, notifications: Sequence[Scheduled], clock: VirtualClock, *, hot: bool) -> None:
        self.name: str = name
        self.spans: list[list[int | None]] = []
        self._notifications = notifications
        self._observers: list[abc.ObserverBase[Any]] = []
        self._virtual = clock
        super().__init__(Observable(self._join if hot else self._start), clock)
        if hot:
            self._schedule(lambda: tuple(self._observers))

    @property
    def subscriptions(self) -> tuple[Span, ...]:
        """When it was subscribed to, and when left."""
        return tuple(Span(self.name, begin or 0, end) for begin, end in self.spans)

    def _join(self, observer: abc.ObserverBase[Any], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
        self._observers.append(observer)

        def leave() -> None:
            if observer in self._observers:
                self._observers.remove(observer)

        return CompositeDisposable(Disposable(leave), self._span())

    def _start(self, observer: abc.ObserverBase[Any], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
        return CompositeDisposable(self._schedule(lambda: (observer,)), self._span())

    def _span(self) -> abc.DisposableBase:
        span: list[int | None] = [self._virtual.time, None]
        self.spans.append(span)

        def end() -> None:
            span[1] = self._virtual.time

        return Disposable(end)

    def _schedule(self, observers: Callable[[], Sequence[abc.ObserverBase[Any]]]) -> abc.DisposableBase:
        timers = CompositeDisposable()
        for time, notification in self._notifications:
            if time >= 0:
                timers.add(self._virtual.schedule_relative(time / 1e6, _telling(observers, notification)))
        return timers


def _telling(
    observers: Callable[[], Sequence[abc.ObserverBase[Any]]], notification: Notification
) -> abc.ScheduledAction[object]:
    def tell(_scheduler: abc.SchedulerBase, _state: object = None) -> None:
        for observer in observers():
            match notification:
                case Next(value):
                    observer.on_next(value)
                case Failed(error):
                    observer.on_error(error)
                case _:
                    observer.on_completed()

    return tell


def misbehaving(text: str, legend: Mapping[str, Any] | None = None, *, thread: bool = False) -> Observable[Any]:
    """A source that breaks the Rx contract: it says everything at once on subscribe, also what comes after the end.

    So ``"a|b|"`` is a late item and a second completion. An operator must let neither through.

    Args:
        text: what it says; times mean nothing.
        legend: what the names mean.
        thread: say it on another thread, and wait for that.
    """
    notifications = scheduled(parse(text), legend or {}, None)

    class Misbehaving(Observable[Any]):
        def subscribe(
            self, on_next: Any = None, on_error: Any = None, on_completed: Any = None, **_: Any
        ) -> Disposable:
            # not through Observable.subscribe, whose auto-detach would hide the misbehaviour
            given: Any = on_next
            observer = given if hasattr(given, "on_next") else _Plain(given, on_error, on_completed)

            def tell() -> None:
                for _time, notification in notifications:
                    _telling(lambda: (observer,), notification)(_NO_SCHEDULER, None)

            if thread:
                other = threading.Thread(target=tell)
                other.start()
                other.join()
            else:
                tell()
            return Disposable()

    return Misbehaving()


class _Plain(abc.ObserverBase[Any]):
    def __init__(self, on_next: Any, on_error: Any, on_completed: Any) -> None:
        self._next, self._error, self._completed = on_next, on_error, on_completed

    def on_next(self, value: Any) -> None:
        if self._next:
            self._next(value)

    def on_error(self, error: Exception) -> None:
        if self._error:
            self._error(error)

    def on_completed(self) -> None:
        if self._completed:
            self._completed()


_NO_SCHEDULER: Final[Any] = None
