"""within: something in time, or else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from typing import Final, TypeVar, overload

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable

from macp_rx.errors import MacpTimeoutError
from macp_rx.operators.deciding import Undecided, Verdict
from macp_rx.operators.lift import clock_of, lift, seconds_of

__all__ = ["FAIL", "Fail", "first_or_else", "within"]

A = TypeVar("A")
B = TypeVar("B")


class Fail(Enum):
    """Stands for "no otherwise": a timeout is an error."""

    FAIL = "fail"


FAIL: Final = Fail.FAIL

Arm = Callable[[abc.ScheduledAction[object]], abc.DisposableBase]
"""Starts a timer."""


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
    seconds: float | timedelta, otherwise: B | Fail = FAIL, *, scheduler: abc.SchedulerBase | None = None
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
    limit = seconds_of(seconds, "within")

    def operator(source: Observable[A]) -> Observable[A | B]:
        clock = clock_of(source, scheduler, "within")

        def arm(give_up: abc.ScheduledAction[object]) -> abc.DisposableBase:
            return clock.schedule_relative(limit, give_up)

        return first_or_else(source, arm, otherwise, f"nothing came within {seconds} s")

    return operator


def first_or_else(source: Observable[A], arm: Arm, otherwise: B | Fail, late: str) -> Observable[A | B]:
    """The source, if its first item comes before a timer; what ``within`` and ``deadline`` have in common.

    Args:
        source: what they are applied to.
        arm: starts the timer.
        otherwise: what to say when it was first; FAIL for an error.
        late: what the error says.
    """

    def subscribe(observer: abc.ObserverBase[A | B], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
        running = CompositeDisposable()

        def give_up(_scheduler: abc.SchedulerBase, _state: object) -> None:
            running.dispose()
            if isinstance(otherwise, Fail):
                observer.on_error(MacpTimeoutError(late))
            else:
                observer.on_next(otherwise)
                observer.on_completed()

        timer = arm(give_up)

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
