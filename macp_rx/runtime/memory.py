"""The transport without a network: straight into an embedded runtime, on the runtime's clock."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from google.protobuf.message import Message as Protobuf
from macp.v1 import core_pb2
from reactivex import abc
from reactivex.internal import noop

from macp_rx.clock import Clock
from macp_rx.errors import MacpClosedError, MacpError, MacpRefusedError, MacpTransportError
from macp_rx.runtime.failure import closing, failure
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.base import Call, Metadata, Method, Receiver, reply_to

if TYPE_CHECKING:
    from macp_rx.runtime.feeds import Feed
    from macp_rx.runtime.runtime import Runtime
    from macp_rx.runtime.session_call import SessionCall

__all__ = ["MemoryTransport"]

Req = TypeVar("Req", bound=Protobuf)
Res = TypeVar("Res", bound=Protobuf)
M = TypeVar("M", bound=Protobuf)


class MemoryTransport:
    """Carries calls into a runtime of this process. Messages are copied (2 us), so that nothing is aliased; answers come
    later, on the clock, never inside the call: a pipeline cannot tell it from a network.

    Args:
        runtime: which runtime.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.reached: bool = True
        self._runtime = runtime
        self._calls: set[_MemoryCall[Protobuf, Protobuf]] = set()
        self._closed = False

    @property
    def clock(self) -> Clock:
        """The runtime's clock."""
        return self._runtime.clock

    @property
    def in_process(self) -> bool:
        """It is."""
        return True

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
        """Answers on the clock's next turn, so that a timeout never passes. There is no wire to say a trace on."""
        self._check_open()
        sent = _copy(request)

        def answer(_scheduler: abc.SchedulerBase, _state: object) -> None:
            if self._runtime.closed:
                receiver.on_error(closing(method.path))
                return
            try:
                reply = self._runtime.unary(_name(method), self._runtime.caller(_token(auth)), sent)
            except Exception as error:  # a token provider's own
                receiver.on_error(error)
                return
            if isinstance(reply, MacpRefusedError):
                receiver.on_error(failure(reply, method.path))
            else:
                reply_to(receiver, _copy(cast("Res", reply)))

        return self.clock.schedule(answer).dispose

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
        """Starts a streaming call on the clock's next turn."""
        self._check_open()
        call = _MemoryCall(self._runtime, method, receiver, auth, on_sent, self._forget)
        self._calls.add(call)  # type: ignore[arg-type]
        call.start(requests)
        return call

    def close(self, on_closed: Callable[[], None]) -> None:
        """Ends every call silently."""
        self._closed = True
        for call in tuple(self._calls):
            call.cancel()
        on_closed()

    def _forget(self, call: object) -> None:
        self._calls.discard(call)

    def _check_open(self) -> None:
        if self._closed:
            raise MacpClosedError("the client of this embedded runtime is closed")


class _MemoryCall(Generic[Req, Res]):
    """One streaming call: frames go in on the clock's next turn, and so does what the feed says come out."""

    def __init__(
        self,
        runtime: Runtime,
        method: Method[Req, Res],
        receiver: Receiver[Res],
        auth: AuthConfig | None,
        on_sent: Callable[[], None],
        on_end: Callable[[object], None],
    ) -> None:
        self._runtime = runtime
        self._method = method
        self._receiver = receiver
        self._auth = auth
        self._on_sent = on_sent
        self._on_end = on_end
        self._session: SessionCall | None = None
        self._feed: Feed[Protobuf] | None = None
        self._paused = False
        self._draining = False
        self._over = False

    def start(self, requests: Sequence[Req]) -> None:
        self._soon(self._open)
        if self._method.client_streaming:
            for request in requests:
                self.send(request)

    def send(self, request: Req) -> None:
        frame = _copy(request)

        def deliver() -> None:
            self._on_sent()
            if self._session is not None:
                self._session.frame(cast("core_pb2.StreamSessionRequest", frame))

        self._soon(deliver)

    def half_close(self) -> None:
        def deliver() -> None:
            if self._session is not None:
                self._session.half_close()

        self._soon(deliver)

    def cancel(self) -> None:
        if not self._over:
            self._over = True
            if self._feed is not None:
                self._runtime.leave(self._feed)
            self._on_end(self)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._wake()

    def _soon(self, action: Callable[[], None]) -> None:
        def run(_scheduler: abc.SchedulerBase, _state: object) -> None:
            if not self._over:
                action()

        self._runtime.clock.schedule(run)

    def _open(self) -> None:
        name = _name(self._method)
        if self._runtime.closed:
            self._finish(closing(self._method.path))
            return
        try:
            caller = self._runtime.caller(_token(self._auth))
            if self._method.client_streaming:
                self._session = self._runtime.stream_session(caller)
                self._feed = cast("Feed[Protobuf]", self._session.feed)
            else:
                self._feed = self._runtime.watch(name, caller)
        except MacpRefusedError as refusal:
            self._finish(failure(refusal, self._method.path))
        except Exception as error:  # a token provider's own
            self._finish(error)
        else:
            self._feed.wake = self._wake
            self._wake()

    def _wake(self) -> None:
        if not self._draining:
            self._draining = True
            self._soon(self._drain)

    def _drain(self) -> None:
        self._draining = False
        feed = self._feed
        if feed is None:
            return
        while not (self._paused or self._over):
            item = feed.take()
            if item is None:
                break
            try:
                self._receiver.on_next(_copy(cast("Res", item)))
            except Exception as error:  # raised by the subscriber: its own error, once, and the call ends
                self._finish(error)
                return
        if feed.ended and not (self._paused or self._over):
            self._finish(feed.failure(self._method.path))

    def _finish(self, error: Exception | None) -> None:
        if not self._over:
            self.cancel()
            if error is None:
                self._receiver.on_completed()
            else:
                self._receiver.on_error(error)


def _name(method: Method[Req, Res]) -> str:
    return method.path.rpartition("/")[2]


def _copy(message: M) -> M:
    return type(message).FromString(message.SerializeToString())


def _token(auth: AuthConfig | None) -> str | None:
    if auth is None:
        return None
    if isinstance(auth.token, str):
        return auth.token
    try:
        token = auth.token()
    except Exception as error:
        raise MacpTransportError("UNAUTHENTICATED", f"the token provider failed: {error!r}") from error
    if inspect.isawaitable(token):
        raise MacpError("an embedded runtime has no loop to await a token on; give it a plain token or function")
    if not token:
        raise MacpTransportError("UNAUTHENTICATED", "the token provider returned no token")
    return token
