"""What a streaming call has to say next: pulled by whatever carries it, so that a client that never reads costs no memory.

A feed holds no copy of a session's history, only its place in it; what it does buffer is bounded as the real server's
buffers are (`protocol.md` 6.5, 7), and running over ends it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope, MACPError

from macp_rx.errors import MacpRefusedError

__all__ = ["LAG_LIMIT", "Feed", "History", "QueueFeed", "SessionFeed"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

LAG_LIMIT: Final = 256


@dataclass(slots=True)
class History:
    """What a session has accepted, in order; it grows at its end.

    Attributes:
        envelopes: as received.
        forgotten: how many came before the first of them and are no longer held.
    """

    envelopes: list[Envelope] = field(default_factory=list[Envelope])
    forgotten: int = 0


class Feed(Generic[T_co]):
    """The server's side of one streaming call.

    Attributes:
        ended: nothing more will come, once `take` has given what there is.
        error: why it ended; None is OK.
        wake: called when there may be something to take, or an end to tell. Set by the carrier.
    """

    def __init__(self) -> None:
        self.ended: bool = False
        self.error: MacpRefusedError | None = None
        self.wake: Callable[[], None] = _nothing

    def take(self) -> T_co | None:
        """The next response, if there is one now."""
        raise NotImplementedError

    def end(self, error: MacpRefusedError | None = None) -> None:
        """Ends the call, with OK or an error. Only the first end counts."""
        if not self.ended:
            self.ended = True
            if error is not None:
                self.error = error.as_value()
            self.wake()


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
    """A StreamSession call: its place in the session's history, and the inline errors that answer its frames."""

    def __init__(self) -> None:
        super().__init__()
        self._errors: deque[MACPError] = deque()
        self._history: list[Envelope] = []
        self._next = 0
        self._live_from = 0
        self._room: asyncio.Future[None] | None = None

    def follow(self, history: History, after: int) -> None:
        """Says the envelopes of a history from a sequence on, and what is appended later."""
        self._history = history.envelopes
        self._live_from = len(self._history)
        self._next = min(after - history.forgotten, self._live_from)
        self.wake()

    def appended(self) -> None:
        """Hears that the history has grown; ends the call if it has fallen too far behind what is live."""
        behind = len(self._history) - max(self._next, self._live_from)
        if behind > LAG_LIMIT:
            self._next = len(self._history)
            self.end(MacpRefusedError("STREAM_LAGGED", f"StreamSession receiver fell behind by {behind} envelopes"))
        else:
            self.wake()

    def refuse(self, error: MACPError) -> None:
        """Answers a frame with an inline error; the call goes on."""
        self._errors.append(error)
        self.wake()

    async def room(self) -> None:
        """Waits while too many inline errors are unread."""
        while len(self._errors) > LAG_LIMIT and not self.ended:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def take(self) -> core_pb2.StreamSessionResponse | None:
        """The next envelope or inline error, if there is one now."""
        if self._errors:
            if self._room is not None and not self._room.done():
                self._room.set_result(None)
            return core_pb2.StreamSessionResponse(error=self._errors.popleft())
        if self._next < len(self._history):
            envelope = self._history[self._next]
            self._next += 1
            return core_pb2.StreamSessionResponse(envelope=envelope)
        return None


def _nothing() -> None:
    return None
