"""What clients that share a transport share: the transport, who waits on it, and its end."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from datetime import datetime
from functools import partial

from reactivex.internal import noop

from macp_rx.clock import Clock
from macp_rx.errors import MacpClosedError
from macp_rx.transport.base import SUBSCRIBER, Transport, called
from macp_rx.transport.telemetry import OFF, ConnectionTelemetry

__all__ = ["SharedTransport", "Subscription"]


class Subscription:
    """One subscription that runs.

    Attributes:
        what: what it is subscribed to.
        since: since when.
    """

    __slots__ = ("_subscriber", "since", "what")

    def __init__(self, what: str, subscriber: object, since: datetime) -> None:
        self.what: str = what
        self.since: datetime = since
        self._subscriber = subscriber

    @property
    def who(self) -> str:
        """Who is subscribed: the callback's name, and where it is written."""
        return called(self._subscriber)

    def __repr__(self) -> str:
        return f"Subscription({self.what} by {self.who} since {self.since:%H:%M:%S})"


class SharedTransport:
    """One transport and its end, which leaves nobody waiting.

    Args:
        transport: what carries the calls.
        release: called after the transport's end, once.
        telemetry: what its calls report to.
    """

    def __init__(self, transport: Transport, release: Callable[[], None], telemetry: ConnectionTelemetry = OFF) -> None:
        self.transport = transport
        self.telemetry = telemetry
        self._release = release
        self._running: dict[Subscription, Callable[[], None]] = {}
        self._waiting: dict[object, Callable[[Exception], None]] = {}
        self._lock = threading.RLock()  # the garbage collector may come while it is held, and end a client
        self._clients = 0
        self._closing = False
        self._closed = threading.Event()
        self._after: list[Callable[[], None]] = []

    @property
    def clock(self) -> Clock:
        """What everything on it runs on."""
        return self.transport.clock

    def used_by(self, client: object) -> None:
        """Ends it when the last client that uses it was collected without a close: its calls end, and the I/O thread can."""
        with self._lock:
            self._clients += 1
        weakref.finalize(client, self._collected).atexit = False

    def _collected(self) -> None:
        with self._lock:
            self._clients -= 1
            last = not self._clients and not self._closing
        if last:
            self._begin(self._release, noop)

    def check_open(self) -> None:
        """Raises MacpClosedError once it is closed."""
        if self._closing:
            raise MacpClosedError("the client is closed")

    def running(self, what: str, cancel: Callable[[], None]) -> Callable[[], None]:
        """Lists a subscription as long as it runs. Called on the clock's thread, when its call starts.

        Args:
            what: what it is subscribed to.
            cancel: what ends it.

        Returns:
            What ends it, and takes it off the list; the connection's close ends it, too.
        """
        subscription = Subscription(what, SUBSCRIBER.get(), self.clock.now)
        self._running[subscription] = cancel
        return partial(self._run_out, subscription, cancel)

    def _run_out(self, subscription: Subscription, cancel: Callable[[], None]) -> None:
        self._running.pop(subscription, None)
        cancel()

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """What runs on it now, oldest first."""
        return tuple(self._running)

    def waited_on(self, lose: Callable[[Exception], None]) -> Callable[[], None]:
        """Registers somebody who waits for what a call on it says. Called on the clock's thread.

        A close is silence for those who subscribed, as their own dispose is; who waits would wait for ever.

        Args:
            lose: hears MacpClosedError when it is closed.

        Returns:
            A function that takes it back.
        """
        key = object()
        self._waiting[key] = lose

        def forget() -> None:
            self._waiting.pop(key, None)

        return forget

    def close(self) -> None:
        """Closes it. Nothing is left on return, except on the clock's own thread, where it cannot wait."""
        clock = self.clock
        if clock.on_own_thread():
            self._begin(self._release, noop)
        else:
            first = self._begin(noop, noop)
            clock.wait(self._closed)
            if first:
                self._release()

    async def aclose(self) -> None:
        """The same without blocking the running loop; nothing is left afterwards."""
        if not self.clock.runs_by_itself:  # nobody but us would let its time pass
            self.close()
            return
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def end() -> None:
            loop.call_soon_threadsafe(ended.set_result, None)

        first = self._begin(end, end)
        await ended
        if first:
            self._release()

    def _begin(self, then: Callable[[], None], otherwise: Callable[[], None]) -> bool:
        """Starts closing, unless that was done before.

        Args:
            then: called at the end by the first close.
            otherwise: called at the end by every other.

        Returns:
            Whether this was the first.
        """
        with self._lock:
            first, self._closing = not self._closing, True
            ended = self._closed.is_set()
            if not ended:
                self._after.append(then if first else otherwise)
        if ended:
            otherwise()
        elif first:
            try:
                self.clock.run_soon(self._end)
            except MacpClosedError:  # the loop was handed over and is closed: so is every call on it
                self._ended()
        return first

    def _end(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for lose in waiting.values():
            lose(MacpClosedError("the client was closed while this waited"))
        self.telemetry.closed()
        running, self._running = self._running, {}
        for cancel in running.values():
            cancel()
        self.transport.close(self._ended)

    def _ended(self) -> None:
        with self._lock:
            self._closed.set()
            after, self._after = self._after, []
        for then in after:
            then()
