"""deadline: something by then, or else."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar, overload

from reactivex import Observable, abc

from macp_rx.errors import MacpSessionError
from macp_rx.operators.deciding import Undecided, Verdict
from macp_rx.operators.lift import clock_of
from macp_rx.operators.within import FAIL, Fail, first_or_else

__all__ = ["deadline"]

A = TypeVar("A")
B = TypeVar("B")


@overload
def deadline(
    at: datetime | float, *, scheduler: abc.SchedulerBase | None = None
) -> Callable[[Observable[A]], Observable[A]]: ...
@overload  # as for `within`
def deadline(  # type: ignore[overload-overlap]
    at: datetime | float, otherwise: Undecided, *, scheduler: abc.SchedulerBase | None = None
) -> Callable[[Observable[Verdict]], Observable[Verdict | Undecided]]: ...
@overload
def deadline(
    at: datetime | float, otherwise: B, *, scheduler: abc.SchedulerBase | None = None
) -> Callable[[Observable[A]], Observable[A | B]]: ...


def deadline(
    at: datetime | float, otherwise: B | Fail = FAIL, *, scheduler: abc.SchedulerBase | None = None
) -> Callable[[Observable[A]], Observable[A | B]]:
    """Passes the source on if its first item comes by then; else emits ``otherwise`` and completes.

    As ``within``, but until a moment and not for a time: whoever subscribes later has less of it, or none.

    Args:
        at: until when: a datetime with its time zone, or Unix seconds.
        otherwise: what to say when nothing came; without it the stream fails with MacpTimeoutError.
        scheduler: what tells the time; the stream's own clock by default.

    Marble:
        items    --a--b-|
        > mo.deadline(clock.now + timedelta(milliseconds=5))
        result   --a--b-|

        items    --------a-|
        > mo.deadline(clock.now + timedelta(milliseconds=5), otherwise="late")
        result   -----(late |)
    """
    if isinstance(at, datetime) and at.tzinfo is None:
        raise MacpSessionError(f"deadline at {at}: in which time zone? Say datetime(…, tzinfo=UTC), or Unix seconds")
    if not isinstance(at, datetime) and not (isinstance(at, int | float) and math.isfinite(at)):
        raise MacpSessionError(f"a deadline is a datetime with its time zone, or Unix seconds, not {at!r}")

    def operator(source: Observable[A]) -> Observable[A | B]:
        clock = clock_of(source, scheduler, "deadline")

        def arm(give_up: abc.ScheduledAction[object]) -> abc.DisposableBase:
            return clock.schedule_absolute(at, give_up)

        return first_or_else(source, arm, otherwise, f"nothing came by {at}")

    return operator
