"""All sessions at once: each that the caller may read, as it appears, until it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from macp.v1 import core_pb2
from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.disposable import SerialDisposable

from macp_rx.errors import MacpSessionError, MacpStreamError, MacpTransportError
from macp_rx.protocol.messages import Accepted
from macp_rx.streams.ends import TERMINAL, Ends
from macp_rx.streams.retry import RECONNECT, RetryPolicy
from macp_rx.streams.session import SessionStream, session_events
from macp_rx.streams.source import cold, kept_watching
from macp_rx.streams.stream import Demand, Stream, tell_raised
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.methods import WATCH_SESSIONS
from macp_rx.transport.shared import SharedTransport

__all__ = ["Project", "Where", "all_events", "each_session"]

T = TypeVar("T")

_log = logging.getLogger("macp_rx.streams")

Where = Callable[[core_pb2.SessionMetadata], bool]
"""Whether a session is wanted, by what the runtime tells of it when it appears."""

Project = Callable[[core_pb2.SessionMetadata, SessionStream], Observable[T]]
"""What is made of a session."""

CREATED: Final = core_pb2.SessionLifecycleEvent.EVENT_TYPE_CREATED

REMEMBERED: Final = 10_000
"""So many sessions that have ended are remembered, so that a watch that is opened again does not bring them back."""


def all_events(
    shared: SharedTransport,
    *,
    auth: AuthConfig | None,
    ends: Ends,
    mode: str = "",
    where: Where | None = None,
    retry: RetryPolicy = RECONNECT,
) -> Stream[Accepted]:
    """Everything that is accepted in every session that the caller may read and that has not ended, from each session's start.

        session 1   S-p-v-C
        session 2   ----S-p-v-C
        all         S-p-vSCp-v-C-

    Arguments and errors as `each_session`.
    """

    def as_it_is(_metadata: core_pb2.SessionMetadata, events: Stream[Accepted]) -> Stream[Accepted]:
        return events

    return each_session(shared, as_it_is, auth=auth, ends=ends, mode=mode, where=where, retry=retry)


def each_session(
    shared: SharedTransport,
    project: Project[T],
    *,
    auth: AuthConfig | None,
    ends: Ends,
    mode: str = "",
    where: Where | None = None,
    retry: RetryPolicy = RECONNECT,
) -> Stream[T]:
    """What is made of every session that the caller may read and that has not ended, merged.

    Args:
        shared: what carries it.
        project: makes of a session's metadata, when it appears, and its events what goes out.
        auth: who is reading.
        ends: learns when sessions end.
        mode: only sessions of this mode.
        where: only sessions that it says yes to.
        retry: how to reconnect.

    Errors:
        MacpTransportError: the watch of sessions failed for good. What one session's stream fails with ends that one alone, and
            is logged.
    """
    reading = _All(shared, auth, ends, mode, where, retry)

    def start(observer: abc.ObserverBase[T]) -> _Following[T]:
        following = _Following(reading, project, observer)
        following.watch()
        return following

    return Stream(cold(shared, start, reading.name), shared.clock, can_wait=True)


@dataclass(frozen=True, slots=True)
class _All:
    shared: SharedTransport
    auth: AuthConfig | None
    ends: Ends
    mode: str
    where: Where | None
    retry: RetryPolicy

    @property
    def name(self) -> str:
        """Its name in ``client.subscriptions`` and in the log."""
        return f"events of all sessions{f' of {self.mode}' if self.mode else ''}"

    def wants(self, metadata: core_pb2.SessionMetadata) -> bool:
        if self.mode and metadata.mode != self.mode:
            return False
        return self.where is None or self.where(metadata)

    def names(self, metadata: core_pb2.SessionMetadata) -> bool:
        """Whether the caller is named in the session; without a name to go by, it may be."""
        sender = self.auth.sender if self.auth is not None else ""
        return not sender or sender == metadata.initiator or sender in metadata.participants


class _Following(Generic[T]):
    """The watch of sessions, and a stream for each that is wanted."""

    def __init__(self, reading: _All, project: Project[T], observer: abc.ObserverBase[T]) -> None:
        self._reading = reading
        self._project = project
        self._observer = observer
        self._clock = reading.shared.clock
        self._demand = Demand(self._clock)
        self._streams: dict[str, SerialDisposable] = {}
        self._old: dict[str, None] = {}  # ended before we came
        self._done: dict[str, None] = {}
        self._reads_all: bool | None = None
        self._untried: dict[str, core_pb2.SessionMetadata] = {}
        self._trying = SerialDisposable()
        self._first = True
        self._watching = SerialDisposable()
        self._over = False

    def watch(self) -> None:
        reading = self._reading
        sessions = kept_watching(
            reading.shared,
            WATCH_SESSIONS,
            core_pb2.WatchSessionsRequest(),
            auth=reading.auth,
            what=reading.name,
            retry=reading.retry,
            on_lost=self._lost,
        )
        self._watching.disposable = sessions.subscribe(self._hear, self._fail)

    # The watch: what it says is a hint to look, as it may be told twice, and after a loss begins anew with every session.

    def _lost(self) -> None:
        self._first = False

    def _hear(self, response: core_pb2.WatchSessionsResponse) -> None:
        metadata = response.event.session
        session_id = metadata.session_id
        if not session_id or any(session_id in known for known in (self._streams, self._done, self._untried)):
            return
        if not self._reading.wants(metadata):
            return
        if self._first and metadata.state in TERMINAL and response.event.event_type == CREATED:
            # one of the old ones that a watch begins with; or it has just begun and ended: then its end is told next
            self._old[session_id] = None
            return
        if session_id in self._old and response.event.event_type == CREATED:
            return
        if self._reading.names(metadata) or self._reads_all:
            self._follow(metadata)
        elif self._reads_all is None:
            self._untried[session_id] = metadata
            if len(self._untried) == 1:
                self._try()

    # Those that do not name the caller: an observer reads all of them, and nothing but a try tells who is one. One try, for
    # a runtime may have ten thousand sessions that are none of the caller's business.

    def _try(self) -> None:
        if not self._untried:
            return
        session_id = next(iter(self._untried))

        def learned(reads_all: bool) -> None:
            self._reads_all = reads_all
            untried, self._untried = self._untried, {}
            for metadata in untried.values() if reads_all else ():
                self._follow(metadata)

        def over(error: Exception | None = None) -> None:
            if isinstance(error, MacpStreamError) and error.code == "FORBIDDEN":
                learned(reads_all=False)
            elif self._untried:  # that one is gone, and has told nothing
                self._done[session_id] = None
                del self._untried[session_id]
                self._clock.run_later(0, self._try)

        first = self._events(session_id).pipe(ops.take(1))
        self._trying.disposable = first.subscribe(lambda _: learned(reads_all=True), over, over)

    # Its sessions.

    def _events(self, session_id: str) -> SessionStream:
        reading = self._reading
        return session_events(
            reading.shared, session_id, 0, auth=reading.auth, ends=reading.ends, on_gap="continue", retry=reading.retry
        )

    def _follow(self, metadata: core_pb2.SessionMetadata) -> None:
        session_id, ended = metadata.session_id, metadata.state in TERMINAL

        def failed(error: Exception) -> None:
            self._forget(session_id)
            if not (ended and isinstance(error, MacpTransportError)):
                _log.error("%s: %s", session_id, error)

        subscription = self._streams[session_id] = SerialDisposable()
        try:
            made = self._project(metadata, self._events(session_id))
            if not isinstance(made, Observable):
                raise MacpSessionError(f"a session's pipeline is an Observable, not {type(made).__name__}")
        except Exception as error:
            failed(error)
            return
        subscription.disposable = made.subscribe(
            self._deliver, failed, lambda: self._forget(session_id), scheduler=self._demand
        )

    def _deliver(self, item: T) -> None:
        try:
            self._observer.on_next(item)
        except Exception as error:  # its own, and not that of one session
            self.cancel()
            tell_raised(self._clock, self._observer, error)

    def _forget(self, session_id: str) -> None:
        self._streams.pop(session_id, None)
        self._done[session_id] = None
        if len(self._done) > REMEMBERED:
            del self._done[next(iter(self._done))]

    # What a source must be able to do.

    def pause(self) -> None:
        self._demand.pause()

    def resume(self) -> None:
        self._demand.resume()

    def cancel(self) -> None:
        if not self._over:
            self._over = True
            self._watching.dispose()
            self._trying.dispose()
            self._untried.clear()
            for subscription in tuple(self._streams.values()):
                subscription.dispose()
            self._streams.clear()

    def _fail(self, error: Exception) -> None:
        if not self._over:
            self.cancel()
            self._observer.on_error(error)
