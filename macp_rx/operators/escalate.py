"""escalate: somebody else as well, when no answer comes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable

from macp_rx.operators.lift import clock_of, lift, outlive, seconds_of

__all__ = ["escalate"]

A = TypeVar("A")
B = TypeVar("B")


def escalate(
    after: float | timedelta, to: Observable[B], *, scheduler: abc.SchedulerBase | None = None
) -> Callable[[Observable[A]], Observable[A | B]]:
    """Passes the source on, and beside it what ``to`` says, if the source has said nothing for so long.

    The source is still heard: an answer that comes late is an answer. ``to`` is subscribed to when the time has passed, and
    not before. It completes when both have; without an escalation, with the source.

    Args:
        after: seconds from the subscription.
        to: who is asked then: an agent's messages, one message (``rx.of(message)``), another verdict.
        scheduler: what counts the time; the stream's own clock by default.

    Marble:
        verdict  ------V-|
        > mo.escalate(0.003, to=cold("-ask-|"))
        result   ----ask-V-|

        verdict  -V----|
        > mo.escalate(0.003, to=cold("-ask-|"))
        result   -V----|
    """
    patience = seconds_of(after, "escalate")

    def operator(source: Observable[A]) -> Observable[A | B]:
        clock = clock_of(source, scheduler, "escalate")

        def subscribe(
            observer: abc.ObserverBase[A | B], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            timer = SerialDisposable()
            running = CompositeDisposable(timer)
            open_streams = 1

            def ask(_scheduler: abc.SchedulerBase, _state: object) -> None:
                nonlocal open_streams
                open_streams += 1
                running.add(outlive(to, observer.on_next, observer.on_error, complete, scheduler))

            def on_next(item: A) -> None:
                timer.dispose()
                observer.on_next(item)

            def on_completed() -> None:
                timer.dispose()
                complete()

            def complete() -> None:
                nonlocal open_streams
                open_streams -= 1
                if not open_streams:
                    observer.on_completed()

            timer.disposable = clock.schedule_relative(patience, ask)
            running.add(outlive(source, on_next, observer.on_error, on_completed, scheduler))
            return running

        return lift(source, subscribe)

    return operator
