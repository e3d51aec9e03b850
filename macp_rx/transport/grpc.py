"""gRPC behind the seam: grpc.aio on one loop, a pool of connections, errors of one tree."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message as Protobuf
from reactivex.internal import noop
from reactivex.internal.basic import identity

from macp_rx.clock import LoopClock
from macp_rx.errors import MacpClosedError, MacpSessionError, MacpTimeoutError, MacpTransportError
from macp_rx.transport.auth import AuthConfig, TokenProvider
from macp_rx.transport.base import BLOCKED, SUBSCRIBER, Call, Metadata, Method, Receiver, reply_to, report_blocked
from macp_rx.transport.telemetry import OFF

__all__ = ["ChannelOptions", "GrpcCall", "GrpcTransport", "ResponseStream", "tls_credentials"]

Req = TypeVar("Req", bound=Protobuf)
Res = TypeVar("Res", bound=Protobuf)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

ChannelOptions = Sequence[tuple[str, str | int]]

STREAMS_PER_CHANNEL: Final = 100
"""The real server allows 128 HTTP/2 streams per connection, and past that everything hangs, unary calls too (measured)."""

IDLE_SECONDS: Final = 10.0
"""How long a connection without streams is kept: reopening one costs two round trips, keeping it a file descriptor."""

DEFAULT_OPTIONS: Final[ChannelOptions] = (
    ("grpc.use_local_subchannel_pool", 1),  # without it equal targets share one connection, and with it its limit
    ("grpc.max_receive_message_length", -1),  # the server bounds requests, not responses (lists of metadata, what-if)
    ("grpc.initial_reconnect_backoff_ms", 100),  # the default of 1 s decides how soon a cut is healed
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 2000),  # how long one attempt to connect may take; the default is 20 s
    # a peer that is gone without a word is found out by a ping; the reference runtime takes any number of them
    ("grpc.keepalive_time_ms", 10_000),
    (
        "grpc.http2.ping_timeout_ms",
        10_000,
    ),  # 60 s by default; grpc's core does not use keepalive_timeout_ms (grpc#39239)
    ("grpc.http2.max_pings_without_data", 0),  # no limit; by default an idle stream is pinged twice and never again
)


def _ended(_identity: Metadata) -> Any:
    raise MacpClosedError("the call has ended")


def tls_credentials(root: bytes | None, key: bytes | None, chain: bytes | None) -> grpc.ChannelCredentials:
    """TLS by PEM files. Raises MacpSessionError for what can never work."""
    if (key is None) != (chain is None):  # grpc aborts the process at the first call (measured)
        raise MacpSessionError("mutual TLS takes both private_key and certificate_chain; one of them is missing")
    for name, pem in (("root_certificates", root), ("private_key", key), ("certificate_chain", chain)):
        if pem is not None and (not isinstance(pem, bytes) or b"-----BEGIN" not in pem):
            raise MacpSessionError(f"{name} is the content of a PEM file, as bytes: Path(…).read_bytes()")
    return grpc.ssl_channel_credentials(root, key, chain)


class GrpcTransport:
    """A runtime at the other end of a network.

    Args:
        target: ``host:port``.
        clock: the loop on which every call lives.
        credentials: TLS credentials; None is plaintext.
        options: gRPC channel options, over the defaults of this module.
        trace: says to which trace the work at hand belongs, for calls that are in none of their own.
        streams_per_channel: open another connection beyond that many concurrent streams.
    """

    def __init__(
        self,
        target: str,
        *,
        clock: LoopClock,
        credentials: grpc.ChannelCredentials | None,
        options: ChannelOptions = (),
        trace: Callable[[], Metadata] = OFF.trace,
        streams_per_channel: int = STREAMS_PER_CHANNEL,
    ) -> None:
        self.clock = clock
        self.reached: bool = False
        self._target = target
        self._credentials = credentials
        # of two values of one option grpc takes the first (measured), and we the last
        self._options = list({option[0]: option for option in (*DEFAULT_OPTIONS, *options)}.values())
        self._trace = trace
        self._streams_per_channel = streams_per_channel
        self._unary: _Connection | None = None
        self._streaming: list[_Connection] = []
        # the loop keeps only weak references to its tasks
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def in_process(self) -> bool:
        """It is at the other end of a network."""
        return False

    def unary(
        self,
        method: Method[Req, Res],
        request: Req,
        receiver: Receiver[Res],
        *,
        auth: AuthConfig | None,
        timeout: float | None,
        trace: Metadata | None = None,
    ) -> Callable[[], None]:
        """Starts a unary call on the connection that no stream uses."""
        self._check_open()
        if self._unary is None:
            self._unary = self._connect()
        trace = self._trace() if trace is None else trace
        work = self._call(self._unary, method, request, receiver, auth, timeout, trace)
        task = self._track(self.clock.loop.create_task(work))

        def cancel() -> None:
            task.cancel()

        return cancel

    async def _call(
        self,
        connection: _Connection,
        method: Method[Req, Res],
        request: Req,
        receiver: Receiver[Res],
        auth: AuthConfig | None,
        timeout: float | None,
        trace: Metadata,
    ) -> None:
        try:
            # neither the call nor the token get a name here: a consumer's exception keeps this frame, and grpc's poller thread
            # would live as long as a call in it
            response = await connection.open(method)(
                request, metadata=await metadata(auth, timeout) + trace, timeout=timeout
            )
        except asyncio.CancelledError:
            _cancelled_by_peer(receiver, method.path)
        except grpc.aio.AioRpcError as error:
            receiver.on_error(transport_error(error, method.path, timeout))
        except Exception as error:
            receiver.on_error(error)
        else:
            self.reached = True
            began = monotonic()
            reply_to(receiver, response)
            if monotonic() - began > BLOCKED:
                report_blocked(began, SUBSCRIBER.get())

    def stream(
        self,
        method: Method[Req, Res],
        requests: Sequence[Req],
        receiver: Receiver[Res],
        *,
        auth: AuthConfig | None,
        on_sent: Callable[[], None] = noop,
        patient: bool = False,
        trace: Metadata | None = None,
    ) -> Call[Req]:
        """Starts a streaming call on a connection with room."""
        self._check_open()
        traced = self._trace() if trace is None else trace
        connection = self._with_room()
        open_method = connection.open(method)
        first = None if method.client_streaming else requests[0]

        def open_call(identity: Metadata) -> ResponseStream[Res]:
            request = () if first is None else (first,)
            return cast(
                "ResponseStream[Res]", open_method(*request, metadata=identity + traced, wait_for_ready=patient)
            )

        call = GrpcCall[Req, Res](
            open_call,
            receiver,
            requests=requests if first is None else (),
            auth=auth,
            path=method.path,
            on_sent=on_sent,
            on_end=connection.leave,
        )
        connection.enter()
        self._track(call.start(self.clock.loop))
        return call

    def close(self, on_closed: Callable[[], None]) -> None:
        """Cancels every call and closes every connection."""
        if not self._closed:
            self._closed = True
            for task in self._tasks:
                task.cancel()
        self._closing = self.clock.loop.create_task(self._close())
        self._closing.add_done_callback(lambda _task: on_closed())

    async def _close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        connections = [*self._streaming, *([self._unary] if self._unary else [])]
        self._unary = None
        self._streaming.clear()
        for connection in connections:
            await connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise MacpClosedError(f"the client for {self._target} is closed")

    def _track(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _with_room(self) -> _Connection:
        for connection in self._streaming:
            if connection.streams < self._streams_per_channel:
                return connection
        connection = self._connect(on_idle=self._close_idle)
        self._streaming.append(connection)
        return connection

    def _connect(self, on_idle: Callable[[_Connection], None] | None = None) -> _Connection:
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(self._target, self._options)
        else:
            channel = grpc.aio.secure_channel(self._target, self._credentials, self._options)
        return _Connection(channel, on_idle)

    def _close_idle(self, connection: _Connection) -> None:
        def close_if_still_idle() -> None:
            if connection.streams == 0 and connection in self._streaming and not self._closed:
                self._streaming.remove(connection)
                self._track(self.clock.loop.create_task(connection.close()))

        if not self._closed:
            connection.idle = self.clock.loop.call_later(IDLE_SECONDS, close_if_still_idle)


class _Connection:
    """One channel, the multi-callables made on it, and how many streams it carries."""

    def __init__(self, channel: grpc.aio.Channel, on_idle: Callable[[_Connection], None] | None) -> None:
        self.streams = 0
        self.idle: asyncio.TimerHandle | None = None
        self._channel: grpc.aio.Channel | None = channel
        self._on_idle = on_idle
        self._open: dict[str, Callable[..., Any]] = {}

    def open(self, method: Method[Any, Any]) -> Callable[..., Any]:
        made = self._open.get(method.path)
        if made is None:
            if self._channel is None:
                raise MacpClosedError("the connection is closed")
            kind = (
                self._channel.stream_stream
                if method.client_streaming
                else self._channel.unary_stream
                if method.server_streaming
                else self._channel.unary_unary
            )
            made = self._open[method.path] = kind(
                method.path, method.request.SerializeToString, method.response.FromString
            )
        return made

    def enter(self) -> None:
        self.streams += 1
        if self.idle is not None:
            self.idle.cancel()
            self.idle = None

    def leave(self) -> None:
        self.streams -= 1
        if self.streams == 0 and self._on_idle is not None:
            self._on_idle(self)

    async def close(self) -> None:
        if self.idle is not None:
            self.idle.cancel()
        self._open.clear()
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


class ResponseStream(Protocol[T_co]):
    """A grpc.aio call whose responses are iterated: of any stub, any service."""

    def __aiter__(self) -> AsyncIterator[T_co]:
        """The responses; raises AioRpcError unless the call ended with OK."""
        ...

    def cancel(self) -> bool:
        """Ends the call."""
        ...


class GrpcCall(Generic[Req, T]):
    """One streaming call. The whole bridge from grpc.aio to a receiver is `_run`.

    Args:
        open_call: opens the call, with the metadata that identifies the caller.
        receiver: hears the responses, then how the call ended.
        requests: sent first, in order, where the call takes a stream of them.
        auth: who is calling.
        path: full method name, for errors.
        on_sent: called each time a request has been handed to flow control.
        on_end: called when all is over.
    """

    # 1,000 of these live at once; slots save 200 bytes each
    __slots__ = (
        "_auth",
        "_call",
        "_half_closed",
        "_on_end",
        "_on_sent",
        "_open_call",
        "_outgoing",
        "_path",
        "_receiver",
        "_resumed",
        "_sender",
        "_task",
        "_writing",
    )

    def __init__(
        self,
        open_call: Callable[[Metadata], ResponseStream[T]],
        receiver: Receiver[T],
        *,
        requests: Sequence[Req] = (),
        auth: AuthConfig | None = None,
        path: str = "",
        on_sent: Callable[[], None] = noop,
        on_end: Callable[[], None] = noop,
    ) -> None:
        self._open_call = open_call
        self._receiver = receiver
        self._outgoing = list(requests)
        self._auth = auth
        self._path = path
        self._on_sent = on_sent
        self._on_end = on_end
        self._call: Any = None
        self._half_closed = False
        self._writing = False
        self._task: asyncio.Task[None] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._resumed: asyncio.Future[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """Starts the call; its task ends when all is over."""
        self._task = loop.create_task(self._run())
        self._task.add_done_callback(self._end)
        return self._task

    async def _run(self) -> None:
        receiver = self._receiver
        on_next = receiver.on_next
        try:
            self._call = self._open_call(await metadata(self._auth))
            self._open_call = _ended  # with what it holds: the request, the trace
            if self._outgoing:
                self._writing = True
                await self._send()
            # one response is read only after the one before was taken, so a consumer that makes us wait makes HTTP/2
            # flow control hold the server back
            own = hasattr(self._call, "_cython_call")  # another, such as an intercepted one, is iterated as it is
            decode: Callable[[Any], T] = self._call._response_deserializer if own else identity
            async for response in cast("AsyncIterable[Any]", await _serialized(self._call) if own else self._call):
                if response is grpc.aio.EOF:
                    await self._call._raise_for_status()
                    break
                began = monotonic()
                on_next(decode(response))
                if monotonic() - began > BLOCKED:
                    report_blocked(began, SUBSCRIBER.get())
                if self._resumed is not None:
                    await self._resumed
        except asyncio.CancelledError:
            _cancelled_by_peer(receiver, self._path)
        except grpc.aio.AioRpcError as error:
            receiver.on_error(transport_error(error, self._path))
        except Exception as error:  # raised by the subscriber: its own error, once, and the call ends below
            receiver.on_error(error)
        else:
            receiver.on_completed()

    def _end(self, _task: asyncio.Task[None]) -> None:
        # A callback of the task and not a `finally`: a task that is cancelled before its first step never gets there.
        # Stop the sender first, then cancel the call: the other way round a write meets a dead call; and an abandoned
        # grpc.aio call is never collected, so never cancelled (grpc#43462).
        if self._sender is not None:
            self._sender.cancel()
        if self._call is not None:
            self._call.cancel()
        # grpc's poller thread lives as long as any aio object: whoever still holds us must not hold those
        self._call = self._task = self._sender = None
        self._open_call = _ended
        self._on_end()

    def send(self, request: Req) -> None:
        """Queues one request behind the earlier ones."""
        self._outgoing.append(request)
        self._wake_sender()

    def half_close(self) -> None:
        """Says that no request will follow."""
        if not self._half_closed:
            self._half_closed = True
            self._wake_sender()

    def cancel(self) -> None:
        """Ends the call silently."""
        if self._task is not None:
            self._task.cancel()

    def pause(self) -> None:
        """Reads nothing after the response being delivered."""
        if self._resumed is None:
            self._resumed = asyncio.get_running_loop().create_future()

    def resume(self) -> None:
        """Reads on."""
        if self._resumed is not None:
            if not self._resumed.done():
                self._resumed.set_result(None)
            self._resumed = None

    def _wake_sender(self) -> None:
        if self._call is not None and not self._writing:
            self._writing = True
            self._sender = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        # the only writer: two overlapping writes end the RPC with INTERNAL (measured)
        try:
            while self._outgoing:
                requests, self._outgoing = self._outgoing, []  # an empty list is a tenth of an empty deque
                for request in requests:
                    await _write(self._call, request)
                    self._on_sent()
            if self._half_closed:
                await self._call.done_writing()
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc.aio.InternalError):
            pass  # the call has ended; the reader has its status and tells it
        finally:
            self._writing = False


async def _serialized(call: Any) -> _Serialized:
    """What a call of grpc.aio's own receives, not decoded, and EOF at its end.

    To iterate the call itself costs two coroutines, a generator and a guard around the decoder more: 0.8 of 19 us a message
    (measured).
    """
    await call._preparation
    return _Serialized(call._cython_call.receive_serialized_message)


class _Serialized:
    __slots__ = ("_receive",)

    def __init__(self, receive: Callable[[], Awaitable[object]]) -> None:
        self._receive = receive

    def __aiter__(self) -> _Serialized:
        return self

    def __anext__(self) -> Awaitable[object]:
        return self._receive()


async def _write(call: Any, request: Protobuf) -> None:
    """As grpc.aio's own `write`; but where the server has ended the call, that one puts INTERNAL, "Internal error from Core", in
    the place of the status that says why (of 200 subscriptions to unknown sessions 92 were not NOT_FOUND, measured).
    """
    await call.wait_for_connection()
    if call.done():
        raise asyncio.InvalidStateError
    await call._cython_call.send_serialized_message(request.SerializeToString())


async def metadata(auth: AuthConfig | None, timeout: float | None = None) -> Metadata:
    """The metadata that identifies a caller; asks a token provider, and waits for an async one ``timeout`` seconds at most."""
    if auth is None:
        return ()
    token = auth.token if isinstance(auth.token, str) else await _provided(auth.token, timeout)
    if not (token.isascii() and token.isprintable()):  # grpc fails with an error of its core's own (measured)
        raise MacpTransportError(
            "UNAUTHENTICATED", "a header carries printable ASCII alone, and this token is something else"
        )
    return (("authorization", f"Bearer {token}"),)


async def _provided(provider: TokenProvider, timeout: float | None) -> str:
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            answer = provider()
            token = await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        if limit.expired():
            raise MacpTimeoutError(f"the token provider gave no token within {timeout} s") from error
        raise MacpTransportError("UNAUTHENTICATED", f"the token provider failed: {error!r}") from error
    if not isinstance(token, str) or not token:
        returned = "an empty string" if token == "" else type(token).__name__
        raise MacpTransportError("UNAUTHENTICATED", f"the token provider returned no token but {returned}")
    return token


def transport_error(error: grpc.aio.AioRpcError, method: str, timeout: float | None = None) -> MacpTransportError:
    """A gRPC status as an error of our tree, with all its evidence; the original is its ``__cause__``."""
    trailers = tuple(error.trailing_metadata() or ())
    found = dict(trailers)
    code = found.get("macp-error-code", "")
    details = found.get("macp-error-details-bin", b"")
    status = error.code().name
    made: MacpTransportError
    if status == "DEADLINE_EXCEEDED" and not code:
        waited = f"no answer within {timeout:g} s" if timeout is not None else error.details() or ""
        made = MacpTimeoutError(waited, method=method)
    else:
        made = MacpTransportError(
            status,
            error.details() or "",
            code=code if isinstance(code, str) else code.decode("ascii", "replace"),
            details=details if isinstance(details, bytes) else details.encode(),
            trailing_metadata=trailers,
            method=method,
        )
    # without its traceback, whose frames would keep the call, and with it grpc's poller thread, as long as the error lives
    made.__cause__ = error.with_traceback(None)
    return made


def _cancelled_by_peer(receiver: Receiver[Any], method: str) -> None:
    # grpc.aio raises CancelledError both when we cancel and when the server answers CANCELLED. Our own cancel is
    # silence; the task's own cancellation count tells the two apart.
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        receiver.on_error(MacpTransportError("CANCELLED", "the server cancelled the call", method=method))
