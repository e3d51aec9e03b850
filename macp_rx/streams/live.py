"""Live queries: what a list says now, and again whenever it may have changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

import reactivex as rx
from google.protobuf.message import Message as Protobuf
from macp.v1 import core_pb2, policy_pb2
from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.disposable import SerialDisposable

from macp_rx.errors import MacpClosedError, MacpTransportError
from macp_rx.streams.pages import all_pages
from macp_rx.streams.reply import DEFAULT_TIMEOUT, ask
from macp_rx.streams.retry import RECONNECT, Backoff, RetryPolicy, may_pass
from macp_rx.streams.source import cold, watch
from macp_rx.streams.stream import Stream
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.base import Method
from macp_rx.transport.methods import (
    LIST_EXT_MODES,
    LIST_MODES,
    LIST_POLICIES,
    LIST_ROOTS,
    WATCH_MODE_REGISTRY,
    WATCH_POLICIES,
    WATCH_ROOTS,
    WATCH_SESSIONS,
)
from macp_rx.transport.shared import SharedTransport

__all__ = ["live", "modes", "policies", "roots", "sessions"]

_log = logging.getLogger("macp_rx.streams")

S = TypeVar("S")
Req = TypeVar("Req", bound=Protobuf)
Res = TypeVar("Res", bound=Protobuf)


def modes(shared: SharedTransport, auth: AuthConfig | None) -> Stream[Mapping[str, core_pb2.ModeDescriptor]]:
    """The modes by name, standards-track and extensions."""

    def listed() -> Observable[Mapping[str, core_pb2.ModeDescriptor]]:
        standard = _list(shared, auth, LIST_MODES, core_pb2.ListModesRequest(), _modes_of)
        extensions = _list(shared, auth, LIST_EXT_MODES, core_pb2.ListExtModesRequest(), _modes_of)
        return rx.zip(standard, extensions).pipe(ops.map(_merged))

    hints = watch(shared, WATCH_MODE_REGISTRY, core_pb2.WatchModeRegistryRequest(), auth=auth, timeout=None)
    return live(shared, "live modes", listed, hints)


def roots(shared: SharedTransport, auth: AuthConfig | None) -> Stream[tuple[core_pb2.Root, ...]]:
    """The coordination roots."""

    def listed() -> Observable[tuple[core_pb2.Root, ...]]:
        return _list(shared, auth, LIST_ROOTS, core_pb2.ListRootsRequest(), _roots_of)

    hints = watch(shared, WATCH_ROOTS, core_pb2.WatchRootsRequest(), auth=auth, timeout=None)
    return live(shared, "live roots", listed, hints)


def policies(
    shared: SharedTransport, auth: AuthConfig | None, mode: str
) -> Stream[Mapping[str, policy_pb2.PolicyDescriptor]]:
    """The policies by id, those of a mode or all."""

    def listed() -> Observable[Mapping[str, policy_pb2.PolicyDescriptor]]:
        return _list(shared, auth, LIST_POLICIES, policy_pb2.ListPoliciesRequest(mode=mode), _policies_of)

    hints = watch(shared, WATCH_POLICIES, policy_pb2.WatchPoliciesRequest(), auth=auth, timeout=None)
    return live(shared, "live policies", listed, hints)


def sessions(shared: SharedTransport, auth: AuthConfig | None) -> Stream[Mapping[str, core_pb2.SessionMetadata]]:
    """The sessions in the runtime's memory by id, ended ones too."""

    def listed() -> Observable[Mapping[str, core_pb2.SessionMetadata]]:
        return all_pages(shared, auth).pipe(ops.to_list(), ops.map(_by_id))

    hints = watch(shared, WATCH_SESSIONS, core_pb2.WatchSessionsRequest(), auth=auth, timeout=None)
    return live(shared, "live sessions", listed, hints)


def _list(
    shared: SharedTransport, auth: AuthConfig | None, rpc: Method[Req, Res], request: Req, unwrap: Callable[[Res], S]
) -> Stream[S]:
    return ask(shared, rpc, request, unwrap, auth=auth, timeout=DEFAULT_TIMEOUT)


class _Modes(Protocol):
    @property
    def modes(self) -> Iterable[core_pb2.ModeDescriptor]: ...


