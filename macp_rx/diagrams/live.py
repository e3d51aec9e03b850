"""live: a session, or any stream, watched in a notebook's cell while it runs.

    live(session)          # the cell is done and its picture goes on, while later cells speak in the session
    await live(session)    # the cell lasts until the session has ended; interrupt it, and it watches no longer

What is heard comes on the client's thread. It is drawn on the kernel's own loop, which runs while a cell awaits and between
cells. So a cell that blocks holds the picture up, and the picture then has everything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, cast
from weakref import WeakKeyDictionary, WeakSet

from reactivex import Observable, abc
from reactivex.disposable import SerialDisposable

from macp_rx.clock import Clock, LoopClock
from macp_rx.diagrams.cards import Card
from macp_rx.diagrams.lanes import svg
from macp_rx.diagrams.notebook import register
from macp_rx.diagrams.picture import Svg
from macp_rx.errors import MacpClosedError, MacpSessionError
from macp_rx.protocol.messages import Accepted
from macp_rx.session import Session
from macp_rx.streams.outcome import Outcome
from macp_rx.streams.stream import Demand, Stream, stream
from macp_rx.timeline import Completed, Event, Next, Timeline

__all__ = ["EVERY", "Live", "live"]

EVERY: Final = 0.1
"""Seconds between two updates at the least: nobody sees more than ten a second, and each is a message to the browser."""

SHARE: Final = 0.1
"""So much of the kernel's time is for drawing at the most: where a picture takes long to draw, it is drawn less often."""

LOOK: Final = 0.25
"""Seconds: a kernel that is interrupted while its loop waits notices when something else wakes it (measured, ipykernel 7.4)."""

LIVE: Final = "live"

LINES: Final = 50
"""So many lines at the most where there are no pictures."""

_log = logging.getLogger("macp_rx.diagrams.live")


def live(what: Session | Observable[object]) -> Live:
    """Shows what a session or a stream says, in this cell, while it says it.

    A session is a picture that grows, and so is a stream of what was accepted. Of any other stream the newest item is shown,
    such as a tally. It stays in its cell, and is updated ten times a second at most, and at its end. A cell that is run again
    ends what it watched.

    Args:
        what: a session; or a stream, such as ``session.tally`` or ``client.all_events()``.

    Returns:
        Await it, and the cell lasts until the end. Dispose it, and it watches no longer. Otherwise it goes on.

    Errors:
        What the stream failed with, where it is awaited; logged otherwise. MacpClosedError where the client was closed.

    Raises:
        MacpSessionError: this is no notebook.
    """
    shell = _shell()
    from IPython.display import DisplayHandle

    register(shell)
    watch = Live(what, DisplayHandle())  # type: ignore[no-untyped-call]
    _watches(shell).setdefault(_cell(shell), WeakSet()).add(watch)
    watch.start()
    return watch


