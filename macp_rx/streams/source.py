"""The source: one RPC per subscription, nothing sent before it, the RPC cancelled by dispose."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message as Protobuf
from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.internal import noop
from reactivex.scheduler.eventloop import AsyncIOScheduler

from macp_rx.clock import Clock, LoopClock, loop_clock
from macp_rx.errors import MacpTransportError
from macp_rx.streams.retry import RetryPolicy, is_transient, retried
from macp_rx.streams.stream import Cancellable, Demand, Running, Stream, on_demand
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.base import Method
from macp_rx.transport.shared import SharedTransport

if TYPE_CHECKING:
    from macp_rx.transport.grpc import ResponseStream

__all__ = ["cold", "kept_watching", "rpc_stream", "rpc_stream_of", "waited_on", "watch"]

_log = logging.getLogger("macp_rx.streams")

T = TypeVar("T")
Req = TypeVar("Req", bound=Protobuf)
Res = TypeVar("Res", bound=Protobuf)


def watch(
    shared: SharedTransport,
    method: Method[Req, Res],
    request: Req,
    *,
    auth: AuthConfig | None,
    timeout: float | None,
    listed: bool = True,
) -> Stream[Res]:
    """A server stream: emits each response.

        responses    ---a--b-----c--
        timeout 9ms  ---a--b--|

    Args:
        shared: what carries it.
        method: which RPC.
        request: its request.
        auth: who is calling.
        timeout: seconds after which the stream ends cleanly; None goes on until the server ends it.
        listed: in ``client.subscriptions``.
    """

    def start(observer: abc.ObserverBase[Res]) -> Cancellable:
        return shared.transport.stream(method, [request], observer, auth=auth)

    source: Observable[Res] = cold(shared, start, method.path.rpartition("/")[2] if listed else "")
    responses: Stream[Res] = Stream(source, shared.clock, can_wait=True)
    if timeout is None:
        return responses
    # it hands the scheduler of a subscription on, and takes nothing but time
    return responses.derived(ops.take_with_time(timeout, shared.clock)(responses), can_wait=True)


def kept_watching(
    shared: SharedTransport,
    method: Method[Req, Res],
    request: Req,
    *,
    auth: AuthConfig | None,
    what: str,
    retry: RetryPolicy,
    on_lost: Callable[[], None] = noop,
) -> Observable[Res]:
    """A watch that begins again when it breaks, and when the server ends it: so some say that they lag (`protocol.md` 7).

    Each time it begins with what a watch begins with, and what was missed is not told: so what it says is a hint to look.

    Args:
        shared: what carries it.
        method: which RPC.
        request: its request.
        auth: who is calling.
        what: its name in the log.
        retry: how to reconnect.
        on_lost: called when it breaks, each time.

    Errors:
        MacpTransportError: it failed for good.
    """
    responses = watch(shared, method, request, auth=auth, timeout=None, listed=False)  # what it is for is

    def unending(observer: abc.ObserverBase[Res], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
        def ended() -> None:
            observer.on_error(MacpTransportError("UNAVAILABLE", "the server has ended the watch", method=method.path))

        return responses.subscribe(observer.on_next, observer.on_error, ended, scheduler=scheduler)

    def subscribe(observer: abc.ObserverBase[Res], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
        lost = False

        def hear(response: Res) -> None:
            nonlocal lost
            shared.transport.reached = True
            if lost:
                lost = False
                _log.info("%s: connected again", what)
            observer.on_next(response)

        def lose(error: Exception) -> bool:
            nonlocal lost
            if not is_transient(error):
                return False
            if not lost:
                lost = True
                _log.warning("%s: connection lost: %s", what, error)
            on_lost()
            return True

        endless: Observable[Res] = Observable(unending)
        kept = retried(endless, retry, shared.clock, lose, shared.transport)
        return kept.subscribe(hear, observer.on_error, scheduler=scheduler)

    return Observable(subscribe)


def cold(shared: SharedTransport, start: Callable[[abc.ObserverBase[T]], Cancellable], what: str = "") -> Observable[T]:
    """A cold source: each subscription starts a call of its own, which waits with its consumer, and ends with its dispose.

    Args:
        shared: what carries it; its close is told to whoever waits.
        start: makes the call for an observer, on the clock's thread.
        what: its name in ``client.subscriptions``; without one it is not listed there.
    """

    def subscribe(observer: abc.ObserverBase[T], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
        def begin() -> Callable[[], None]:
            cancel = on_demand(start(observer), scheduler)
            return waited_on(shared, shared.running(what, cancel) if what else cancel, scheduler)

        return Running(shared.clock, begin, observer)

    return Observable(subscribe)


def waited_on(
    shared: SharedTransport, cancel: Callable[[], None], scheduler: abc.SchedulerBase | None
) -> Callable[[], None]:
    """Lets whoever waits for a call, if its subscription carries one, hear of the connection's close, and its buffers be seen.

    Returns:
        What cancels the call, and forgets them.
    """
    if not isinstance(scheduler, Demand):
        return cancel
    forget = shared.waited_on(scheduler.lose)
    unwatch = [shared.telemetry.buffer(buffer) for buffer in scheduler.buffers]

    def leave() -> None:
        forget()
        for stop in unwatch:
            stop()
        cancel()

    return leave


def rpc_stream(open_call: Callable[[], ResponseStream[T]], *, scheduler: AsyncIOScheduler | Clock) -> Stream[T]:
    """Any gRPC stream of any stub as an Observable: one call per subscription, cancelled by dispose, paused by a slow reader.

    It belongs to a loop and to no client: `MacpClient.rpc_stream` is the same for one that ends with the client.

    Args:
        open_call: makes the grpc.aio call, such as ``lambda: stub.Watch(request)``; called on the loop, once per
            subscription, so that a stub made there belongs to the right loop.
        scheduler: names the loop: ``client.clock``, or an AsyncIOScheduler of your own.

    Raises:
        MacpSessionError: the scheduler stands for no loop.

    Errors:
        MacpTransportError with status, trailers and cause, where the call ends other than with OK.
    """
    clock = loop_clock(scheduler)

    def subscribe(observer: abc.ObserverBase[T], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
        return Running(clock, lambda: on_demand(_called(clock, open_call, observer), scheduler), observer)

    return Stream(Observable(subscribe), clock, can_wait=True)


def rpc_stream_of(shared: SharedTransport, open_call: Callable[[], ResponseStream[T]]) -> Stream[T]:
    """The same on a client's loop, listed in ``client.subscriptions`` and ended by its close."""
    clock = loop_clock(shared.clock)

    def start(observer: abc.ObserverBase[T]) -> Cancellable:
        shared.check_open()
        return _called(clock, open_call, observer)

    return Stream(cold(shared, start, "a gRPC stream"), clock, can_wait=True)


def _called(clock: LoopClock, open_call: Callable[[], ResponseStream[T]], observer: abc.ObserverBase[T]) -> Cancellable:
    from macp_rx.transport.grpc import GrpcCall

    call = GrpcCall[Protobuf, T](lambda _metadata: open_call(), observer)
    task = call.start(clock.loop)
    _live.add(task)
    task.add_done_callback(_live.discard)
    return call


_live: set[asyncio.Task[None]] = set()  # a loop keeps only weak references to its tasks
