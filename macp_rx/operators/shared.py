"""shared: one subscription for all who subscribe."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from reactivex import Observable, abc
from reactivex.disposable import Disposable, SerialDisposable

from macp_rx.clock import Clock
from macp_rx.operators.lift import lift
from macp_rx.streams.stream import Demand, OneOfMany, Stream, on_demand, tell_end, tell_raised

__all__ = ["shared"]

A = TypeVar("A")


def shared() -> Callable[[Observable[A]], Observable[A]]:
    """Subscribes to the source once for all who subscribe at a time: for the first, until the last has left.

    Who comes later hears what comes from then on. When the source has ended, by an error too, the next to subscribe makes it
    begin anew: RxPY's ``share`` would open it again and throw away what it says. What one subscriber raises is its own error,
    and the others go on. Where the source can wait, it waits for the slowest. ``session.events`` is shared already, and lets
    nobody wait for another.

    Marble:
        items   -a-b-|
        > rx.compose(mo.shared(), lambda source: rx.merge(source, source))
        result  -(a a)-(b b)-|
    """

    def operator(source: Observable[A]) -> Observable[A]:
        return lift(source, _Sharing(source).subscribe)

    return operator


class _Sharing(Generic[A]):
    def __init__(self, source: Observable[A]) -> None:
        self.source = source
        self.clock = source.clock if isinstance(source, Stream) else None
        self.run: _Run[A] | None = None
        self.lock = threading.Lock()  # for plain observables: subscribers of a Stream all come on its clock's thread

    def subscribe(
        self, observer: abc.ObserverBase[A], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        with self.lock:
            first = self.run is None
            run = self.run = self.run or _Run(self)
            member = _Member(run, observer, scheduler, self.clock)
            run.members = (*run.members, member)
        leave = on_demand(member, scheduler)
        if first:
            run.start()
        return Disposable(leave)


class _Run(abc.ObserverBase[A]):
    """One subscription to the source, and for whom."""

    def __init__(self, sharing: _Sharing[A]) -> None:
        self.members: tuple[_Member[A], ...] = ()
        self._sharing = sharing
        self._subscription = SerialDisposable()
        self._demand = Demand(sharing.clock, self._lose) if sharing.clock is not None else None

    def start(self) -> None:
        self._subscription.disposable = self._sharing.source.subscribe(self, scheduler=self._demand)

    def on_next(self, value: A) -> None:
        failed = [(member, error) for member in self.members if (error := member.deliver(value)) is not None]
        for member, error in failed:  # when all have heard it: one that has no on_error raises again
            if (clock := self._sharing.clock) is not None:
                tell_raised(clock, member.observer, error)
            else:
                member.observer.on_error(error)

    def on_error(self, error: Exception) -> None:
        tell_end([member.observer for member in self._end()], error)

    def on_completed(self) -> None:
        tell_end([member.observer for member in self._end()], None)

    def leave(self, member: _Member[A]) -> None:
        with self._sharing.lock:
            self.members = tuple(one for one in self.members if one is not member)
            last = not self.members
        if last:
            self._end()
            self._subscription.dispose()
        else:
            self.weigh()

    def weigh(self) -> None:
        """The source waits as long as one of them does."""
        if self._demand is not None:
            if any(member.waits for member in self.members):
                self._demand.pause()
            else:
                self._demand.resume()

    def _end(self) -> tuple[_Member[A], ...]:
        """Forgets everybody, so that whoever subscribes on hearing of the end begins anew; returns who they were."""
        with self._sharing.lock:
            if self._sharing.run is self:
                self._sharing.run = None
            members, self.members = self.members, ()
        return members

    def _lose(self, error: Exception) -> None:
        for member in self.members:
            if isinstance(member.scheduler, Demand):
                member.scheduler.lose(error)


class _Member(Generic[A]):
    """One subscriber."""

    def __init__(
        self,
        run: _Run[A],
        observer: abc.ObserverBase[A],
        scheduler: abc.SchedulerBase | None,
        clock: Clock | None,
    ) -> None:
        self.observer = observer if clock is None else OneOfMany(observer, clock)
        self.scheduler = scheduler
        self.waits = False
        self._run = run

    def deliver(self, value: A) -> Exception | None:
        """Hands it on; returns what the subscriber raises, who then hears no more of it."""
        try:
            self.observer.on_next(value)
        except Exception as error:
            self.cancel()
            return error
        return None

    def pause(self) -> None:
        self.waits = True
        self._run.weigh()

    def resume(self) -> None:
        self.waits = False
        self._run.weigh()

    def cancel(self) -> None:
        self._run.leave(self)
