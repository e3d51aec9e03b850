"""A list that comes in pages, as one stream."""

from __future__ import annotations

from collections.abc import Callable

from macp.v1 import core_pb2
from reactivex import Observable, abc
from reactivex.disposable import SerialDisposable

from macp_rx.streams.reply import DEFAULT_TIMEOUT, ask
from macp_rx.streams.stream import Demand, Stream
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.methods import LIST_SESSIONS
from macp_rx.transport.shared import SharedTransport

__all__ = ["all_pages"]


def all_pages(
    shared: SharedTransport, auth: AuthConfig | None, page_size: int = 0, timeout: float | None = DEFAULT_TIMEOUT
) -> Stream[core_pb2.SessionMetadata]:
    """Every session in the runtime's memory: the next page is asked for when the one before was taken.

        pages      -(abc)--(de)
        sessions   -(abc)--(de|)

    Args:
        shared: what carries the calls.
        auth: who asks.
        page_size: sessions on a page; 0 leaves it to the runtime.
        timeout: seconds that each page may take.
    """

    def page(token: str) -> Stream[core_pb2.ListSessionsResponse]:
        request = core_pb2.ListSessionsRequest(page_size=page_size, page_token=token)
        return ask(shared, LIST_SESSIONS, request, _whole, auth=auth, timeout=timeout)

    def subscribe(
        observer: abc.ObserverBase[core_pb2.SessionMetadata], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        pages = _Pages(page, observer, scheduler)
        if isinstance(scheduler, Demand):
            scheduler.add(pages)
        pages.ask("")
        return pages

    return Stream(Observable(subscribe), shared.clock, can_wait=True)


class _Pages(abc.DisposableBase):
    """Says the sessions of one page after the other; asks for the next page only when it may go on."""

    def __init__(
        self,
        page: Callable[[str], Stream[core_pb2.ListSessionsResponse]],
        observer: abc.ObserverBase[core_pb2.SessionMetadata],
        scheduler: abc.SchedulerBase | None,
    ) -> None:
        self._page = page
        self._observer = observer
        self._scheduler = scheduler
        self._asking = SerialDisposable()
        self._paused = False
        self._next: str | None = None

    def ask(self, token: str) -> None:
        self._asking.disposable = self._page(token).subscribe(
            self._take, self._observer.on_error, scheduler=self._scheduler
        )

    def _take(self, response: core_pb2.ListSessionsResponse) -> None:
        for session in response.sessions:
            self._observer.on_next(session)
        if not response.next_page_token:
            self._observer.on_completed()
        elif self._paused:
            self._next = response.next_page_token
        elif not self._asking.is_disposed:
            self.ask(response.next_page_token)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        token, self._next = self._next, None
        if token is not None:
            self.ask(token)

    def dispose(self) -> None:
        self._asking.dispose()


def _whole(response: core_pb2.ListSessionsResponse) -> core_pb2.ListSessionsResponse:
    return response
