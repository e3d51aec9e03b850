"""Live queries: what a list says now, and again whenever it may have changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from reactivex import Observable, abc
from reactivex.disposable import SerialDisposable

from macp_rx.errors import MacpTransportError
from macp_rx.streams.retry import Backoff, RetryPolicy, is_transient
from macp_rx.streams.source import cold
from macp_rx.streams.stream import Stream
from macp_rx.transport.shared import SharedTransport

__all__ = ["live"]

_log = logging.getLogger("macp_rx.streams")

S = TypeVar("S")


def live(
    shared: SharedTransport,
    what: str,
    listed: Callable[[], Observable[S]],
    hints: Callable[[], Observable[object]],
    retry: RetryPolicy,
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
        hints: Callable[[], Observable[object]],
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
        self._watching.disposable = self._hints().subscribe(self._hint, self._lost, self._ended)

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
        self._listing.disposable = SerialDisposable()
        self._lists = False
        self._stale = True
        delay = self._backoff.next() if is_transient(error) and self._shared.transport.reached else None
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
