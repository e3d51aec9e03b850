"""`Runtime`: the kernel's state, the histories, who listens, and the timers, on one clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from google.protobuf.message import Message as Protobuf
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Envelope, SessionState
from reactivex import abc

from macp_rx.clock import Clock
from macp_rx.errors import MacpRefusedError
from macp_rx.protocol import lifecycle
from macp_rx.runtime import kernel
from macp_rx.runtime.feeds import Feed, QueueFeed, SessionFeed
from macp_rx.runtime.memory import MemoryTransport
from macp_rx.runtime.service import Server
from macp_rx.runtime.session_call import SessionCall
from macp_rx.transport.loop import LoopLease

if TYPE_CHECKING:
    from macp_rx.transport.base import Transport

__all__ = ["Runtime"]

T = TypeVar("T")


class Runtime:
    """A MACP runtime inside the process.

    ``MacpClient.embedded(runtime=runtime)`` talks to it without sockets; ``serve()`` opens a real port over the same state.
    A use as a context manager closes it.

    Args:
        clock: what it runs on. By default the process's shared I/O thread; under a VirtualClock runtime, clients and agents
            are one deterministic run.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._release: Callable[[], None] = _nothing
        if clock is None:
            lease = LoopLease()
            clock, self._release = lease.clock, lease.release
        self.clock: Clock = clock
        self._state = kernel.State()
        self._histories: dict[str, list[Envelope]] = {}
        # listeners are keys of dicts and not members of sets: a set's order differs from process to process, and with it the
        # order of deliveries at one instant
        self._streams: dict[str, dict[SessionFeed, None]] = {}
        self._lifecycle: dict[QueueFeed[core_pb2.WatchSessionsResponse], None] = {}
        self._signals: dict[QueueFeed[core_pb2.WatchSignalsResponse], None] = {}
        self._registries: dict[QueueFeed[core_pb2.WatchModeRegistryResponse], None] = {}
        self._open: dict[Feed[Any], Callable[[], None]] = {}
        self._deadlines: dict[str, abc.DisposableBase] = {}
        self._servers: list[Server] = []

    def connect(self) -> Transport:
        """A transport straight into this runtime."""
        return MemoryTransport(self)

    def serve(self, bind: str = "127.0.0.1:0") -> Server:
        """Serves this runtime on a port, in plaintext, with development tokens: the bearer value is the sender.

        Args:
            bind: ``host:port``; port 0 takes a free one, which the server's ``target`` tells.

        Raises:
            OSError: the port cannot be bound.
        """
        server = Server(self, bind)
        self._servers.append(server)
        return server

    def close(self) -> None:
        """Closes its servers and gives the clock back. Any number of times."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for deadline in self._deadlines.values():
            deadline.dispose()
        self._deadlines.clear()
        self._release()

    def __enter__(self) -> Self:
        """The runtime itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()

    @property
    def open_calls(self) -> int:
        """How many streaming calls are open: session streams and watches."""
        return len(self._open)

    # What follows is for the carriers (`memory`, `service`), and happens on the clock's thread.

    def unary(self, name: str, caller: str | None, request: Protobuf) -> Protobuf:
        """Answers a unary RPC.

        Args:
            name: the RPC's name.
            caller: who the credential speaks for; None without one.
            request: its request.

        Raises:
            MacpRefusedError: what the call fails with.
        """
        handler = kernel.HANDLERS.get(name)
        if handler is None:
            raise NotImplementedError(f"{name} is not served by this runtime yet")
        _check_credential(name, caller)
        self._state, reply, events = handler(self._state, caller, request, self.clock.now_ms)
        self._publish(events)
        return reply

    def watch(self, name: str, caller: str | None) -> Feed[Protobuf]:
        """Opens a watch. Raises MacpRefusedError UNAUTHENTICATED for those that need a credential."""
        _check_credential(name, caller)
        now = self.clock.now_ms
        match name:
            case "WatchRoots":
                roots = core_pb2.WatchRootsResponse(change=core_pb2.RootsChanged(observed_at_unix_ms=now))
                return self._opened(QueueFeed([roots], 0, None))
            case "WatchModeRegistry":
                change = core_pb2.RegistryChanged(registry="modes", observed_at_unix_ms=now)
                first = core_pb2.WatchModeRegistryResponse(change=change)
                return self._opened(QueueFeed([first], 16, None), self._registries)
            case "WatchPolicies":
                known = policy_pb2.WatchPoliciesResponse(descriptors=kernel.policies(), observed_at_unix_ms=now)
                return self._opened(QueueFeed([known], 16, None))
            case "WatchSignals":
                lagged = MacpRefusedError("STREAM_LAGGED", "WatchSignals receiver fell behind by more than 256 signals")
                return self._opened(QueueFeed[core_pb2.WatchSignalsResponse]((), 256, lagged), self._signals)
            case _:
                lagged = MacpRefusedError("STREAM_LAGGED", "WatchSessions receiver fell behind by more than 64 events")
                return self._opened(QueueFeed(self._sessions_so_far(), 64, lagged), self._lifecycle)

    def _opened(self, feed: QueueFeed[T], group: dict[QueueFeed[T], None] | None = None) -> QueueFeed[T]:
        def forget() -> None:
            if group is not None:
                group.pop(feed, None)

        if group is not None:
            group[feed] = None
        self._open[feed] = forget
        return feed

    def stream_session(self, caller: str | None) -> SessionCall:
        """Opens a StreamSession call. Raises MacpRefusedError UNAUTHENTICATED without a credential."""
        _check_credential("StreamSession", caller)
        assert caller is not None
        call = SessionCall(self, caller)
        self._open[call.feed] = _nothing
        return call

    def leave(self, feed: Feed[Protobuf]) -> None:
        """Forgets a feed whose call is over."""
        self._open.pop(feed, _nothing)()
        feed.wake = _nothing

    def submit(self, caller: str, envelope: Envelope) -> MacpRefusedError | None:
        """Sends an envelope that came on a stream; its acceptance is told by its echo."""
        self._state, events, refusal, _duplicate = kernel.admit(self._state, caller, envelope, self.clock.now_ms)
        self._publish(events)
        return refusal

    def look(self, session_id: str) -> lifecycle.Session:
        """The session as it is now. Raises MacpRefusedError SESSION_NOT_FOUND."""
        self._state, session, events = kernel.look(self._state, session_id, self.clock.now_ms)
        self._publish(events)
        return session

    def follow(self, session_id: str, feed: SessionFeed, after: int) -> None:
        """Lets a feed say a session's envelopes from a position on."""
        listening = self._streams.setdefault(session_id, {})
        listening[feed] = None

        def forget() -> None:
            listening.pop(feed, None)
            if not listening and self._streams.get(session_id) is listening:
                del self._streams[session_id]

        self._open[feed] = forget
        feed.follow(self._histories.setdefault(session_id, []), after)

    def accepted(self, session_id: str) -> int:
        """How many envelopes a session has accepted."""
        return len(self._histories.get(session_id, ()))

    def _publish(self, events: Iterable[kernel.Event]) -> None:
        for event in events:
            match event:
                case kernel.Said(envelope):
                    self._histories.setdefault(envelope.session_id, []).append(envelope)
                    for stream in tuple(self._streams.get(envelope.session_id, ())):
                        stream.appended()
                case kernel.Signalled(envelope):
                    for feed in tuple(self._signals):
                        feed.put(core_pb2.WatchSignalsResponse(envelope=envelope))
                case kernel.Changed(kind, session_id):
                    self._watch_deadline(session_id)
                    for watcher in tuple(self._lifecycle):
                        watcher.put(self._lifecycle_event(kind, session_id, self.clock.now_ms))

    def _sessions_so_far(self) -> list[core_pb2.WatchSessionsResponse]:
        created = kernel.Lifecycle.EVENT_TYPE_CREATED
        return [
            self._lifecycle_event(created, session.session_id, session.started_at)
            for _id, session in sorted(self._state.sessions.items())
        ]

    def _lifecycle_event(
        self, kind: kernel.Lifecycle.EventType.ValueType, session_id: str, at: int
    ) -> core_pb2.WatchSessionsResponse:
        metadata = lifecycle.metadata(self._state.sessions[session_id])
        event = core_pb2.SessionLifecycleEvent(event_type=kind, session=metadata, observed_at_unix_ms=at)
        return core_pb2.WatchSessionsResponse(event=event)

    def _watch_deadline(self, session_id: str) -> None:
        """Keeps one timer per open session, so that expiry is told when it happens."""
        timer = self._deadlines.pop(session_id, None)
        if timer is not None:
            timer.dispose()
        session = self._state.sessions[session_id]
        if session.state != SessionState.SESSION_STATE_OPEN:
            return

        def expire(_scheduler: abc.SchedulerBase, _state: object) -> None:
            self._state, events = kernel.sweep(self._state, session_id, self.clock.now_ms)
            if events:
                self._publish(events)
            else:  # the clock came a little early
                self._watch_deadline(session_id)

        # the deadline itself is still in time
        self._deadlines[session_id] = self.clock.schedule_absolute((session.expires_at + 1) / 1000, expire)


def _check_credential(name: str, caller: str | None) -> None:
    if caller is None and name not in kernel.OPEN_TO_ALL:
        raise MacpRefusedError("UNAUTHENTICATED", "this call needs a credential")


def _nothing() -> None:
    return None
