"""retry_with_backoff: again, a little later, as long as there is hope."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from reactivex import Observable

from macp_rx.clock import Clock
from macp_rx.errors import MacpSessionError
from macp_rx.operators.lift import clock_of, like
from macp_rx.streams.retry import RetryPolicy, is_transient, retried

__all__ = ["retry_with_backoff"]

A = TypeVar("A")


def retry_with_backoff(
    policy: RetryPolicy | None = None,
    *,
    when: Callable[[Exception], bool] = is_transient,
    scheduler: Clock | None = None,
) -> Callable[[Observable[A]], Observable[A]]:
    """Subscribes again after an error that may pass, with growing pauses; what has come stays, what comes again comes again.

    Each item is progress, after which the pauses begin anew. RxPY's ``retry`` waits for nothing, and takes ``retry(0)`` for a
    clean end. Put ``shared`` behind it, not before it. A session's streams need none of this: they reconnect by themselves,
    and go on where they were.

    Args:
        policy: how soon, and when to give up; by default from 0.1 s up to 1 s, for 300 s.
        when: which errors may pass; by default those that the protocol calls transient, and calls that broke.
        scheduler: whose time and chance it takes; the stream's own clock by default.

    Errors:
        The source's, if it cannot pass, or when it is time to give up.

    Marble:
        replies  -a-#---b-|
        > mo.retry_with_backoff(RetryPolicy(first=0.002, cap=0.002), when=lambda error: True)
        result   -a-----b-|

        replies  -a-#
        > mo.retry_with_backoff()
        result   -a-#
    """
    how = policy or RetryPolicy()

    def operator(source: Observable[A]) -> Observable[A]:
        clock = clock_of(source, scheduler, "retry_with_backoff")
        if not isinstance(clock, Clock):
            raise MacpSessionError("retry_with_backoff takes time and chance from a Clock: scheduler=client.clock")

        return like(source, retried(source, how, clock, when))

    return operator
