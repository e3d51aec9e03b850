"""How a client learns that a session has ended, which its stream does not tell: the server leaves the call open (measured).

A few sessions are asked about in turn; for many there is one watch of all sessions, which costs a second of CPU at 10,000 of
them (measured) and is therefore not the way for one. Asking also makes the server find out that a deadline has passed: its
own sweep comes once a minute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import SessionState
from reactivex.disposable import Disposable, SerialDisposable

from macp_rx.errors import MacpClosedError, MacpTransportError
from macp_rx.streams.retry import FOR_EVER, Backoff
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.base import Call, Transport
from macp_rx.transport.methods import GET_SESSION, WATCH_ROOTS, WATCH_SESSIONS

__all__ = ["Ends", "OnEnd"]

T = TypeVar("T")


OnEnd = Callable[[core_pb2.SessionMetadata | None], None]
"""Hears that a session has ended, with what the runtime says of it then; None if the runtime no longer knows it."""

FEW: Final = 8
"""So many sessions are asked about one by one; more share one watch."""

ASK_EVERY: Final = 0.75
"""Seconds: every end is known within a second."""

SKEW: Final = 0.25
"""Seconds after which a session whose deadline seems to have passed is asked about again: clocks differ a little."""

ASKED_PER_SECOND: Final = 50
"""How many sessions are asked about in a second at most where there is a watch for the rest."""

AT_ONCE: Final = 64
"""How many questions are under way at most: a thousand at once take 10 MB, which are not given back (measured)."""

STALE: Final = 64
"""How many deadlines that were moved, or that nobody waits for, are kept beside as many as count."""

TERMINAL: Final = frozenset(
    {
        SessionState.SESSION_STATE_RESOLVED,
        SessionState.SESSION_STATE_EXPIRED,
        SessionState.SESSION_STATE_CANCELLED,
    }
)


class Ends:
    """Tells the followers of sessions when these end. Everything happens on the transport's clock.

    Args:
        transport: what carries the questions.
        auth: who asks: must be allowed to read the sessions.
    """

    def __init__(self, transport: Transport, auth: AuthConfig | None) -> None:
        self._transport = transport
        self._auth = auth
        self._followers: dict[str, dict[OnEnd, None]] = {}
        self._asked: set[str] = set()
        self._line: deque[str] = deque()  # who of them is still to be asked about
        self._under_way = 0
        self._asking = SerialDisposable()
        self._polls = False
        self._watch: Call[core_pb2.WatchSessionsRequest] | None = None
        self._watchable = True
        self._backoff = Backoff(FOR_EVER, transport.clock)
        self._rewatching = SerialDisposable()
        self._due: dict[str, int] = {}  # when each is to be asked about, by the server's clock
        self._deadlines: list[tuple[int, str]] = []
        self._deadline_timer = SerialDisposable()
        self._ahead_ms = 0  # how far the server's clock is ahead of ours

    def follow(self, session_id: str, on_end: OnEnd) -> Callable[[], None]:
        """Calls ``on_end`` once when the session has ended, or has ended already; returns what stops that."""
        self._followers.setdefault(session_id, {})[on_end] = None
        self._ask(session_id)
        self._arrange()
        return partial(self._forget, session_id, on_end)

    def _forget(self, session_id: str, on_end: OnEnd) -> None:
        followers = self._followers.get(session_id)
        if followers is not None and on_end in followers:
            del followers[on_end]
            if not followers:
                del self._followers[session_id]
                self._due.pop(session_id, None)
                self._arrange()

    def _arrange(self) -> None:
        many = len(self._followers) > FEW or self._transport.in_process
        if self._followers and many and self._watchable:
            self._polls = False
            self._asking.disposable = Disposable()
            if self._watch is None and not self._backoff.attempts:
                self._start_watch()
        else:
            self._stop_watch()
            if bool(self._followers) != self._polls:
                self._polls = bool(self._followers)
                self._asking.disposable = Disposable()
                if self._polls:
                    self._asking.disposable = self._transport.clock.run_later(ASK_EVERY, self._ask_all)

    # Asking.

    def _ask_all(self) -> None:
        for session_id in tuple(self._followers):
            self._ask(session_id)
        if self._polls:
            self._asking.disposable = self._transport.clock.run_later(ASK_EVERY, self._ask_all)

    def _ask(self, session_id: str) -> None:
        if session_id not in self._asked:
            self._asked.add(session_id)
            self._line.append(session_id)
            self._ask_on()

    def _ask_on(self) -> None:
        while self._line and self._under_way < AT_ONCE:
            session_id = self._line.popleft()
            if session_id in self._followers:
                self._question(session_id)
            else:
                self._asked.discard(session_id)

    def _question(self, session_id: str) -> None:
        def answered(response: core_pb2.GetSessionResponse) -> None:
            self._asked.discard(session_id)
            self._heard(response.metadata)

        def ended(error: Exception | None) -> None:
            self._under_way -= 1
            self._asked.discard(session_id)
            self._ask_on()
            if isinstance(error, MacpTransportError) and error.code == "SESSION_NOT_FOUND":
                self._gone(session_id)
            elif error is not None and self._watch is not None:
                self._expect_in(session_id, ASK_EVERY)  # the answer is still owed

        request = core_pb2.GetSessionRequest(session_id=session_id)
        self._under_way += 1
        try:
            self._transport.unary(
                GET_SESSION, request, _Hearing(answered, ended), auth=self._auth, timeout=10 * ASK_EVERY
            )
        except MacpClosedError:  # and with the connection everybody who followed
            self._followers.clear()
            self._arrange()

    def _heard(self, metadata: core_pb2.SessionMetadata) -> None:
        if metadata.state in TERMINAL:
            self._tell(metadata.session_id, metadata)
        elif self._watch is None:
            return
        elif metadata.state == SessionState.SESSION_STATE_SUSPENDED:
            # it can be suspended too long, and only who asks finds out; many are asked about at a bounded rate
            self._expect_in(metadata.session_id, max(ASK_EVERY, len(self._followers) / ASKED_PER_SECOND))
        else:
            self._expect(metadata.session_id, metadata.expires_at_unix_ms)

    def _gone(self, session_id: str) -> None:
        self._tell(session_id, None)

    def _tell(self, session_id: str, metadata: core_pb2.SessionMetadata | None) -> None:
        for on_end in tuple(self._followers.get(session_id, ())):
            on_end(metadata)

    # Watching.

    def _start_watch(self) -> None:
        receiver = _Hearing(self._watched, self._watch_ended)
        try:
            self._watch = self._transport.stream(
                WATCH_SESSIONS, [core_pb2.WatchSessionsRequest()], receiver, auth=self._auth
            )
            if not self._transport.in_process:
                self._compare_clocks()
        except MacpClosedError:
            self._watch = None

    def _stop_watch(self) -> None:
        self._rewatching.disposable = Disposable()
        self._deadline_timer.disposable = Disposable()
        self._deadlines.clear()
        self._due.clear()
        self._backoff.reset()
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()

    def _watched(self, response: core_pb2.WatchSessionsResponse) -> None:
        self._backoff.reset()
        event = response.event
        if event.session.session_id in self._followers:
            self._heard(event.session)
        elif not event.HasField("session"):  # it was evicted meanwhile, and the event does not say which
            for session_id in tuple(self._followers):
                self._ask(session_id)

    def _watch_ended(self, error: Exception | None) -> None:
        self._watch = None
        if isinstance(error, MacpTransportError) and error.status in (
            "UNAUTHENTICATED",
            "PERMISSION_DENIED",
            "UNIMPLEMENTED",
        ):
            self._watchable = False  # then each is asked about
            self._arrange()
            return
        delay = self._backoff.next()
        if self._followers and delay is not None:
            self._rewatching.disposable = self._transport.clock.run_later(delay, self._start_watch)

    def _compare_clocks(self) -> None:
        """The watch of roots says at once what time it is at the server."""
        roots: list[Call[core_pb2.WatchRootsRequest]] = []

        def told(response: core_pb2.WatchRootsResponse) -> None:
            self._ahead_ms = response.change.observed_at_unix_ms - self._transport.clock.now_ms
            roots[0].cancel()
            self._arm()

        call = self._transport.stream(
            WATCH_ROOTS, [core_pb2.WatchRootsRequest()], _Hearing(told, lambda _error: None), auth=self._auth
        )
        roots.append(call)

    # Deadlines, under a watch: the server tells of an expiry only once somebody has looked.

    def _expect(self, session_id: str, deadline: int) -> None:
        if self._transport.in_process or session_id not in self._followers or self._due.get(session_id) == deadline:
            return
        self._due[session_id] = deadline
        heappush(self._deadlines, (deadline, session_id))
        if len(self._deadlines) > 2 * len(self._due) + STALE:
            self._deadlines = [(due, waited_for) for waited_for, due in self._due.items()]
            heapify(self._deadlines)
        self._arm()

    def _expect_in(self, session_id: str, seconds: float) -> None:
        self._expect(session_id, self._transport.clock.now_ms + self._ahead_ms + round(seconds * 1000))

    def _arm(self) -> None:
        if self._deadlines:
            now = self._transport.clock.now_ms + self._ahead_ms
            seconds = max(SKEW, (self._deadlines[0][0] + 1 - now) / 1000)
            self._deadline_timer.disposable = self._transport.clock.run_later(seconds, self._ask_the_overdue)

    def _ask_the_overdue(self) -> None:
        now = self._transport.clock.now_ms + self._ahead_ms
        while self._deadlines and self._deadlines[0][0] < now:
            deadline, session_id = heappop(self._deadlines)
            if self._due.get(session_id) == deadline:  # else it was moved, or nobody waits for it any more
                del self._due[session_id]
                self._ask(session_id)  # if it is open all the same, the answer sets the next deadline
        self._arm()


class _Hearing(Generic[T]):
    """A receiver of two functions; the end, whether clean or by an error, is one."""

    __slots__ = ("_end", "_next")

    def __init__(self, on_next: Callable[[T], None], on_end: Callable[[Exception | None], None]) -> None:
        self._next = on_next
        self._end = on_end

    def on_next(self, value: T, /) -> None:
        self._next(value)

    def on_error(self, error: Exception, /) -> None:
        self._end(error)

    def on_completed(self) -> None:
        self._end(None)
