"""within: something in time, or else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from typing import TypeVar, overload

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable

from macp_rx.errors import MacpTimeoutError
from macp_rx.operators.deciding import Undecided, Verdict
from macp_rx.operators.lift import clock_of, lift

__all__ = ["within"]

A = TypeVar("A")
B = TypeVar("B")


class _Nothing(Enum):
    FAIL = "fail"  # stands for "no otherwise": a timeout is an error


@overload
def within(
    seconds: float | timedelta, *, scheduler: abc.SchedulerBase | None = None
) -> Callable[[Observable[A]], Observable[A]]: ...
# Undecided has an overload of its own: mypy 2.4 cannot infer the general one in front of another generic operator.
@overload
def within(  # type: ignore[overload-overlap]
    seconds: float | timedelta, otherwise: Undecided, *, scheduler: abc.SchedulerBase | None = None
) -> Callable[[Observable[Verdict]], Observable[Verdict | Undecided]]: ...
@overload
def within(
    seconds: float | timedelta, otherwise: B, *, scheduler: abc.SchedulerBase | None = None
) -> Callable[[Observable[A]], Observable[A | B]]: ...


def within(
    seconds: float | timedelta, otherwise: B | _Nothing = _Nothing.FAIL, *, scheduler: abc.SchedulerBase | None = None
) -> Callable[[Observable[A]], Observable[A | B]]:
    """Passes the source on if its first item comes in time; else emits ``otherwise`` and completes.

    Counts from the subscription, once: not per item, as RxPY's ``timeout`` does.

    Args:
        seconds: how long to wait for the first item.
        otherwise: what to say when none came; without it the stream fails with MacpTimeoutError.
        scheduler: what counts the time; the stream's own clock by default.

    Marble:
        items    --a--b-|
        > mo.within(0.005)
        result   --a--b-|

        items    --------a-|
        > mo.within(0.005, otherwise="late")
        result   -----(late |)

        items    --------a-|
        > mo.within(0.005)
        result   -----#
        #: type(it).__name__ == "MacpTimeoutError"
    """

    def operator(source: Observable[A]) -> Observable[A | B]:
        clock = clock_of(source, scheduler, "within")

        def subscribe(
            observer: abc.ObserverBase[A | B], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            running = CompositeDisposable()

            def give_up(_scheduler: abc.SchedulerBase, _state: object) -> None:
                running.dispose()
                if isinstance(otherwise, _Nothing):
                    observer.on_error(MacpTimeoutError(f"nothing came within {seconds} s"))
                else:
                    observer.on_next(otherwise)
                    observer.on_completed()

            timer = clock.schedule_relative(seconds, give_up)

            def on_next(item: A) -> None:
                timer.dispose()
                observer.on_next(item)

            def on_error(error: Exception) -> None:
                timer.dispose()
                observer.on_error(error)

            def on_completed() -> None:
                timer.dispose()
                observer.on_completed()

            running.add(timer)
            running.add(source.subscribe(on_next, on_error, on_completed, scheduler=scheduler))
            return running

        return lift(source, subscribe)

    return operator
