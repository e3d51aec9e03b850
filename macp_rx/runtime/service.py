"""The embedded runtime on a real port: every RPC of the service, over the same kernel, and ``grpc.health.v1``."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from macp.v1 import core_pb2

from macp_rx.clock import LoopClock
from macp_rx.errors import MacpError, MacpRefusedError, MacpSessionError, MacpTransportError
from macp_rx.protocol.wire import parse
from macp_rx.runtime.failure import failure
from macp_rx.runtime.identity import Identity

if TYPE_CHECKING:
    from macp_rx.runtime.feeds import Feed
    from macp_rx.runtime.runtime import Runtime

__all__ = ["Server", "Tls", "host_of"]

Context = grpc.aio.ServicerContext[Any, Any]

T = TypeVar("T")
M = TypeVar("M", bound=Protobuf)

_log = logging.getLogger("macp_rx.runtime")

SERVICE: Final = core_pb2.DESCRIPTOR.services_by_name["MACPRuntimeService"]
BEARER: Final = "Bearer "
FRAME_ROOM: Final = 65_536
"""How much larger than its payload a frame may be (`protocol.md` 1.0)."""
LONGEST_DETAIL: Final = 1_000
"""A status message travels in a header, and a header of more than 8 kB breaks the call: a long id is cut in it."""
LAST_WORDS: Final = 2.0
"""Seconds in which streams that a closing server ends can still tell their clients so."""

_BIND: Final = re.compile(r"(\[[^\[\]]+\]|[^\[\]:/]+):([0-9]{1,5})")


def host_of(bind: str) -> str:
    """The host of ``host:port``, an IPv6 address with its brackets.

    gRPC itself takes what is not of that form, and listens elsewhere: on 443 without a port, on 34463 for 99999 (measured).

    Raises:
        MacpSessionError: it is not of that form.
    """
    parts = _BIND.fullmatch(bind)
    if parts is None or int(parts[2]) > 65_535:
        raise MacpSessionError(
            f"cannot listen on {bind!r}: it must be host:port, the port from 0 to 65535, such as 127.0.0.1:50051, "
            "[::1]:0, or 0.0.0.0:50051 for every address of this machine"
        )
    return parts[1]


@dataclass(frozen=True, slots=True)
class Tls:
    """What a port needs for TLS.

    Attributes:
        certificate_chain: PEM of its certificate.
        private_key: PEM of its key.
        client_ca: PEM of the CA that must have signed a client's certificate; None asks for none.
    """

    certificate_chain: bytes
    private_key: bytes = field(repr=False)
    client_ca: bytes | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """The same for gRPC."""
        return grpc.ssl_server_credentials(
            [(self.private_key, self.certificate_chain)], self.client_ca, self.client_ca is not None
        )


class Server:
    """A port that serves a runtime. Close it, or use it as a context manager.

    Args:
        runtime: what it serves.
        bind: ``host:port``.
        tls: its certificate; None is plaintext.
        drain: seconds that calls under way get when it closes.

    Raises:
        MacpSessionError: ``bind`` is not of that form.
        MacpError: the runtime is on a virtual clock.
        OSError: the port cannot be bound.
    """

    def __init__(self, runtime: Runtime, bind: str, *, tls: Tls | None = None, drain: float = 0) -> None:
        host, clock = host_of(bind), runtime.clock
        if not isinstance(clock, LoopClock):
            raise MacpError("a port needs real time: this runtime is on a virtual clock, so use MacpClient.embedded")
        self._clock = clock
        self._drain = drain
        self._service = _Service(runtime)
        self._server: grpc.aio.Server | None = None
        self.target: str = f"{host}:{self._on_loop(self._start(bind, tls))}"
        """Where clients reach it, ``host:port``."""

    def close(self) -> None:
        """Takes no more calls, ends every stream with UNAVAILABLE, and frees the port. Any number of times."""
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

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        if self._clock.on_own_thread():
            work.close()
            raise MacpError("open and close a server outside the runtime's own thread")
        return asyncio.run_coroutine_threadsafe(work, self._clock.loop).result()

    async def _start(self, bind: str, tls: Tls | None) -> int:
        # what is too large for MACP is refused by the service itself, with MACP's status; beyond that by gRPC
        largest = 2 * self._service.largest_frame
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", largest),
            # a client may ask every ten seconds whether we are there; gRPC's default is to hang up on it
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((self._service.handlers(), self._service.health()))
        try:
            port = server.add_insecure_port(bind) if tls is None else server.add_secure_port(bind, tls.credentials())
        except RuntimeError as error:
            or_why = "" if tls is None else "; or its certificate, key or client CA is wrong: gRPC does not say"
            raise OSError(f"cannot listen on {bind}: {error}{or_why}") from None
        await server.start()
        self._server = server
        return port

    async def _stop(self) -> None:
        # every reference to an aio object goes: grpc's poller thread lives as long as any of them
        server, self._server = self._server, None
        if server is not None:
            self._service.shut()
            await server.stop(grace=max(self._drain, LAST_WORDS))


class _Service:
    """Every RPC, as gRPC calls it: bytes in, for a frame that is no protobuf must get MACP's status and not gRPC's."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._feeds: dict[Feed[Any], None] = {}
        self._shut = asyncio.Event()
        self.largest_frame: int = runtime.state.settings.max_payload_bytes + FRAME_ROOM

    def handlers(self) -> grpc.GenericRpcHandler:
        """The MACP service."""
        made = {method.name: self._handler(method) for method in SERVICE.methods}
        return grpc.method_handlers_generic_handler(SERVICE.full_name, made)

    def shut(self) -> None:
        """Ends every stream with UNAVAILABLE."""
        self._shut.set()
        for feed in tuple(self._feeds):
            feed.close()

    def _handler(self, method: Any) -> grpc.RpcMethodHandler[Any, Any]:
        request: type[Protobuf] = GetMessageClass(method.input_type)
        response = GetMessageClass(method.output_type).SerializeToString
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream_session, None, response)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._watch(method.name, request), None, response)
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method.name, request, GetMessageClass(method.output_type)), None, response
        )

    def _unary(
        self, name: str, request: type[Protobuf], empty: Callable[[], Protobuf]
    ) -> Callable[[bytes, Context], Awaitable[Protobuf]]:
        async def answer(frame: bytes, context: Context) -> Protobuf:
            def reply() -> Protobuf | MacpRefusedError:
                return self._runtime.unary(name, self._caller(context), self._parsed(request, frame))

            said = _attempt(context, reply)
            if isinstance(said, MacpRefusedError):
                _fail(context, failure(said))
                said = None
            return said or empty()  # beside a status that is not OK no client sees it

        return answer

    def _watch(self, name: str, request: type[Protobuf]) -> Callable[[bytes, Context], AsyncIterator[Protobuf]]:
        async def answer(frame: bytes, context: Context) -> AsyncIterator[Protobuf]:
            def feed() -> Feed[Protobuf]:
                self._parsed(request, frame)
                return self._runtime.watch(name, self._caller(context))

            opened = _attempt(context, feed)
            if opened is not None:
                async for response in self._said(opened, context):
                    yield response

        return answer

    async def _stream_session(self, frames: AsyncIterator[bytes], context: Context) -> AsyncIterator[Protobuf]:
        call = _attempt(context, lambda: self._runtime.stream_session(self._caller(context)))
        if call is None:
            return

        async def take_frames() -> None:
            async for frame in frames:
                try:
                    call.frame(self._parsed(core_pb2.StreamSessionRequest, frame))
                except MacpRefusedError as refusal:
                    call.feed.end(refusal)
                await call.feed.room()  # a client that sends nonsense and never reads is held back by flow control
            call.half_close()

        taking = asyncio.get_running_loop().create_task(take_frames())
        try:
            async for response in self._said(call.feed, context):
                yield response
        finally:
            taking.cancel()

    async def _said(self, feed: Feed[Any], context: Context) -> AsyncIterator[Protobuf]:
        """What a feed says, as fast as the client reads; then its end as the call's."""
        more = asyncio.Event()
        feed.wake = more.set
        self._feeds[feed] = None
        try:
            while True:
                more.clear()
                while (item := feed.take()) is not None:
                    yield item
                if feed.ended:
                    break
                await more.wait()
            if (failed := feed.failure()) is not None:
                _fail(context, failed)
        finally:
            del self._feeds[feed]
            self._runtime.leave(feed)

    def _caller(self, context: Context) -> Identity | None:
        """Whom the call's credential speaks for (`protocol.md` 8.1)."""
        found: dict[str, str] = {}
        for key, value in context.invocation_metadata() or ():
            if isinstance(value, str):
                found.setdefault(key, value)  # of two the first counts, as for the reference runtime (probed)
        authorization = found.get("authorization", "")
        if authorization.startswith(BEARER):
            return self._runtime.caller(authorization.removeprefix(BEARER))
        return self._runtime.caller(found.get("x-macp-token"))

    def _parsed(self, request: type[M], frame: bytes) -> M:
        if len(frame) > self.largest_frame:
            raise _TooLargeError(f"a frame of {len(frame)} bytes; {self.largest_frame} are allowed")
        try:
            return parse(request, frame)
        except DecodeError:
            raise MacpRefusedError("INVALID_REQUEST", f"the frame is no {request.DESCRIPTOR.full_name}") from None

    def health(self) -> grpc.GenericRpcHandler:
        """``grpc.health.v1.Health``: SERVING for the whole server and for MACP, until it closes.

        Its messages have one field each, so the well-known wrappers are the same on the wire: a string, an enum's number.
        """
        serving, not_serving = 1, 2

        async def check(request: StringValue, context: Context) -> Int32Value:
            if request.value not in ("", SERVICE.full_name):
                context.set_code(grpc.StatusCode.NOT_FOUND)
                context.set_details("no such service here")
            return Int32Value(value=serving)

        async def watch(request: StringValue, context: Context) -> AsyncIterator[Int32Value]:
            unknown = 3  # SERVICE_UNKNOWN
            yield Int32Value(value=serving if request.value in ("", SERVICE.full_name) else unknown)
            await self._shut.wait()
            yield Int32Value(value=not_serving)

        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(check, StringValue.FromString, Int32Value.SerializeToString),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, StringValue.FromString, Int32Value.SerializeToString),
        }
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)


class _TooLargeError(MacpError):
    """The reference runtime's answer has a status and no MACP code (probed)."""


def _attempt(context: Context, work: Callable[[], T]) -> T | None:
    """What ``work`` returns; if it is refused, None, and the call's status says why."""
    try:
        return work()
    except MacpRefusedError as refusal:
        _fail(context, failure(refusal))
    except _TooLargeError as error:
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        context.set_details(str(error))
    except Exception:
        # a defect of ours: this call ends, the server goes on
        _log.exception("a call failed")
        _fail(context, failure(MacpRefusedError("INTERNAL_ERROR", "a defect of the runtime; its log has more")))
    return None


def _fail(context: Context, failed: MacpTransportError) -> None:
    # Not context.abort(): it keeps the exception that it raises, whose traceback keeps the call, so that neither the call nor
    # grpc's poller thread goes before the garbage collector comes (measured).
    context.set_trailing_metadata(failed.trailing_metadata)
    context.set_code(grpc.StatusCode[failed.status])
    context.set_details(failed.message[:LONGEST_DETAIL])
