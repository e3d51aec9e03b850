"""Live queries: what a list says now, and again whenever it may have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

import reactivex as rx
from google.protobuf.message import Message as Protobuf
from macp.v1 import core_pb2, policy_pb2
from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.disposable import SerialDisposable

from macp_rx.clock import Clock
from macp_rx.streams.pages import all_pages
from macp_rx.streams.reply import DEFAULT_TIMEOUT, ask
from macp_rx.streams.retry import RECONNECT, retried
from macp_rx.streams.source import cold, kept_watching
from macp_rx.streams.stream import Stream, tell_raised
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

S = TypeVar("S")
Req = TypeVar("Req", bound=Protobuf)
Res = TypeVar("Res", bound=Protobuf)


def modes(shared: SharedTransport, auth: AuthConfig | None) -> Stream[Mapping[str, core_pb2.ModeDescriptor]]:
    """The modes by name, standards-track and extensions."""
    standard = _list(shared, auth, LIST_MODES, core_pb2.ListModesRequest(), _modes_of)
    extensions = _list(shared, auth, LIST_EXT_MODES, core_pb2.ListExtModesRequest(), _modes_of)
    listed: Observable[Mapping[str, core_pb2.ModeDescriptor]] = rx.zip(standard, extensions).pipe(ops.map(_merged))
    return live(shared, auth, "live modes", listed, WATCH_MODE_REGISTRY, core_pb2.WatchModeRegistryRequest())


def roots(shared: SharedTransport, auth: AuthConfig | None) -> Stream[tuple[core_pb2.Root, ...]]:
    """The coordination roots."""
    listed = _list(shared, auth, LIST_ROOTS, core_pb2.ListRootsRequest(), _roots_of)
    return live(shared, auth, "live roots", listed, WATCH_ROOTS, core_pb2.WatchRootsRequest())


def policies(
    shared: SharedTransport, auth: AuthConfig | None, mode: str
) -> Stream[Mapping[str, policy_pb2.PolicyDescriptor]]:
    """The policies by id, those of a mode or all."""
    listed = _list(shared, auth, LIST_POLICIES, policy_pb2.ListPoliciesRequest(mode=mode), _policies_of)
    return live(shared, auth, "live policies", listed, WATCH_POLICIES, policy_pb2.WatchPoliciesRequest())


def sessions(shared: SharedTransport, auth: AuthConfig | None) -> Stream[Mapping[str, core_pb2.SessionMetadata]]:
    """The sessions in the runtime's memory by id, ended ones too."""
    listed = all_pages(shared, auth).pipe(ops.to_list(), ops.map(_by_id))
    request = core_pb2.WatchSessionsRequest()
    return live(shared, auth, "live sessions", listed, WATCH_SESSIONS, request, begins_silent=True)


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
    auth: AuthConfig | None,
    what: str,
    listed: Observable[S],
    method: Method[Req, Res],
    request: Req,
    *,
    begins_silent: bool = False,
) -> Stream[S]:
    """Emits the current set, and then each set that differs from the one before.

        hints   h---h-(hh)---
        lists   -a---b--b---
        emits   -a---b------

    A watch's events are hints and nothing more: some watches end cleanly where they lag, none says what was missed (`protocol.md`
    7). So the set is listed again after each hint, once for those that come meanwhile, and after every reconnect.

    Args:
        shared: what carries it.
        auth: who asks.
        what: its name in ``client.subscriptions`` and in the log.
        listed: lists the set: one item.
        method: the watch.
        request: its request.
        begins_silent: the watch says nothing where there is nothing yet, so that it must be listed without a hint.

    Errors:
        What the list or the watch fails with for good, such as MacpTransportError with PERMISSION_DENIED.
    """
    hints = kept_watching(shared, method, request, auth=auth, what=what, retry=RECONNECT)
    lists = retried(listed, RECONNECT, shared.clock)

    def start(observer: abc.ObserverBase[S]) -> _Query[S]:
        query = _Query(shared.clock, observer, lists, hints)
        query.watch()
        if begins_silent:
            query.hint()
        return query

    return Stream(cold(shared, start, what), shared.clock, can_wait=True)


class _Query(Generic[S]):
    """One subscription: at most one list under way."""

    def __init__(
        self, clock: Clock, observer: abc.ObserverBase[S], listed: Observable[S], hints: Observable[object]
    ) -> None:
        self._clock = clock
        self._observer = observer
        self._listed = listed
        self._hints = hints
        self._watching = SerialDisposable()
        self._listing = SerialDisposable()
        self._stale = self._lists = self._paused = self._over = False
        self._last: list[S] = []

    def watch(self) -> None:
        self._watching.disposable = self._hints.subscribe(self.hint, self._fail)

    def hint(self, _event: object = None) -> None:
        self._stale = True
        self._list()

    def _list(self) -> None:
        if self._stale and not (self._lists or self._paused or self._over):
            self._stale, self._lists = False, True
            self._listing.disposable = self._listed.subscribe(self._take, self._fail)

    def _take(self, current: S) -> None:
        self._lists = False
        if self._last != [current]:
            self._last = [current]
            try:
                self._observer.on_next(current)
            except Exception as error:  # its own; the list, which has ended with its one item, cannot tell it
                self.cancel()
                tell_raised(self._clock, self._observer, error)
        self._list()

    def _fail(self, error: Exception) -> None:
        if not self._over:
            self.cancel()
            self._observer.on_error(error)

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
