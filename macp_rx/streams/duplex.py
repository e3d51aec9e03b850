"""`MacpStream`: both directions of one StreamSession call, a Subject in Rx terms."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope
from reactivex import Observable, abc
from reactivex.disposable import Disposable

from macp_rx.errors import (
    MacpClosedError,
    MacpError,
    MacpOverflowError,
    MacpSessionError,
    MacpStreamError,
    MacpTimeoutError,
)
from macp_rx.streams.session import subscribe_frame
from macp_rx.streams.stream import OneOfMany, Pull, Stream, tell_end, tell_raised
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.base import Call
from macp_rx.transport.methods import STREAM_SESSION
from macp_rx.transport.shared import SharedTransport

__all__ = ["MacpStream"]

T = TypeVar("T")

UNSENT: Final = 256
"""How many frames may wait to be sent before ``send`` waits for room."""


class MacpStream(Stream[Envelope], abc.ObserverBase[Envelope]):
    """One StreamSession call: an observer of envelopes to send, an Observable of accepted envelopes.

    The call is opened at once, and is bound to one session by its first frame. Read it by pulling (``read``, ``responses``,
    ``for``) with one consumer, or subscribe any number of observers; never both.

    There is no acknowledgement on a stream: the sender sees its own envelope echoed when it was accepted. A refusal comes
    as a MacpStreamError with the code and the message id; the stream stays open: ``read`` raises it, subscribers receive
    it from ``errors``, or, if nobody listens there, as the end of their subscription, so that it is never silent.

    Args:
        shared: what carries it.
        auth: who is speaking.
        session_id: subscribe to this session from the start.
        after_sequence: replay what came after this position.
    """

    def __init__(
        self, shared: SharedTransport, auth: AuthConfig | None, session_id: str = "", after_sequence: int = 0
    ) -> None:
        super().__init__(Observable(self._subscribe_observer), shared.clock)
        self._shared = shared
        self._auth = auth
        self._observers: list[abc.ObserverBase[Envelope]] = []
        self._error_observers: list[abc.ObserverBase[MacpStreamError]] = []
        self._received = Pull[Envelope | MacpStreamError](self.clock)
        self._pulled = self._pushed = False
        self._sending = threading.Lock()
        self._room = threading.Event()
        self._sending_closed = False
        self._ended = False
        self._error: Exception | None = None
        self._call: Call[core_pb2.StreamSessionRequest] | None = None
        self._known: list[Callable[[], None]] = []  # where the connection must forget it at its end
        self._first = [] if not session_id else [subscribe_frame(session_id, after_sequence)]
        self._unsent = len(self._first)
        self.clock.run_soon(self._open)

    @property
    def errors(self) -> Stream[MacpStreamError]:
        """The inline errors that answer what was sent, for those who read by subscribing."""

        def subscribe(
            observer: abc.ObserverBase[MacpStreamError], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            return self._attach(self._error_observers, observer)

        return Stream(Observable(subscribe), self.clock)

    def send(self, envelope: Envelope) -> None:
        """Sends an envelope behind the earlier ones; waits for room while 256 are unsent.

        Raises:
            MacpSessionError: not an Envelope.
            MacpIdentityMismatchError: its sender is not who the credential speaks for.
            MacpClosedError: the stream was closed or has ended.
        """
        if not isinstance(envelope, Envelope):
            raise MacpSessionError(f"send takes an Envelope (see build_envelope), not {type(envelope).__name__}")
        if self._auth is not None:
            self._auth.check_sender(envelope.sender)
        self._send(core_pb2.StreamSessionRequest(envelope=envelope))

    def send_subscribe(self, session_id: str, after_sequence: int = 0) -> None:
        """Asks for a session's envelopes after a position: late attach. Binds the stream to the session."""
        self._send(subscribe_frame(session_id, after_sequence))

    def read(self, timeout: float | None = None) -> Envelope | None:
        """Blocks for the next accepted envelope; None at the end, again and again.

        Args:
            timeout: seconds; None waits without limit.

        Raises:
            MacpTimeoutError: nothing came in time; the stream stays usable.
            MacpStreamError: the runtime refused something that was sent here; the stream stays usable.
            MacpTransportError: the call failed.
        """
        if timeout is not None and timeout < 0:
            raise MacpSessionError(f"a timeout is a number of seconds >= 0, not {timeout}")
        if self._pushed:
            raise MacpError("this stream has subscribers; pull with one consumer or subscribe, never both")
        self._pulled = True
        if not self._received.wait(timeout):
            return None
        item = self._received.take()
        if isinstance(item, MacpStreamError):
            raise item
        return item

    def responses(self, timeout: float | None = None) -> Iterator[Envelope]:
        """Yields accepted envelopes until the stream ends, or until nothing came for ``timeout`` seconds."""
        while True:
            try:
                envelope = self.read(timeout)
            except MacpTimeoutError:
                return
            if envelope is None:
                return
            yield envelope

    def __iter__(self) -> Iterator[Envelope]:
        """The same as ``responses()``."""
        return self.responses()

    def close(self) -> None:
        """Says that nothing more will be sent. What is on its way still arrives; then the server ends the call."""
        if not self._sending_closed:
            self._sending_closed = True
            with suppress(MacpClosedError):
                self.clock.run_soon(self._half_close)

    def cancel(self) -> None:
        """Ends the call at once, in both directions."""
        self._sending_closed = True
        with suppress(MacpClosedError):
            self.clock.run_soon(self._cancel)

    def __enter__(self) -> Self:
        """The stream itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cancels the call."""
        self.cancel()

    # As an observer: what to send.

    def on_next(self, value: Envelope) -> None:
        """Sends an envelope."""
        self.send(value)

    def on_error(self, error: Exception) -> None:
        """Cancels the call: what failed upstream cannot be finished."""
        self.cancel()

    def on_completed(self) -> None:
        """Half-closes."""
        self.close()

    # What follows happens on the clock's thread, except `_send`.

    def _open(self) -> None:
        try:
            self._call = self._shared.transport.stream(
                STREAM_SESSION, self._first, _Responses(self._dispatch, self._end), auth=self._auth, on_sent=self._sent
            )
        except Exception as error:
            self._end(error)
            return
        self._received.add(self._call)
        self._known = [self._shared.waited_on(self._lose), self._shared.telemetry.buffer(self._received)]

    def _send(self, frame: core_pb2.StreamSessionRequest) -> None:
        while not self._reserve():
            if self.clock.on_own_thread():
                raise MacpOverflowError(f"{UNSENT} frames are unsent, and the I/O thread cannot wait for room")
            self.clock.wait(self._room)
        self.clock.run_soon(lambda: self._write(frame))

    def _reserve(self) -> bool:
        with self._sending:
            if self._ended or self._sending_closed:
                raise MacpClosedError("the stream has ended" if self._ended else "the stream is closed for sending")
            if self._unsent == UNSENT:
                self._room.clear()
                return False
            self._unsent += 1
            return True

    def _sent(self) -> None:
        with self._sending:
            self._unsent -= 1
        self._room.set()

    def _write(self, frame: core_pb2.StreamSessionRequest) -> None:
        if self._call is not None:
            self._call.send(frame)

    def _half_close(self) -> None:
        if self._call is not None:
            self._call.half_close()

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()
        self._end(None)

    def _dispatch(self, item: Envelope | MacpStreamError) -> None:
        if isinstance(item, MacpStreamError) and self._error_observers:
            self._tell(self._error_observers, item)
        elif not self._observers:
            self._received.on_next(item)
        elif isinstance(item, Envelope):
            self._tell(self._observers, item)
        else:
            ended = tuple(self._observers)
            self._observers.clear()
            tell_end(ended, item)

    def _tell(self, observers: list[abc.ObserverBase[T]], value: T) -> None:
        """One observer that raises gets its own error, once; the others notice nothing."""
        for observer in tuple(observers):
            try:
                observer.on_next(value)
            except Exception as error:
                if observer in observers:  # else it has left before it raised
                    observers.remove(observer)
                tell_raised(self.clock, observer, error)

    def _lose(self, error: Exception) -> None:
        """The client was closed: who reads or sends is told, who subscribed hears nothing more, as after their own dispose."""
        self._observers.clear()
        self._error_observers.clear()
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._error = error
        for forget in self._known:
            forget()
        self._room.set()
        ended: list[abc.ObserverBase[Any]] = [*self._observers, *self._error_observers, self._received]
        self._observers.clear()
        self._error_observers.clear()
        tell_end(ended, error)

    def _subscribe_core(
        self, observer: abc.ObserverBase[Envelope], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        if self._pulled:
            raise MacpError("this stream is being pulled by read(); pull with one consumer or subscribe, never both")
        self._pushed = True
        return super()._subscribe_core(observer, scheduler)

    def _subscribe_observer(
        self, observer: abc.ObserverBase[Envelope], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        return self._attach(self._observers, observer)

    def _attach(self, observers: list[abc.ObserverBase[T]], observer: abc.ObserverBase[T]) -> abc.DisposableBase:
        def join() -> None:
            if left:
                return
            observers.append(named)
            while observers is self._observers and observers and self._received.available:
                self._dispatch(self._received.take())
            if self._ended and named in observers:
                observers.remove(named)
                tell_end([named], self._error)

        def leave() -> None:
            if named in observers:
                observers.remove(named)

        def dispose() -> None:
            left.append(True)
            with suppress(MacpClosedError):
                self.clock.run_soon(leave)

        named = OneOfMany(observer, self.clock)
        left: list[bool] = []
        self.clock.run_soon(join)
        return Disposable(dispose)


class _Responses:
    """Splits what the server says into accepted envelopes and inline errors."""

    def __init__(
        self, dispatch: Callable[[Envelope | MacpStreamError], None], end: Callable[[Exception | None], None]
    ) -> None:
        self._dispatch = dispatch
        self._end = end

    def on_next(self, response: core_pb2.StreamSessionResponse, /) -> None:
        self._dispatch(response.envelope if response.HasField("envelope") else MacpStreamError(response.error))

    def on_error(self, error: Exception, /) -> None:
        self._end(error)

    def on_completed(self) -> None:
        self._end(None)