class Live(abc.DisposableBase):
    """What `live` has begun. Made, awaited and drawn on the kernel's loop; may be disposed on any thread.

    Args:
        what: a session, or a stream.
        display: IPython's handle of a place in the cell.
    """

    def __init__(self, what: Session | Observable[object], display: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._context: Context = copy_context()  # by which the kernel knows whose output it is
        self._source: Stream[Any] = _source(what, LoopClock(self._loop))
        self._view = _View(self._source.clock, isinstance(what, Session))
        self._display = display
        self._subscription = SerialDisposable()
        self._is_told = False  # the loop will look what is new
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._loop.time() + EVERY  # the loop's time of the next update at the earliest
        self._state = LIVE
        self._error: Exception | None = None
        self._is_awaited = False
        self._end: asyncio.Future[None] = self._loop.create_future()

    def start(self) -> None:
        """Shows that there is nothing yet, and subscribes."""
        self._display.display(self._view.shown(LIVE))
        # a Demand hears of the client's close, which subscribers do not
        demand = Demand(self._source.clock, self._fail)
        self._subscription.disposable = self._source.subscribe(self._hear, self._fail, self._complete, scheduler=demand)

    def dispose(self) -> None:
        """Watches no longer; what is shown stays."""
        self._subscription.dispose()
        if asyncio._get_running_loop() is self._loop:
            self._context.run(self._finish, "stopped")
        else:
            self._soon(partial(self._finish, "stopped"))

    def __await__(self) -> Generator[Any, None, None]:
        """Waits for the end. Who is interrupted meanwhile watches no longer."""
        return self._wait().__await__()

    def __repr__(self) -> str:
        return f"Live({self._state})"

    def _ipython_display_(self) -> None:
        """Shows nothing below a cell that ends with ``live(…)``: it has its picture."""

    async def _wait(self) -> None:
        self._is_awaited = True
        try:
            while not self._end.done():
                await asyncio.wait((self._end,), timeout=LOOK)
        except asyncio.CancelledError as interrupted:
            raise interrupted.with_traceback(None) from None  # whoever interrupts need not read how asyncio waits
        finally:
            self.dispose()
        if self._error is not None:
            raise self._error

    # On the client's thread.

    def _hear(self, value: object) -> None:
        self._view.hear(value)
        if not self._is_told:  # one message to the loop, however much is heard before it looks
            self._is_told = True
            self._soon(self._look)

    def _fail(self, error: Exception) -> None:
        self._soon(partial(self._finish, f"ended by {type(error).__name__}: {error}", error))

    def _complete(self) -> None:
        self._soon(partial(self._finish, "ended"))

    def _soon(self, action: Callable[[], None]) -> None:
        if not self._loop.is_closed():  # the kernel has ended, and nobody watches
            self._loop.call_soon_threadsafe(action, context=self._context)

    # On the kernel's loop.

    def _look(self) -> None:
        if self._timer is None and not self._end.done():
            self._timer = self._loop.call_at(max(self._due, self._loop.time()), self._draw)

    def _draw(self) -> None:
        self._timer = None
        self._is_told = False  # before it looks: what is heard meanwhile is drawn next time
        begun = self._loop.time()
        self._display.update(self._view.shown(self._state))
        took = self._loop.time() - begun
        self._due = begun + max(EVERY, took / SHARE)

    def _finish(self, state: str, error: Exception | None = None) -> None:
        if self._end.done():
            return
        self._state, self._error = state, error
        if self._timer is not None:
            self._timer.cancel()
        self._draw()
        if error is not None and not self._is_awaited and not isinstance(error, MacpClosedError):
            _log.error("what was watched %s", state)
        self._end.set_result(None)


class _View:
    """What was heard, and how it is shown.

    Args:
        clock: whose time it is.
        grows: it is a timeline from the start on, even if there is nothing on it yet.
    """

    def __init__(self, clock: Clock, grows: bool) -> None:
        self._clock = clock
        self._grows = grows
        self._events: list[Event] = []
        self._begin = self._time = 0
        self._newest: object = None

    def hear(self, value: object) -> None:
        """Notes an item."""
        if isinstance(value, Accepted):
            self._grows = True
            self._note(cast("Accepted", value))
        else:
            self._newest = value

    def _note(self, accepted: Accepted) -> None:
        now, sent = self._clock.now_ms, accepted.envelope.timestamp_unix_ms
        time = now if accepted.live or not 0 < sent < now else sent  # what was accepted before was not heard then
        self._begin = self._begin or time
        self._time = max(self._time, (time - self._begin) * 1_000)
        self._events.append(Event(self._time, accepted.sender, Next(accepted)))

    def shown(self, state: str) -> object:
        """What to show now."""
        if not self._grows:
            return Card(f"{state}: nothing yet").svg() if self._newest is None else self._newest
        events = tuple(self._events)
        lines = [str(cast("Next", event.what).value) for event in events[-LINES:]]
        if isinstance(self._newest, Outcome):
            state = f"{self._newest.state}: {self._newest.reason}"
            events += tuple(Event(self._time, lane, Completed()) for lane in Timeline(events).lanes)
        return Svg(svg(Timeline(events), title=state).text, "\n".join([*lines, state]))


def _source(what: Session | Observable[object], clock: Clock) -> Stream[Any]:
    if not isinstance(what, Session):
        return stream(what, clock)
    return cast("Stream[Any]", what.events) + what.outcome


# The kernel.

_WATCHES: Final[WeakKeyDictionary[Any, dict[str, WeakSet[Live]]]] = WeakKeyDictionary()
"""The kernel's IPython -> cell -> what it watches; what goes on is kept by its subscription."""


def _shell() -> Any:
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()
    if not hasattr(shell, "kernel"):
        raise MacpSessionError("live() shows what it watches in a notebook's cell, and this is none; subscribe instead")
    return shell


def _watches(shell: Any) -> dict[str, WeakSet[Live]]:
    if shell not in _WATCHES:
        _WATCHES[shell] = watches = dict[str, WeakSet[Live]]()

        def run_again(_info: object) -> None:
            for watch in watches.pop(_cell(shell), ()):
                watch.dispose()

        shell.events.register("pre_run_cell", run_again)
    return _WATCHES[shell]


def _cell(shell: Any) -> str:
    """Which cell runs: by its id, or by its text where the front end does not tell the id."""
    request = shell.get_parent()
    return str(request.get("metadata", {}).get("cellId") or request.get("content", {}).get("code"))
