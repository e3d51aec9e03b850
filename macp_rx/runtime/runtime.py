"""`Runtime`: the kernel's state, the histories, who listens, and the timers, on one clock."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from google.protobuf.message import Message as Protobuf
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Envelope
from reactivex import abc
from reactivex.internal import noop

from macp_rx.clock import Clock
from macp_rx.errors import MacpClosedError, MacpError, MacpRefusedError, MacpWouldBlockError
from macp_rx.protocol import lifecycle
from macp_rx.protocol.lifecycle import Kind
from macp_rx.runtime import kernel, registries
from macp_rx.runtime.feeds import Feed, History, QueueFeed, SessionFeed
from macp_rx.runtime.identity import Identify, Identity, dev_identity
from macp_rx.runtime.memory import MemoryTransport
from macp_rx.runtime.session_call import SessionCall
from macp_rx.runtime.state import (
    Changed,
    Compacted,
    Event,
    Issued,
    Kept,
    Lifecycle,
    Logged,
    ModeAdded,
    ModePromoted,
    ModeRemoved,
    PolicyAdded,
    PolicyRemoved,
    Settings,
    Signalled,
    State,
)
from macp_rx.runtime.store import SqliteStore, Store
from macp_rx.transport.loop import LoopLease

if TYPE_CHECKING:
    from macp_rx.runtime.service import Server, Tls
    from macp_rx.transport.base import Transport

__all__ = ["Runtime"]

T = TypeVar("T")

_log = logging.getLogger("macp_rx.runtime")

REGISTRY_LIMIT: Final = 16
SIGNAL_LIMIT: Final = 256
LIFECYCLE_LIMIT: Final = 64
LONGEST_TIMER: Final = 86_400.0
"""Seconds; a deadline farther away, which a client may set to any year, is looked at again once a day."""


class Runtime:
    """A MACP runtime inside the process.

    ``MacpClient.embedded(runtime=runtime)`` talks to it without sockets; ``serve()`` opens a real port over the same state.
    A use as a context manager closes it.

    Args:
        clock: what it runs on. By default the process's shared I/O thread; under a VirtualClock runtime, clients and agents
            are one deterministic run.
        store: a SQLite file that keeps what happened: a runtime that starts on it has every session as it was. Default: memory.
        identify: whom a token speaks for; by default the token itself is the sender. See `static_tokens`.
        settings: limits, page sizes, who signs receipts.
        policies: registered from the start.

    Raises:
        MacpRefusedError: INVALID_POLICY_DEFINITION, for one of ``policies``.
        MacpError: the store cannot be opened, or its record cannot be read.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        store: Store | str | Path | None = None,
        identify: Identify = dev_identity,
        settings: Settings | None = None,
        policies: Iterable[policy_pb2.PolicyDescriptor] = (),
    ) -> None:
        self._release: Callable[[], None] = noop
        self.closed: bool = False
        """Whether it is closed, and answers nobody any more."""
        settings = settings or Settings()
        self._state = registries.with_policies(State(settings), policies)
        self._store = SqliteStore(store) if isinstance(store, str | Path) else store
        self._identify = identify
        self._histories: dict[str, History] = {}
        # listeners are keys of dicts and not members of sets: a set's order differs from process to process, and with it the
        # order of deliveries at one instant
        self._streams: dict[str, dict[SessionFeed, None]] = {}
        self._lifecycle: dict[QueueFeed[core_pb2.WatchSessionsResponse], None] = {}
        self._signals: dict[QueueFeed[core_pb2.WatchSignalsResponse], None] = {}
        self._registries: dict[QueueFeed[core_pb2.WatchModeRegistryResponse], None] = {}
        self._policies: dict[QueueFeed[policy_pb2.WatchPoliciesResponse], None] = {}
        self._open: dict[Feed[Any], Callable[[], None]] = {}
        self._timers: dict[str, tuple[int, abc.DisposableBase]] = {}
        self._servers: list[Server] = []
        if clock is None:
            lease = LoopLease()
            clock, self._release = lease.clock, lease.release
        self.clock: Clock = clock
        try:
            self._rebuild()
        except BaseException:
            self.close()
            raise

    def connect(self) -> Transport:
        """A transport straight into this runtime."""
        return MemoryTransport(self)

    def serve(self, bind: str = "127.0.0.1:0", *, tls: Tls | None = None, drain: float = 0) -> Server:
        """Serves this runtime on a port.

        Args:
            bind: ``host:port``; port 0 takes a free one, which the server's ``target`` tells.
            tls: its certificate; None is plaintext, for development on loopback.
            drain: seconds that calls under way get when the server closes, before they end with UNAVAILABLE.

        Raises:
            MacpSessionError: ``bind`` is not of that form.
            MacpError: the runtime is on a virtual clock.
            OSError: the port cannot be bound.
        """
        from macp_rx.runtime.service import Server  # gRPC, which a runtime in memory does not need

        server = Server(self, bind, tls=tls, drain=drain)
        self._servers.append(server)
        return server

    def close(self) -> None:
        """Ends every call with UNAVAILABLE, closes its servers and its store, and gives the clock back. Any number of times."""
        self.closed = True
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        self._end_calls()
        for _, timer in self._timers.values():
            timer.dispose()
        self._timers.clear()
        if self._store is not None:
            self._store.close()
        self._release()

    def _end_calls(self) -> None:
        """Ends the calls in memory. They have heard so on return; on the clock's own thread, or in virtual time, a turn later."""
        if not self._open:
            return
        told = threading.Event()

        def end() -> None:
            for feed in tuple(self._open):
                feed.close()
            self.clock.run_later(0, told.set)  # behind what woken feeds have to say

        try:
            self.clock.run_soon(end)
            if self.clock.runs_by_itself and not self.clock.on_own_thread():
                self.clock.wait(told)
        except (MacpClosedError, MacpWouldBlockError):
            pass  # a loop that was handed over and does not run any more: nobody can hear it

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

    @property
    def state(self) -> State:
        """What it knows now. A value."""
        return self._state

    def caller(self, token: str | None) -> Identity | None:
        """Who makes a call with this token; None without a good one."""
        return None if token is None else self._identify(token)

    def unary(self, name: str, caller: Identity | None, request: Protobuf) -> Protobuf | MacpRefusedError:
        """Answers a unary RPC.

        Args:
            name: the RPC's name.
            caller: who calls; None without a good credential.
            request: its request.

        Returns:
            The reply, or the refusal that the call fails with: as a value, since one that is raised keeps what it came through.
        """
        now = self.clock.now_ms
        state, reply, events = kernel.answer(self._state, name, caller, request, now)
        try:
            self._adopt(state, events)
        except MacpRefusedError:
            return kernel.not_kept(request, now)
        return reply

    def watch(self, name: str, caller: Identity | None) -> Feed[Protobuf]:
        """Opens a watch. Raises MacpRefusedError UNAUTHENTICATED for those that need a credential."""
        kernel.check_credential(self._state, name, caller)
        now = self.clock.now_ms
        match name:
            case "WatchRoots":
                roots = core_pb2.WatchRootsResponse(change=core_pb2.RootsChanged(observed_at_unix_ms=now))
                return self._opened(QueueFeed([roots], 0, None))
            case "WatchModeRegistry":
                return self._opened(QueueFeed([_registry_change(now)], REGISTRY_LIMIT, None), self._registries)
            case "WatchPolicies":
                return self._opened(QueueFeed([self._known_policies()], REGISTRY_LIMIT, None), self._policies)
            case "WatchSignals":
                signals = QueueFeed[core_pb2.WatchSignalsResponse]((), SIGNAL_LIMIT, _lagged(name, SIGNAL_LIMIT))
                return self._opened(signals, self._signals)
            case _:
                sessions = QueueFeed(self._sessions_so_far(), LIFECYCLE_LIMIT, _lagged(name, LIFECYCLE_LIMIT))
                return self._opened(sessions, self._lifecycle)

    def _opened(self, feed: QueueFeed[T], group: dict[QueueFeed[T], None] | None = None) -> QueueFeed[T]:
        def forget() -> None:
            if group is not None:
                group.pop(feed, None)

        if group is not None:
            group[feed] = None
        self._open[feed] = forget
        return feed

    def stream_session(self, caller: Identity | None) -> SessionCall:
        """Opens a StreamSession call. Raises MacpRefusedError UNAUTHENTICATED without a good credential."""
        kernel.check_credential(self._state, "StreamSession", caller)
        assert caller is not None
        call = SessionCall(self, caller)
        self._open[call.feed] = noop
        return call

    def leave(self, feed: Feed[Protobuf]) -> None:
        """Forgets a feed whose call is over."""
        self._open.pop(feed, noop)()
        feed.wake = noop

    def count(self, caller: Identity, *, starts: bool) -> None:
        """Counts an envelope that came on a stream, a session's start or another. Raises MacpRefusedError RATE_LIMITED."""
        self._state = self._state.counting(caller, self.clock.now_ms, starts=starts)

    def submit(self, caller: Identity, envelope: Envelope) -> MacpRefusedError | None:
        """Sends an envelope that came on a stream; its acceptance is told by its echo."""
        state, events, refusal = kernel.admit(self._state, caller, envelope, self.clock.now_ms)
        self._adopt(state, events)
        return refusal

    def look(self, session_id: str) -> lifecycle.Session | None:
        """The session as it is now: expired, if that is what it turns out to be; None if there is none."""
        self._adopt(*kernel.look(self._state, session_id, self.clock.now_ms))
        return self._state.sessions.get(session_id)

    def follow(self, session_id: str, feed: SessionFeed, after: int, *, live: bool) -> None:
        """Lets a feed say a session's envelopes from a sequence on; ``live``: as if it had listened since then.

        Raises:
            MacpRefusedError: HISTORY_UNAVAILABLE for a sequence that is forgotten.
        """
        history = self._histories.setdefault(session_id, History())
        if after < history.forgotten:
            raise MacpRefusedError(
                "HISTORY_UNAVAILABLE",
                f"what came before sequence {history.forgotten} is no longer held; ask for after_sequence >= "
                f"{history.forgotten}, or for the state with GetSession",
                b'{"lowest_available_sequence":%d}' % history.forgotten,
            )
        self._open[feed]()  # a stream that subscribes again
        listening = self._streams.setdefault(session_id, {})
        listening[feed] = None

        def forget() -> None:
            listening.pop(feed, None)
            if not listening and self._streams.get(session_id) is listening:
                del self._streams[session_id]
                if session_id not in self._state.sessions:  # nobody has started it
                    self._histories.pop(session_id, None)

        self._open[feed] = forget
        feed.follow(history, after, live=live)

    def accepted(self, session_id: str) -> int:
        """How many envelopes a session has accepted."""
        session = self._state.sessions.get(session_id)
        return session.accepted if session is not None else 0

    # What happens.

    def _adopt(self, state: State, events: Iterable[Event]) -> None:
        """Makes a state the present one, once what led to it is kept. Raises INTERNAL_ERROR if that fails, changing nothing."""
        store = self._store
        if store is not None and (happened := [event for event in events if isinstance(event, Kept)]):
            try:
                store.keep(happened)
            except Exception as error:  # a store may be anybody's
                _log.error("what happened could not be kept: %s", error)
                raise MacpRefusedError("INTERNAL_ERROR", "what happened could not be kept; try again") from error
        self._state = state
        for event in events:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        match event:
            case Logged(session_id, entry):
                if entry.envelope is not None:
                    self._histories.setdefault(session_id, History()).entries.append(entry)
                    self._tell_streams(session_id, starts=entry.kind is Kind.START)
                self._watch_deadline(session_id)
            case Changed(kind, session_id):
                _tell_all(self._lifecycle, lambda: self._lifecycle_event(kind, session_id, self.clock.now_ms))
            case Signalled(envelope):
                _tell_all(self._signals, lambda: self._signal(envelope))
            case Compacted(session_id):
                # feeds that are on their way keep the old history, as live receivers of the reference runtime do
                self._histories[session_id] = History(forgotten=self._state.sessions[session_id].accepted)
            case ModeAdded() | ModePromoted() | ModeRemoved():
                _tell_all(self._registries, lambda: _registry_change(self.clock.now_ms))
            case PolicyAdded() | PolicyRemoved():
                _tell_all(self._policies, self._known_policies)
            case Issued():
                pass

    def _tell_streams(self, session_id: str, *, starts: bool) -> None:
        session = self._state.sessions[session_id]
        for stream in tuple(self._streams.get(session_id, ())):
            if starts and not stream.may_read(session):  # bound to this id before there was anybody to ask
                self._open[stream]()
                self._open[stream] = noop
            else:
                stream.appended()

    def _signal(self, envelope: Envelope) -> core_pb2.WatchSignalsResponse:
        authenticated = self._identify is not dev_identity
        return core_pb2.WatchSignalsResponse(envelope=envelope, sender_authenticated=authenticated)

    def _known_policies(self) -> policy_pb2.WatchPoliciesResponse:
        return policy_pb2.WatchPoliciesResponse(
            descriptors=registries.policies(self._state), observed_at_unix_ms=self.clock.now_ms
        )

    def _sessions_so_far(self) -> list[core_pb2.WatchSessionsResponse]:
        created = Lifecycle.EVENT_TYPE_CREATED
        return [
            self._lifecycle_event(created, session.session_id, session.started_at)
            for _id, session in sorted(self._state.sessions.items())
        ]

    def _lifecycle_event(
        self, kind: Lifecycle.EventType.ValueType, session_id: str, at: int
    ) -> core_pb2.WatchSessionsResponse:
        metadata = lifecycle.metadata(self._state.sessions[session_id])
        event = core_pb2.SessionLifecycleEvent(event_type=kind, session=metadata, observed_at_unix_ms=at)
        return core_pb2.WatchSessionsResponse(event=event)

    def _watch_deadline(self, session_id: str) -> None:
        """Keeps one timer per session, so that what happens to it by itself happens when it is due."""
        session = self._state.sessions[session_id]
        deadline = lifecycle.next_deadline(session)
        if session.ended and self._state.settings.retention_ms is not None:
            deadline = session.started_at + self._state.settings.retention_ms
        armed = self._timers.get(session_id)
        if armed is not None:
            if armed[0] == deadline:
                return
            armed[1].dispose()
            del self._timers[session_id]
        if deadline is not None:
            seconds = min((deadline - self.clock.now_ms) / 1000, LONGEST_TIMER)
            self._timers[session_id] = (
                deadline,
                self.clock.run_later(seconds, partial(self._deadline_passed, session_id, deadline)),
            )

    def _deadline_passed(self, session_id: str, deadline: int) -> None:
        del self._timers[session_id]
        now = self.clock.now_ms
        if now >= deadline and self._state.sessions[session_id].ended:
            self._evict(session_id)
            return
        try:
            self._adopt(*kernel.sweep(self._state, session_id, now))
        except MacpRefusedError:  # it could not be kept, and was logged; whoever looks next tries again
            return
        self._watch_deadline(session_id)

    def _evict(self, session_id: str) -> None:
        """Forgets a session that has ended long ago (`protocol.md` 3.3)."""
        self._state = self._state.without(session_id)
        self._histories.pop(session_id, None)

    def _rebuild(self) -> None:
        if self._store is None:
            return
        try:
            self._state = kernel.rebuild(self._state, self._store.kept())
        except MacpRefusedError as refusal:
            raise MacpError(f"the store's record does not follow the rules: {refusal}") from refusal
        for session_id, session in sorted(self._state.sessions.items()):
            entries = [entry for entry in session.log or () if entry.envelope is not None]
            self._histories[session_id] = History(entries, session.compacted)
            self._watch_deadline(session_id)


def _tell_all(watchers: Iterable[QueueFeed[T]], response: Callable[[], T]) -> None:
    """Tells all watchers one response: they share it, for a copy for each would be memory that grows with them."""
    listening = tuple(watchers)
    if listening:
        told = response()
        for watcher in listening:
            watcher.put(told)


def _lagged(watch: str, limit: int) -> MacpRefusedError:
    return MacpRefusedError("STREAM_LAGGED", f"{watch} receiver fell behind by more than {limit} events")


def _registry_change(now: int) -> core_pb2.WatchModeRegistryResponse:
    change = core_pb2.RegistryChanged(registry="modes", observed_at_unix_ms=now)
    return core_pb2.WatchModeRegistryResponse(change=change)
