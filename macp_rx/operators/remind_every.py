"""remind_every: who has still not spoken, again and again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable

from macp_rx.errors import MacpSessionError
from macp_rx.operators.lift import clock_of, follow, lift, seconds_of
from macp_rx.operators.participation import Participation
from macp_rx.operators.roster import roster
from macp_rx.protocol.messages import Accepted

__all__ = ["remind_every"]


def remind_every(
    seconds: float | timedelta, participants: Collection[str], *, scheduler: abc.SchedulerBase | None = None
) -> Callable[[Observable[Accepted]], Observable[tuple[str, ...]]]:
    """Names those who have not spoken, each time so much time has passed, and completes when nobody is missing.

    What counts as speaking, ``participation`` says: behind ``of_type`` it names those who have not voted, say.

    Args:
        seconds: how long from the subscription to the first reminder, and from one to the next; more than 0.
        participants: who is expected to speak.
        scheduler: what counts the time; the stream's own clock by default.

    Marble:
        votes    -v-----w-|
        > mo.remind_every(0.002, ["alice", "bob", "carol"])
        missing  --a-a-a-a|
        a: "bob" in it or it == ("carol",)

        votes    -v---w----
        > mo.remind_every(0.002, ["alice", "bob"])
        missing  --a-a|
        a: it == ("bob",)
    """
    return missing_every("remind_every", seconds, participants, scheduler)


def missing_every(
    operator: str, seconds: float | timedelta, participants: Collection[str], scheduler: abc.SchedulerBase | None
) -> Callable[[Observable[Accepted]], Observable[tuple[str, ...]]]:
    """What ``remind_every`` and ``missing_after`` have in common; ``operator`` is which of them, for errors."""
    names = roster("participants", participants)
    period = seconds_of(seconds, operator)
    if period == 0:
        raise MacpSessionError(f"{operator} waits for some seconds, more than 0")

    def apply(source: Observable[Accepted]) -> Observable[tuple[str, ...]]:
        clock = clock_of(source, scheduler, operator)

        def subscribe(
            observer: abc.ObserverBase[tuple[str, ...]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            so_far = Participation((), names)
            timer = SerialDisposable()

            def wait() -> None:
                timer.disposable = clock.schedule_relative(period, remind)

            def remind(_scheduler: abc.SchedulerBase, _state: object) -> None:
                wait()  # first, so that whoever leaves on being reminded stops it
                observer.on_next(so_far.missing)

            def on_next(accepted: Accepted) -> None:
                nonlocal so_far
                so_far = so_far.plus(accepted)
                if so_far.complete:
                    observer.on_completed()

            wait()
            return CompositeDisposable(timer, follow(source, on_next, observer, scheduler))

        return lift(source, subscribe)

    return apply
