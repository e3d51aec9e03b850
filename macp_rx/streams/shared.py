"""One live call for all who subscribe to a session: nobody waits for another, and who comes late or falls behind catches up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from macp.v1.envelope_pb2 import Envelope
from reactivex import abc
from reactivex.disposable import SerialDisposable

from macp_rx.clock import Clock
from macp_rx.protocol.messages import Accepted
from macp_rx.streams.session import SessionStream
from macp_rx.streams.source import cold
from macp_rx.streams.status import Connection, Status, Statuses
from macp_rx.streams.stream import Demand, OneOfMany, tell_raised
from macp_rx.transport.base import subscribed_by
from macp_rx.transport.shared import SharedTransport

__all__ = ["WINDOW", "Shared"]

WINDOW: Final = 256
"""How many envelopes the call's subscribers share; whoever is farther behind gets a catch-up call of its own."""

Open = Callable[[int], SessionStream]
"""A session's stream from behind a sequence."""


class Shared:
    """Shares one live stream among its subscribers, and opens it for the first, and closes it with the last.

    RxPY's ``share`` does not: after an error it opens the source for a new subscriber and throws its items away (measured).

    Args:
        shared: what carries it.
        live: the stream that is shared.
        history: the finite stream that catches up.
        what: the name of each subscription in ``client.subscriptions``; the call that they share has none there.
    """

    def __init__(self, shared: SharedTransport, live: Open, history: Open, what: str) -> None:
        self._shared = shared
        self._clock = shared.clock
        self._live = live
        self._history = history
        self._what = what
        self._call: _SharedCall | None = None

    def stream(self, after_sequence: int = 0) -> SessionStream:
        """What is shared, from behind a sequence on: each subscriber has it all, in order, once.

        Its status tells when this subscriber has caught up, and what happens to the call that all share.

        subscribed  ^---!
        subscribed  --^----
        live calls  1-------
        """

        statuses = Statuses(self._clock)

        def start(observer: abc.ObserverBase[Accepted]) -> _Subscriber:
            subscriber = _Subscriber(self._joined(), observer, after_sequence, statuses)
            subscriber.start()
            return subscriber

        return SessionStream(cold(self._shared, start, self._what), self._shared.transport, statuses)

    def _joined(self) -> _SharedCall:
        if self._call is None or self._call.ended:
            self._call = _SharedCall(self._clock, self._live, self._history, self._what)
        return self._call


class _SharedCall(abc.ObserverBase[Accepted]):
    """The live call, the window of what came last, and who is subscribed."""

    def __init__(self, clock: Clock, live: Open, history: Open, what: str) -> None:
        # not what was made of them: to keep the decoded payloads too cost 0.5 us an item (measured)
        self.window: deque[Envelope] = deque(maxlen=WINDOW)
        self.head = -1
        self.ended = False
        self.caught_up = False
        self.error: Exception | None = None
        self.history = history
        self.clock = clock
        self._live = live
        self._together = f"all who share the {what}, together,"
        self._demand = Demand(clock)
        # replaced where one joins or leaves, as it is gone through for each item
        self._subscribers: tuple[_Subscriber, ...] = ()
        self._waiting = 0
        self._subscription = SerialDisposable()

    def join(self, subscriber: _Subscriber, after: int) -> None:
        self._subscribers = (*self._subscribers, subscriber)
        if self.head < 0:
            self.head = after
            with subscribed_by(self._together):
                live = self._live(after)
                live.status.subscribe(self._happened)
                self._subscription.disposable = live.attach(self, self._demand)
        else:
            self._weigh()

    def leave(self, subscriber: _Subscriber) -> None:
        if subscriber in self._subscribers:
            self._subscribers = tuple(other for other in self._subscribers if other is not subscriber)
            self._weigh()
            if not self._subscribers:
                self.ended = True
                self.window.clear()
                self._subscription.dispose()

    def pausing(self, change: int) -> None:
        """One more, or one fewer, of its subscribers waits; when all do, so does the call."""
        self._waiting += change
        self._weigh()

    def _weigh(self) -> None:
        if self._subscribers and self._waiting >= len(self._subscribers):
            self._demand.pause()
        else:
            self._demand.resume()

    def _happened(self, status: Status) -> None:
        self.caught_up = status.connection is Connection.CAUGHT_UP
        for subscriber in self._subscribers:
            subscriber.happened(status)

    def on_next(self, value: Accepted) -> None:
        self.window.append(value.envelope)
        self.head = value.sequence
        for subscriber in self._subscribers:
            subscriber.came(value)

    def on_error(self, error: Exception) -> None:
        self.error = error
        self.on_completed()

    def on_completed(self) -> None:
        self.ended = True
        for subscriber in self._subscribers:  # each on its own turn, so that what one raises keeps the end from nobody
            self.clock.run_later(0, subscriber.advance)


