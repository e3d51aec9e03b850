"""silence: nobody has spoken for a while."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable

from macp_rx.operators.lift import clock_of, follow, lift, seconds_of

__all__ = ["silence"]

A = TypeVar("A")


def silence(
    seconds: float | timedelta, *, scheduler: abc.SchedulerBase | None = None
) -> Callable[[Observable[A]], Observable[A | None]]:
    """Emits when nothing has come for so long, once for each silence: the last item before it, None if there was none.

    Unlike RxPY's ``debounce`` it also hears the silence before the first item, and takes the end of the source for no silence.

    Args:
        seconds: how long nothing must have come.
        scheduler: what counts the time; the stream's own clock by default.

    Marble:
        items    ----a-b-------|
        > mo.silence(0.003)
        silent   ---N-----b----|
        N: it is None
    """
    quiet = seconds_of(seconds, "silence")

    def operator(source: Observable[A]) -> Observable[A | None]:
        clock = clock_of(source, scheduler, "silence")

        def subscribe(
            observer: abc.ObserverBase[A | None], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            timer = SerialDisposable()

            def listen(last: A | None) -> None:
                def tell(_scheduler: abc.SchedulerBase, _state: object) -> None:
                    observer.on_next(last)

                timer.disposable = clock.schedule_relative(quiet, tell)

            listen(None)
            return CompositeDisposable(follow(source, listen, observer, scheduler), timer)

        return lift(source, subscribe)

    return operator
