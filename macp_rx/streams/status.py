"""What happens to the connection behind a session stream, told beside the stream."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial

from reactivex import abc
from reactivex.disposable import Disposable

from macp_rx.clock import Clock
from macp_rx.streams.stream import tell_raised

__all__ = ["Connection", "Status", "Statuses"]


class Connection(Enum):
    """What became of the connection behind a session stream."""

    CONNECTED = "connected"
    CAUGHT_UP = "caught up"
    LOST = "lost"
    RECONNECTING = "reconnecting"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class Status:
    """Something that happened to the connection behind a session stream, told beside it.

    Attributes:
        connection: what.
        sequence: the last sequence that was delivered by then.
        error: why the connection was lost.
        missing: how many envelopes a gap has swallowed.
    """

    connection: Connection
    sequence: int
    error: Exception | None = None
    missing: int = 0


class Statuses:
    """Who listens to the side channel.

    Args:
        clock: what everything of it happens on.
    """

    __slots__ = ("_clock", "_observers")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._observers: tuple[abc.ObserverBase[Status], ...] = ()

    def subscribe(
        self, observer: abc.ObserverBase[Status], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        """Lets an observer hear what happens from now on."""
        self._observers = (*self._observers, observer)
        return Disposable(partial(self._leave, observer))

    def _leave(self, observer: abc.ObserverBase[Status]) -> None:
        self._observers = tuple(other for other in self._observers if other is not observer)

    def tell(self, status: Status) -> None:
        """Tells everybody. One that raises hears its own error, and no more."""
        for observer in self._observers:
            try:
                observer.on_next(status)
            except Exception as raised:
                self._leave(observer)
                tell_raised(self._clock, observer, raised)