class _Subscriber:
    """One subscriber's place in what is shared."""

    def __init__(self, call: _SharedCall, observer: abc.ObserverBase[Accepted], after: int, statuses: Statuses) -> None:
        self._call = call
        self._observer = OneOfMany(observer, call.clock)
        self._sequence = after
        self._statuses = statuses
        self._paused = self._over = self._told = False
        self._catching_up: SerialDisposable | None = None
        self._demand = Demand(call.clock)

    def start(self) -> None:
        self._call.join(self, self._sequence)
        # later and not inside subscribe: an operator such as merge has not subscribed all its sources by then (measured)
        self._call.clock.run_later(0, self.advance)

    def cancel(self) -> None:
        if not self._over:
            self._over = True
            if self._paused:
                self._call.pausing(-1)
            self._call.leave(self)
            if self._catching_up is not None:
                self._catching_up.dispose()

    def pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._demand.pause()
            self._call.pausing(+1)

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._call.pausing(-1)
            self._demand.resume()
            self.advance()

    def came(self, accepted: Accepted) -> None:
        """The shared call has one more; if this subscriber has all before it, it is the next."""
        if accepted.sequence == self._sequence + 1 and not (self._over or self._paused or self._catching_up):
            self._deliver(accepted)
        else:
            self.advance()

    def happened(self, status: Status) -> None:
        """Something happened to the shared call; that it has caught up, this subscriber tells when it has, too."""
        if status.connection is Connection.CAUGHT_UP:
            self.advance()
        else:
            self._statuses.tell(status)

    def advance(self) -> None:
        """Takes from the window what it can; what is no longer there comes by a call of its own."""
        call = self._call
        while not (self._over or self._paused or self._catching_up):
            wanted = self._sequence + 1
            if wanted > call.head:
                if call.caught_up and not self._told:
                    self._told = True
                    self._statuses.tell(Status(Connection.CAUGHT_UP, self._sequence))
                self._end_if_over()
                return
            missed = call.head - self._sequence
            if missed > len(call.window):
                self._catch_up()
                return
            self._deliver(Accepted(wanted, call.window[-missed]))

    def _deliver(self, accepted: Accepted) -> None:
        self._sequence = accepted.sequence
        try:
            self._observer.on_next(accepted)
        except Exception as error:  # its own error, once; the others notice nothing
            self.cancel()
            tell_raised(self._call.clock, self._observer, error)

    def _end_if_over(self) -> None:
        call = self._call
        if call.ended and not self._over:
            if call.error is not None:
                self._fail(call.error)
            else:
                self.cancel()
                self._observer.on_completed()

    def _fail(self, error: Exception) -> None:
        if not self._over:
            self.cancel()
            self._observer.on_error(error)

    def _catch_up(self) -> None:
        self._catching_up = SerialDisposable()
        history = self._call.history(self._sequence)
        self._catching_up.disposable = history.subscribe(
            self._caught, self._fail, self._caught_up, scheduler=self._demand
        )

    def _caught(self, accepted: Accepted) -> None:
        if accepted.sequence == self._sequence + 1 and not self._over:
            self._deliver(accepted)

    def _caught_up(self) -> None:
        self._catching_up = None
        self.advance()
