"""What a streaming call has to say next: pulled by whatever carries it, so that a client that never reads costs no memory.

A feed holds no copy of a session's history, only its place in it; what it does buffer is bounded as the real server's
buffers are (`protocol.md` 6.5, 7), and running over ends it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import MACPError
from reactivex.internal import noop

from macp_rx.errors import MacpRefusedError, MacpTransportError
from macp_rx.protocol.lifecycle import Entry, Session
from macp_rx.runtime.failure import closing, failure

__all__ = ["LAG_LIMIT", "Feed", "History", "QueueFeed", "SessionFeed"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

LAG_LIMIT: Final = 256


@dataclass(slots=True)
class History:
    """What a session has accepted, in order; it grows at its end.

    Attributes:
        entries: those with an envelope.
        forgotten: how many came before the first of them and are no longer held.
    """

    entries: list[Entry] = field(default_factory=list[Entry])
    forgotten: int = 0


class Feed(ABC, Generic[T_co]):
    """The server's side of one streaming call.

    Attributes:
        ended: nothing more will come, once `take` has given what there is.
        wake: called when there may be something to take, or an end to tell. Set by the carrier.
    """

    def __init__(self) -> None:
        self.ended: bool = False
        self.wake: Callable[[], None] = noop
        self._error: MacpRefusedError | None = None
        self._closed = False

    @abstractmethod
    def take(self) -> T_co | None:
        """The next response, if there is one now."""

    def end(self, error: MacpRefusedError | None = None) -> None:
        """Ends the call, with OK or an error. Only the first end counts."""
        if not self.ended:
            self.ended = True
            if error is not None:
                self._error = error.as_value()
            self.wake()

    def close(self) -> None:
        """Ends the call because the runtime closes."""
        if not self.ended:
            self._closed = True
            self.end()

    def failure(self, method: str = "") -> MacpTransportError | None:
        """How the call has failed, once it has ended; None is OK.

        Args:
            method: full gRPC method name.
        """
        if self._closed:
            return closing(method)
        return None if self._error is None else failure(self._error, method)


class QueueFeed(Feed[T]):
    """A watch: what was true at first, then what happens.

    Args:
        first: what is told at once.
        limit: how many events may wait; one more ends the call.
        overrun: what it ends with; None is OK, as the real server does for registries.
    """

    def __init__(self, first: Iterable[T], limit: int, overrun: MacpRefusedError | None) -> None:
        super().__init__()
        self._items = deque(first)
        self._limit = limit + len(self._items)
        self._overrun = overrun

    def put(self, item: T) -> None:
        """Adds an event."""
        if self.ended:
            return
        if len(self._items) >= self._limit:
            self.end(self._overrun)
            return
        self._items.append(item)
        self.wake()

    def take(self) -> T | None:
        """The next event, if there is one now."""
        return self._items.popleft() if self._items else None


class SessionFeed(Feed[core_pb2.StreamSessionResponse]):
    """A StreamSession call: its place in the session's history, and the inline errors that answer its frames.

    Args:
        may_read: whether the caller may read a session; asked again of a session that starts after the stream was bound to it.
    """

    def __init__(self, may_read: Callable[[Session], bool]) -> None:
        super().__init__()
        self.may_read = may_read
        self._entries: list[Entry] = []
        self._live = 0
        # what is said before what is live: replays, what was live when they were asked for, and errors, in that order
        self._before: deque[_Part | MACPError] = deque()
        self._room: asyncio.Future[None] | None = None

    def follow(self, history: History, after: int, *, live: bool) -> None:
        """Says the entries of a history from a sequence on, as a replay or as live, and what is appended later."""
        self._hold_live()
        self._entries = history.entries
        first, end = after - history.forgotten, len(self._entries)
        self._live = first if live else end
        if first < end and not live:
            self._before.append(_Part(first, end, replayed=True))
        self.wake()

    def appended(self) -> None:
        """Hears that the history has grown; ends the call if it has fallen too far behind what is live."""
        behind = len(self._entries) - self._live
        if behind > LAG_LIMIT and not self.ended:
            self._before.clear()
            self._entries, self._live = [], 0  # what is accepted from now on would come behind a hole
            self.end(MacpRefusedError("STREAM_LAGGED", f"StreamSession receiver fell behind by {behind} envelopes"))
        else:
            self.wake()

    def refuse(self, error: MACPError) -> None:
        """Answers a frame with an inline error, behind all that was said before; the call goes on."""
        self._hold_live()
        self._before.append(error)
        self.wake()

    async def room(self) -> None:
        """Waits while too many answers are unread."""
        while len(self._before) > LAG_LIMIT and not self.ended:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def take(self) -> core_pb2.StreamSessionResponse | None:
        """The next envelope or inline error, if there is one now."""
        while self._before:
            part = self._before[0]
            if isinstance(part, MACPError):
                self._before.popleft()
                self._make_room()
                return core_pb2.StreamSessionResponse(error=part)
            if part.next < part.end:
                entry = self._entries[part.next]
                part.next += 1
                return _replayed(entry) if part.replayed else _said(entry)
            self._before.popleft()
            self._make_room()
        if self._live < len(self._entries):
            self._live += 1
            return _said(self._entries[self._live - 1])
        return None

    def _hold_live(self) -> None:
        if self._live < len(self._entries):
            self._before.append(_Part(self._live, len(self._entries), replayed=False))
            self._live = len(self._entries)

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


@dataclass(slots=True)
class _Part:
    """A part of the history that is to be said."""

    next: int
    end: int
    replayed: bool


def _said(entry: Entry) -> core_pb2.StreamSessionResponse:
    return core_pb2.StreamSessionResponse(envelope=entry.envelope)


def _replayed(entry: Entry) -> core_pb2.StreamSessionResponse:
    """Where the sender has given no time, a replay tells when it was accepted (`protocol.md` 6.4)."""
    response = _said(entry)
    if not response.envelope.timestamp_unix_ms:
        response.envelope.timestamp_unix_ms = entry.at
    return response
