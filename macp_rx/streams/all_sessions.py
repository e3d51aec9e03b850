"""All sessions at once: each that the caller may read, as it appears, until it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from macp.v1 import core_pb2
from reactivex import abc
from reactivex.disposable import SerialDisposable

from macp_rx.errors import MacpStreamError, MacpTransportError
from macp_rx.protocol.messages import Accepted
from macp_rx.streams.ends import TERMINAL, Ends
from macp_rx.streams.retry import RECONNECT, RetryPolicy
from macp_rx.streams.session import session_events
from macp_rx.streams.source import cold, kept_watching
from macp_rx.streams.stream import Demand, Stream, tell_raised
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.methods import WATCH_SESSIONS
from macp_rx.transport.shared import SharedTransport

__all__ = ["Where", "all_events"]

_log = logging.getLogger("macp_rx.streams")

Where = Callable[[core_pb2.SessionMetadata], bool]
"""Whether a session is wanted, by what the runtime tells of it when it appears."""

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

    Args:
        shared: what carries it.
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

    def start(observer: abc.ObserverBase[Accepted]) -> _Following:
        following = _Following(reading, observer)
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


class _Following:
    """The watch of sessions, and a stream for each that is wanted."""

    def __init__(self, reading: _All, observer: abc.ObserverBase[Accepted]) -> None:
        self._reading = reading
        self._observer = observer
        self._clock = reading.shared.clock
        self._demand = Demand(self._clock)
        self._streams: dict[str, SerialDisposable] = {}
        self._old: dict[str, None] = {}  # ended before we came
        self._done: dict[str, None] = {}
        self._outsider = False
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
        if not session_id or session_id in self._streams or session_id in self._done:
            return
        if not self._reading.wants(metadata):
            return
        if self._first and metadata.state in TERMINAL and response.event.event_type == CREATED:
            # one of the old ones that a watch begins with; or it has just begun and ended: then its end is told next
            self._old[session_id] = None
            return
        if session_id in self._old and response.event.event_type == CREATED:
            return
        named = self._reading.names(metadata)
        if named or not self._outsider:  # an observer reads all, and nothing but a try tells who is one
            self._follow(session_id, named=named, ended=metadata.state in TERMINAL)

    # Its sessions.

    def _follow(self, session_id: str, *, named: bool, ended: bool) -> None:
        reading = self._reading
        events = session_events(
            reading.shared, session_id, 0, auth=reading.auth, ends=reading.ends, on_gap="continue", retry=reading.retry
        )

        def failed(error: Exception) -> None:
            self._forget(session_id)
            if isinstance(error, MacpStreamError) and error.code == "FORBIDDEN" and not named:
                self._outsider = True
            elif not (ended and isinstance(error, MacpTransportError)):
                _log.error("%s: %s", session_id, error)

        subscription = self._streams[session_id] = SerialDisposable()
        subscription.disposable = events.subscribe(
            self._deliver, failed, lambda: self._forget(session_id), scheduler=self._demand
        )

    def _deliver(self, accepted: Accepted) -> None:
        try:
            self._observer.on_next(accepted)
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
            for subscription in tuple(self._streams.values()):
                subscription.dispose()
            self._streams.clear()

    def _fail(self, error: Exception) -> None:
        if not self._over:
            self.cancel()
            self._observer.on_error(error)