def _modes_of(response: _Modes) -> Mapping[str, core_pb2.ModeDescriptor]:
    return {descriptor.mode: descriptor for descriptor in response.modes}


def _merged(maps: tuple[Mapping[str, S], Mapping[str, S]]) -> Mapping[str, S]:
    return {**maps[0], **maps[1]}


def _roots_of(response: core_pb2.ListRootsResponse) -> tuple[core_pb2.Root, ...]:
    return tuple(response.roots)


def _policies_of(response: policy_pb2.ListPoliciesResponse) -> Mapping[str, policy_pb2.PolicyDescriptor]:
    return {descriptor.policy_id: descriptor for descriptor in response.descriptors}


def _by_id(sessions: list[core_pb2.SessionMetadata]) -> Mapping[str, core_pb2.SessionMetadata]:
    return {metadata.session_id: metadata for metadata in sessions}


def live(
    shared: SharedTransport,
    what: str,
    listed: Callable[[], Observable[S]],
    hints: Observable[object],
    retry: RetryPolicy = RECONNECT,
) -> Stream[S]:
    """Emits the current set, and then each set that differs from the one before.

        hints   h---h-(hh)---
        lists   -a---b--b---
        emits   -a---b------

    A watch's events are hints and nothing more: some watches end cleanly where they lag, none says what was missed (`protocol.md`
    7). So the set is listed again after each hint, once for those that come meanwhile, and after every reconnect.

    Args:
        shared: what carries it.
        what: its name in ``client.subscriptions`` and in the log.
        listed: lists the set: one item.
        hints: the watch.
        retry: how to reconnect.

    Errors:
        What the list or the watch fails with for good, such as MacpTransportError with PERMISSION_DENIED.
    """

    def start(observer: abc.ObserverBase[S]) -> _Query[S]:
        query = _Query(shared, what, observer, listed, hints, retry)
        query.watch()
        return query

    return Stream(cold(shared, start, what), shared.clock, can_wait=True)


class _Query(Generic[S]):
    """One subscription: at most one list and one watch under way."""

    def __init__(
        self,
        shared: SharedTransport,
        what: str,
        observer: abc.ObserverBase[S],
        listed: Callable[[], Observable[S]],
        hints: Observable[object],
        retry: RetryPolicy,
    ) -> None:
        self._shared = shared
        self._what = what
        self._observer = observer
        self._listed = listed
        self._hints = hints
        self._watching = SerialDisposable()
        self._listing = SerialDisposable()
        self._backoff = Backoff(retry, shared.clock)
        self._stale = self._lists = self._paused = self._over = False
        self._last: list[S] = []

    def watch(self) -> None:
        self._watching.disposable = self._hints.subscribe(self._hint, self._lost, self._ended)

    def _hint(self, _event: object) -> None:
        if self._backoff.attempts:
            _log.info("%s: connected again", self._what)
            self._backoff.reset()
        self._stale = True
        self._list()

    def _list(self) -> None:
        if self._stale and not (self._lists or self._paused or self._over):
            self._stale, self._lists = False, True
            self._listing.disposable = self._listed().subscribe(self._take, self._lost)

    def _take(self, current: S) -> None:
        self._lists = False
        if self._last != [current]:
            self._last = [current]
            self._observer.on_next(current)
        self._list()

    def _ended(self) -> None:
        self._lost(MacpTransportError("UNAVAILABLE", "the server has ended the watch"))

    def _lost(self, error: Exception) -> None:
        """The watch or the list broke: both begin anew, and the watch's first event is the hint to list."""
        if self._over:
            return
        if (
            isinstance(error, MacpClosedError) and self._backoff.attempts
        ):  # silently, as every call of the client has ended
            self.cancel()
            return
        self._listing.disposable = SerialDisposable()
        self._lists = False
        self._stale = True
        delay = self._backoff.next() if may_pass(error, self._shared.transport) else None
        if delay is None:
            self.cancel()
            self._observer.on_error(error)
        else:
            if self._backoff.attempts == 1:
                _log.warning("%s: connection lost: %s", self._what, error)
            self._watching.disposable = self._shared.clock.run_later(delay, self._again)

    def _again(self) -> None:
        self.watch()
        self._list()

    # What a source must be able to do.

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._list()

    def cancel(self) -> None:
        self._over = True
        self._watching.dispose()
        self._listing.dispose()
