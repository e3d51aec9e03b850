"""until_ttl: as long as a session lives."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final, TypeVar

from macp.v1.core_pb2 import SessionMetadata
from macp.v1.envelope_pb2 import SessionState
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable

from macp_rx.operators.lift import clock_of, follow, lift, seconds_of

__all__ = ["until_ttl"]

A = TypeVar("A")

SUSPENDED: Final = SessionState.SESSION_STATE_SUSPENDED
ALIVE: Final = (SessionState.SESSION_STATE_OPEN, SUSPENDED)

ASK_AGAIN: Final = 1.0
"""Seconds after which a suspended session is asked about again: its deadline stands still, for nobody knows how long."""


def until_ttl(
    metadata: Callable[[], Observable[SessionMetadata]],
    *,
    margin: float | timedelta = 0.0,
    scheduler: abc.SchedulerBase | None = None,
) -> Callable[[Observable[A]], Observable[A]]:
    """Passes the source on until a session's deadline, or so long before it, and completes.

    For what must be said while the session still takes it. It asks at the beginning, and again when the time seems to have
    come: a session that was suspended meanwhile has more of it. It also completes when the session has ended otherwise.

    Args:
        metadata: asks for the session's metadata: ``session.rx.metadata``.
        margin: how long before the deadline, in seconds.
        scheduler: what tells the time; the stream's own clock by default.

    Errors:
        What a question failed with; ``lambda: session.rx.metadata().pipe(mo.retry_with_backoff())`` asks again.

    Marble:
        items    -a--b----c-
        > mo.until_ttl(lambda: rx.of(metadata(expires_at=0.008)), margin=0.002)
        result   -a--b-|
    """
    before = seconds_of(margin, "until_ttl")

    def operator(source: Observable[A]) -> Observable[A]:
        clock = clock_of(source, scheduler, "until_ttl")

        def subscribe(observer: abc.ObserverBase[A], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
            question, timer = SerialDisposable(), SerialDisposable()

            def ask(*_: object) -> None:
                try:
                    answers = metadata()
                except Exception as error:  # a timer calls this, where nobody would hear it
                    observer.on_error(error)
                    return
                question.disposable = answers.subscribe(answered, observer.on_error, scheduler=scheduler)

            def answered(session: SessionMetadata) -> None:
                left = session.expires_at_unix_ms / 1000 - before - clock.now.timestamp()
                if session.state == SUSPENDED:
                    left = max(left, ASK_AGAIN)
                if session.state not in ALIVE or left <= 0:
                    observer.on_completed()
                else:
                    timer.disposable = clock.schedule_relative(left, ask)

            subscription = follow(source, observer.on_next, observer, scheduler)
            ask()
            return CompositeDisposable(subscription, question, timer)

        return lift(source, subscribe)

    return operator
