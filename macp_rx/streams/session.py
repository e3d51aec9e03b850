"""The session stream: everything a session accepted and will accept, in order, once, until the session ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from macp.v1 import core_pb2
from reactivex import Observable, abc

from macp_rx.errors import MacpSessionError, MacpStreamError
from macp_rx.protocol.messages import Accepted
from macp_rx.streams.source import on_demand, waited_on
from macp_rx.streams.stream import Stream, running
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.base import method
from macp_rx.transport.connection import Connection

__all__ = ["STREAM_SESSION", "history", "session_events", "subscribe_frame"]

STREAM_SESSION: Final = method("StreamSession", core_pb2.StreamSessionRequest, core_pb2.StreamSessionResponse)


def subscribe_frame(session_id: str, after_sequence: int) -> core_pb2.StreamSessionRequest:
    """The frame that asks for a session's envelopes after a sequence (RFC-MACP-0006, 3.2)."""
    if after_sequence < 0:
        raise MacpSessionError(f"after_sequence {after_sequence} is negative; 0 starts with the SessionStart")
    return core_pb2.StreamSessionRequest(subscribe_session_id=session_id, after_sequence=after_sequence)


def session_events(
    connection: Connection, session_id: str, after_sequence: int, *, auth: AuthConfig | None
) -> Stream[Accepted]:
    """Replays what a session accepted, goes on live, and completes with the commitment that resolves the session.

        accepted           S-p-v-v-C
        after_sequence=0   S-p-v-v-(C|)
        after_sequence=2   ----v-v-(C|)

    Args:
        connection: what carries it.
        session_id: which session.
        after_sequence: start behind this position; 0 starts with the SessionStart.
        auth: who is reading: the initiator, a participant or an observer.

    Errors:
        MacpTransportError, such as NOT_FOUND for an unknown session; MacpStreamError FORBIDDEN for an outsider.
    """
    return _read(connection, session_id, after_sequence, auth, finite=False)


def history(
    connection: Connection, session_id: str, after_sequence: int, *, auth: AuthConfig | None
) -> Stream[Accepted]:
    """What a session has accepted by now, and then completion.

    Subscribes and half-closes: the server replays what it holds and ends the call with OK, which is the only
    end-of-replay marker that the protocol has.

    Args and errors as `session_events`.
    """
    return _read(connection, session_id, after_sequence, auth, finite=True)


def _read(
    connection: Connection, session_id: str, after_sequence: int, auth: AuthConfig | None, *, finite: bool
) -> Stream[Accepted]:
    frame = subscribe_frame(session_id, after_sequence)

    def subscribe(
        observer: abc.ObserverBase[Accepted], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        def start() -> Callable[[], None]:
            receiver = _Numbered(observer, after_sequence, finite=finite)
            call = connection.transport.stream(STREAM_SESSION, [frame], receiver, auth=auth)
            if finite:
                call.half_close()
            return waited_on(connection, on_demand(call, scheduler), scheduler)

        return running(connection.clock, start, observer)

    return Stream(Observable(subscribe), connection.clock)


class _Numbered:
    """Counts the envelopes of one subscription: ordinals are not on the wire, the reader counts (`protocol.md` 6.4)."""

    __slots__ = ("_finite", "_kinds", "_next", "_observer", "_sequence")

    def __init__(self, observer: abc.ObserverBase[Accepted], after_sequence: int, *, finite: bool) -> None:
        self._observer = observer
        self._next = observer.on_next
        self._sequence = after_sequence
        self._kinds: dict[
            str, tuple[str, str]
        ] = {}  # a session has one mode, so its kinds are few: made once, not per item
        self._finite = finite

    def on_next(self, response: core_pb2.StreamSessionResponse, /) -> None:
        envelope = response.envelope
        message_type = envelope.message_type
        if not message_type:
            # no envelope but an error; the only one that can answer a subscribe is its refusal, after which the server leaves
            # the call hanging
            self._observer.on_error(MacpStreamError(response.error))
            return
        kind = self._kinds.get(message_type)
        if kind is None:
            kind = self._kinds[message_type] = (envelope.mode, message_type)
        self._sequence = sequence = self._sequence + 1
        self._next(Accepted(sequence, envelope, kind))
        if message_type == "Commitment" and not self._finite:
            # a commitment is accepted only if it resolves; the server leaves the call open after it (measured)
            self._observer.on_completed()

    def on_error(self, error: Exception, /) -> None:
        self._observer.on_error(error)

    def on_completed(self) -> None:
        self._observer.on_completed()
