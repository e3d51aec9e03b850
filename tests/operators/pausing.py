"""A source that says nothing, and knows whether it was told to wait."""

from __future__ import annotations

from typing import Any

from reactivex import Observable, abc
from reactivex.disposable import Disposable

from macp_rx import Stream
from macp_rx.clock import VirtualClock
from macp_rx.streams.stream import on_demand

__all__ = ["Pausing"]


class Pausing:
    """The source; ``stream`` is what to subscribe to.

    Args:
        clock: what it lives on.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.waits = False
        self.stream: Stream[Any] = Stream(Observable(self._subscribe), clock, can_wait=True)

    def _subscribe(self, observer: abc.ObserverBase[Any], scheduler: abc.SchedulerBase | None = None) -> Disposable:
        return Disposable(on_demand(self, scheduler))

    def pause(self) -> None:
        self.waits = True

    def resume(self) -> None:
        self.waits = False

    def cancel(self) -> None:
        self.waits = False
