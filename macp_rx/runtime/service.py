"""The embedded runtime on a real port: every RPC of the service, over the same kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message as Protobuf
from google.protobuf.message_factory import GetMessageClass
from macp.v1 import core_pb2

from macp_rx.clock import LoopClock
from macp_rx.errors import GRPC_STATUS, MacpError, MacpRefusedError

if TYPE_CHECKING:
    from macp_rx.runtime.feeds import Feed
    from macp_rx.runtime.runtime import Runtime

__all__ = ["Server"]

Context = grpc.aio.ServicerContext[Any, Any]

T = TypeVar("T")

SERVICE: Final = core_pb2.DESCRIPTOR.services_by_name["MACPRuntimeService"]
BEARER: Final = "Bearer "


class Server:
    """A port that serves a runtime. Close it, or use it as a context manager.

    Args:
        runtime: what it serves.
        bind: ``host:port``.
    """

    def __init__(self, runtime: Runtime, bind: str) -> None:
        clock = runtime.clock
        if not isinstance(clock, LoopClock):
            raise MacpError("a port needs real time: this runtime is on a virtual clock, so use MacpClient.embedded")
        self._clock = clock
        self._runtime = runtime
        self._server: grpc.aio.Server | None = None
        host = bind.rpartition(":")[0]
        self.target: str = f"{host}:{self._on_loop(self._start(bind))}"
        """Where clients reach it, ``host:port``."""

    def close(self) -> None:
        """Ends every call with UNAVAILABLE and frees the port. Any number of times."""
        if self._server is not None:
            self._on_loop(self._stop())

    def __enter__(self) -> Self:
        """The server itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()

    def _on_loop(self, work: Any) -> Any:
        if self._clock.on_own_thread():
            work.close()
            raise MacpError("open and close a server outside the runtime's own thread")
        return asyncio.run_coroutine_threadsafe(work, self._clock.loop).result()

    async def _start(self, bind: str) -> int:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {method.name: _handler(self._runtime, method) for method in SERVICE.methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
        try:
            port = server.add_insecure_port(bind)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {bind}: {error}") from None
        await server.start()
        self._server = server
        return port

    async def _stop(self) -> None:
        # every reference to an aio object goes: grpc's poller thread lives as long as any of them
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace=0)


def _handler(runtime: Runtime, method: Any) -> grpc.RpcMethodHandler[Any, Any]:
    request = GetMessageClass(method.input_type)
    response = GetMessageClass(method.output_type)
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(
            _stream_session(runtime), request.FromString, response.SerializeToString
        )
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(
            _watch(runtime, method.name), request.FromString, response.SerializeToString
        )
    return grpc.unary_unary_rpc_method_handler(
        _unary(runtime, method.name, response), request.FromString, response.SerializeToString
    )


def _unary(
    runtime: Runtime, name: str, empty: Callable[[], Protobuf]
) -> Callable[[Protobuf, Context], Awaitable[Protobuf]]:
    async def answer(request: Protobuf, context: Context) -> Protobuf:
        caller = _caller(context)
        reply = _attempt(context, lambda: runtime.unary(name, caller, request))
        return empty() if reply is None else reply  # beside a status that is not OK no client sees it

    return answer


def _watch(runtime: Runtime, name: str) -> Callable[[Protobuf, Context], AsyncIterator[Protobuf]]:
    async def answer(_request: Protobuf, context: Context) -> AsyncIterator[Protobuf]:
        caller = _caller(context)
        feed = _attempt(context, lambda: runtime.watch(name, caller))
        if feed is not None:
            async for response in _said(runtime, feed, context):
                yield response

    return answer


def _stream_session(
    runtime: Runtime,
) -> Callable[[AsyncIterator[core_pb2.StreamSessionRequest], Context], AsyncIterator[Protobuf]]:
    async def answer(frames: AsyncIterator[core_pb2.StreamSessionRequest], context: Context) -> AsyncIterator[Protobuf]:
        caller = _caller(context)
        call = _attempt(context, lambda: runtime.stream_session(caller))
        if call is None:
            return

        async def take_frames() -> None:
            async for frame in frames:
                call.frame(frame)
                await call.feed.room()  # a client that sends nonsense and never reads is held back by flow control
            call.half_close()

        taking = asyncio.get_running_loop().create_task(take_frames())
        try:
            async for response in _said(runtime, call.feed, context):
                yield response
        finally:
            taking.cancel()

    return answer


def _attempt(context: Context, work: Callable[[], T]) -> T | None:
    """What ``work`` returns; if it is refused, None, and the call's status says why."""
    try:
        return work()
    except (MacpRefusedError, NotImplementedError) as refusal:
        _fail(context, refusal)
        return None


async def _said(runtime: Runtime, feed: Feed[Any], context: Context) -> AsyncIterator[Protobuf]:
    """What a feed says, as fast as the client reads; then its end as the call's."""
    more = asyncio.Event()
    feed.wake = more.set
    try:
        while True:
            more.clear()
            while (item := feed.take()) is not None:
                yield item
            if feed.ended:
                break
            await more.wait()
        if feed.error is not None:
            _fail(context, feed.error)
    finally:
        runtime.leave(feed)


def _caller(context: Context) -> str | None:
    """Development authentication: the bearer value is the sender (`protocol.md` 8.2)."""
    found = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    authorization = found.get("authorization", "")
    if authorization.startswith(BEARER):
        return authorization.removeprefix(BEARER)
    return found.get("x-macp-token")


def _fail(context: Context, refusal: MacpRefusedError | NotImplementedError) -> None:
    # Not context.abort(): it keeps the exception that it raises, whose traceback keeps the call, so that neither the call nor
    # grpc's poller thread goes before the garbage collector comes (measured).
    if isinstance(refusal, NotImplementedError):
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details(str(refusal))
        return
    trailers: list[tuple[str, str | bytes]] = [("macp-error-code", refusal.code)]
    if refusal.details:
        trailers.append(("macp-error-details-bin", refusal.details))
    context.set_trailing_metadata(tuple(trailers))
    context.set_code(grpc.StatusCode[GRPC_STATUS[refusal.code]])
    context.set_details(refusal.message)
