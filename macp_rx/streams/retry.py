"""When to try again, how soon, and when to give up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable

from macp_rx.clock import Clock
from macp_rx.errors import MacpClosedError, MacpRefusedError, MacpSessionError, MacpTransportError
from macp_rx.transport.base import Transport

__all__ = ["FOR_EVER", "MOMENT", "RECONNECT", "Backoff", "RetryPolicy", "is_transient", "retried"]

T = TypeVar("T")

TRANSIENT_CODES: Final = frozenset({"STREAM_LAGGED", "RATE_LIMITED", "INTERNAL_ERROR"})
"""Codes of the registry that may pass by themselves (`protocol.md` 9.1); every other is the answer."""

TRANSIENT_STATUSES: Final = frozenset({"UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED", "ABORTED"})
"""Statuses that say, without a code of the registry, that the call broke: a cut, a reset, a GOAWAY, a server that stops."""

MOMENT: Final = 1e-6
"""Seconds; a wait that is shorter is none to a virtual clock, and so would be waited again and again."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How soon to try again, and for how long: capped exponential backoff, spread by jitter.

    Attributes:
        first: seconds before the first retry, at most.
        cap: seconds between two retries, at most.
        give_up_after: seconds without any progress after which the error is told; it counts anew from each success.
        first_contact: the same where nobody has ever answered: long enough for a server that is just starting, and short
            for whoever has the address wrong.
    """

    first: float = 0.1
    cap: float = 1.0
    give_up_after: float = 300.0
    first_contact: float = 10.0

    def __post_init__(self) -> None:
        if not (0 < self.first <= self.cap and self.give_up_after >= 0 and self.first_contact >= 0):
            raise MacpSessionError(
                f"{self}: 0 < first <= cap, give_up_after >= 0 and first_contact >= 0 must hold, in seconds"
            )


RECONNECT: Final = RetryPolicy(first=0.05, cap=0.5)
"""How a stream that broke is opened again."""

FOR_EVER: Final = replace(RECONNECT, give_up_after=float("inf"))
"""The same for what nobody waits for, and has nobody to tell."""


class Backoff:
    """The retries of one piece of work.

    Args:
        policy: how soon, and for how long.
        clock: its time and its jitter.
        transport: where it is tried; without one, somebody has answered there before.
    """

    __slots__ = ("_clock", "_policy", "_since", "_transport", "attempts")

    def __init__(self, policy: RetryPolicy, clock: Clock, transport: Transport | None = None) -> None:
        self._policy = policy
        self._clock = clock
        self._transport = transport
        self._since = 0.0
        self.attempts: int = 0
        """How many retries there were since the last success."""

    @property
    def limit(self) -> float:
        """Seconds without success after which it is time to give up."""
        policy = self._policy
        if self._transport is None or self._transport.reached:
            return policy.give_up_after
        return min(policy.give_up_after, policy.first_contact)

    @property
    def left(self) -> float:
        """Seconds from now until then."""
        return max(0.0, self._since + self.limit - self._clock.seconds)

    def next(self) -> float | None:
        """Seconds to wait before the next try; None if it is time to give up."""
        if not self.attempts:
            self._since = self._clock.seconds
        left = self.left
        if left < MOMENT:
            return None
        longest = min(self._policy.cap, self._policy.first * 2.0 ** min(self.attempts, 30))
        self.attempts += 1
        # half of it is chance, so that what failed together does not come back together
        return min(left, longest * (0.5 + self._clock.jitter() / 2))

    def reset(self) -> None:
        """Notes a success."""
        self.attempts = 0


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later, and is worth a retry under the same message id."""
    if isinstance(error, MacpRefusedError):
        return error.code in TRANSIENT_CODES
    if isinstance(error, MacpTransportError):
        return error.code in TRANSIENT_CODES or (not error.code and error.status in TRANSIENT_STATUSES)
    return False


def retried(
    source: Observable[T],
    policy: RetryPolicy,
    clock: Clock,
    when: Callable[[Exception], bool] = is_transient,
    transport: Transport | None = None,
) -> Observable[T]:
    """Subscribes to a source again after an error that may pass, with growing pauses; each item is progress.

        source   ---#    ---a|
        retried  -----------a|

    Args:
        source: what is subscribed to.
        policy: how soon, and when to give up.
        clock: whose time and chance it takes.
        when: which errors may pass.
        transport: where it is tried, if the caller knows; see `Backoff`.
    """

    def subscribe(observer: abc.ObserverBase[T], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
        # two: a source that fails inside subscribe has its pause running by the time its subscription comes back
        subscription, pause = SerialDisposable(), SerialDisposable()
        backoff = Backoff(policy, clock, transport)

        def attempt() -> None:
            subscription.disposable = source.subscribe(on_next, on_error, observer.on_completed, scheduler=scheduler)

        def on_next(item: T) -> None:
            backoff.reset()
            observer.on_next(item)

        def on_error(error: Exception) -> None:
            if isinstance(error, MacpClosedError) and backoff.attempts:
                return  # silently, as every call of the client has ended
            try:
                seconds = backoff.next() if when(error) else None
            except Exception as wrong:
                observer.on_error(wrong)
                return
            if seconds is None:
                observer.on_error(error)
            else:
                pause.disposable = clock.run_later(seconds, attempt)

        attempt()
        return CompositeDisposable(subscription, pause)

    return Observable(subscribe)
