"""The seam: what a client needs of whatever carries its calls.

Two implementations: `macp_rx.transport.grpc` (a real channel) and `macp_rx.runtime.memory` (straight into an embedded runtime).
Everything here happens on the transport's clock: every method is called there, every callback comes there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass
from time import monotonic
from typing import Final, Generic, Protocol, TypeVar

from google.protobuf.message import Message as Protobuf

from macp_rx.clock import Clock
from macp_rx.transport.auth import AuthConfig

__all__ = [
    "BLOCKED",
    "SUBSCRIBER",
    "Call",
    "Metadata",
    "Method",
    "Receiver",
    "Transport",
    "called",
    "reply_to",
    "report_blocked",
    "subscribed_by",
]

_log = logging.getLogger("macp_rx.transport")

BLOCKED: Final = 0.1
"""Seconds for which a callback may hold the thread that carries every other call too."""

SUBSCRIBER: Final[ContextVar[object]] = ContextVar("macp_rx subscriber", default=None)
"""What was handed to the ``subscribe`` that a call is made for: asyncio hands it on to the call's own task."""

Req = TypeVar("Req", bound=Protobuf)
Res = TypeVar("Res", bound=Protobuf)
Req_contra = TypeVar("Req_contra", bound=Protobuf, contravariant=True)
T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

Metadata = tuple[tuple[str, str], ...]
"""What goes with a call beside its messages: keys in lower case, and printable ASCII."""


@dataclass(frozen=True, slots=True)
class Method(Generic[Req, Res]):
    """One RPC of the service.

    Attributes:
        path: full gRPC method name.
        request: request class.
        response: response class.
        client_streaming: the client sends a stream.
        server_streaming: the server answers with a stream.
    """

    path: str
    request: type[Req]
    response: type[Res]
    client_streaming: bool = False
    server_streaming: bool = False


class Receiver(Protocol[T_contra]):
    """Who hears what a call says: at most one of ``on_error`` and ``on_completed``, and nothing after it."""

    def on_next(self, value: T_contra, /) -> None:
        """One response."""

    def on_error(self, error: Exception, /) -> None:
        """The call failed; always a MacpError."""

    def on_completed(self) -> None:
        """The server ended the call with OK."""


class Call(Protocol[Req_contra]):
    """One streaming call under way."""

    def send(self, request: Req_contra) -> None:
        """Queues one request behind the earlier ones; the caller bounds the queue by counting ``on_sent``."""

    def half_close(self) -> None:
        """Says that no request will follow; the server may go on answering."""

    def cancel(self) -> None:
        """Ends the call; nothing is received after it. Any number of times."""

    def pause(self) -> None:
        """Stops reading after the response being delivered, so that flow control holds the server back."""

    def resume(self) -> None:
        """Reads on."""


class Transport(Protocol):
    """Carries calls to one runtime, on one clock.

    Attributes:
        reached: somebody has answered at the other end: what fails now is an outage and not a wrong address.
    """

    reached: bool

    @property
    def clock(self) -> Clock:
        """The clock on which every call lives."""
        ...

    @property
    def in_process(self) -> bool:
        """Whether the runtime is in this process: it tells of a session's end when it happens, and loses nothing on the way."""
        ...

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
        """Starts a unary call; the receiver hears one response, then completion, or an error.

        Args:
            method: which RPC.
            request: its request.
            receiver: hears how it went.
            auth: who is calling.
            timeout: seconds until it fails; None waits without limit.
            trace: says to which trace the call belongs; None for the one that the caller's present work belongs to.

        Returns:
            A function that cancels it; harmless after its end.
        """
        ...

    def stream(
        self,
        method: Method[Req, Res],
        requests: Sequence[Req],
        receiver: Receiver[Res],
        *,
        auth: AuthConfig | None,
        on_sent: Callable[[], None] = ...,
        patient: bool = False,
        trace: Metadata | None = None,
    ) -> Call[Req]:
        """Starts a streaming call and sends ``requests`` first; a server-streaming call takes exactly one.

        Args:
            on_sent: called each time a request has been handed to flow control.
            patient: wait for a server that cannot be reached now, instead of failing.
            trace: as for a unary call.
        """
        ...

    def close(self, on_closed: Callable[[], None]) -> None:
        """Cancels every call, silently, and closes every connection.

        Args:
            on_closed: called when nothing is left.
        """


def reply_to(receiver: Receiver[T], response: T) -> None:
    """Gives a receiver the one response of a unary call. What it raises is its own error, once."""
    try:
        receiver.on_next(response)
    except Exception as error:
        receiver.on_error(error)
    else:
        receiver.on_completed()


class subscribed_by:  # noqa: N801 - used as a context manager only, a contextlib one costs 1 us a subscription
    """What is subscribed to in this block is for that subscriber, whose name is told where it runs or blocks."""

    __slots__ = ("_subscriber", "_token")

    def __init__(self, subscriber: object) -> None:
        self._subscriber = subscriber

    def __enter__(self) -> None:
        self._token: Token[object] = SUBSCRIBER.set(self._subscriber)

    def __exit__(self, *_: object) -> None:
        SUBSCRIBER.reset(self._token)


class _Reported(threading.local):
    until = 0.0


_reported = _Reported()


def report_blocked(began: float, subscriber: object) -> None:
    """Logs that a subscriber has held the I/O thread, with its name and the cure; the one nearest to the callback says so.

    Args:
        began: since when, by `time.monotonic`.
        subscriber: who; as in ``SUBSCRIBER``.
    """
    now = monotonic()
    if _reported.until > began:  # somebody nearer has measured the same
        return
    _reported.until = now
    _log.warning(
        "%s held the I/O thread for %.2f s, and every other call waited: let it run elsewhere, "
        "with events.pipe(mo.deliver_on(scheduler)) or session_events(…, scheduler=…)",
        called(subscriber),
        now - began,
    )


def called(subscriber: object) -> str:
    """A subscriber's name and where it is written, for people."""
    if isinstance(subscriber, str):
        return subscriber
    function: object = getattr(subscriber, "on_next", subscriber)
    code = getattr(function, "__code__", None)
    if code is None:
        return "a subscriber" if subscriber is None else repr(subscriber)
    return f"{getattr(function, '__qualname__', function)} ({code.co_filename}:{code.co_firstlineno})"
