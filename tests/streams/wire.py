"""A wire into an embedded runtime that misbehaves when told to: for faults that neither runtime can produce at will."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from google.protobuf.message import Message as Protobuf
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Ack, MACPError
from reactivex.disposable import Disposable

from macp_rx import MacpClient, MacpClosedError, MacpTimeoutError, MacpTransportError, Runtime
from macp_rx.clock import Clock
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.base import Call, Metadata, Method, Receiver

__all__ = ["CUT", "HOPELESS", "INTERNAL", "LAGGED", "Fault", "Made", "Wire"]

CUT = MacpTransportError("UNAVAILABLE", "the connection was reset")
INTERNAL = MacpTransportError("INTERNAL", "RST_STREAM")
HOPELESS = MacpTransportError("PERMISSION_DENIED", "no", code="FORBIDDEN")
LAGGED = MacpTransportError("RESOURCE_EXHAUSTED", "fell behind", code="STREAM_LAGGED")


@dataclass(frozen=True)
class Fault:
    """What one call suffers.

    Attributes:
        error: it fails with this; a unary call before it reaches the runtime.
        ends: a stream ends cleanly.
        after: so many responses come before ``error`` or ``ends``.
        lost: the runtime does what a unary call asks, but instead of its answer ``error`` comes.
        hangs: no answer comes.
        delay: seconds until a unary call reaches the runtime; seconds that each response of a stream takes.
        refused: the code of the Ack that a Send is answered with, which the runtime never sees.
        redelivers: a session stream starts so many envelopes earlier than it was asked to.
        doubled: each response comes twice.
        repeats: each response comes again behind so many others.
    """

    error: Exception | None = None
    ends: bool = False
    after: int = 0
    lost: bool = False
    hangs: bool = False
    delay: float = 0
    refused: str = ""
    redelivers: int = 0
    doubled: bool = False
    repeats: int = 0


@dataclass
class Made:
    """A call that was made.

    Attributes:
        rpc: its RPC, such as ``Send``.
        at: when, in seconds since the clock's start.
        requests: what it said, so far.
        patient: it was to wait for a server that cannot be reached.
        half_closed: the client has said all that it has to say.
    """

    rpc: str
    at: float
    requests: list[Any] = field(default_factory=list[Any])
    patient: bool = False
    half_closed: bool = False


class Wire:
    """Carries calls into a runtime as a MemoryTransport does, and does to them what it is told.

    Args:
        runtime: at the other end.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.reached: bool = True
        self.in_process: bool = True
        self.calls: list[Made] = []
        self.down: MacpTransportError | None = None
        """While set, new calls fail with it, and patient ones wait."""
        self.rewrite: Callable[[str, Any], Any] = _as_it_is
        """Called with each RPC and response; what it returns is received, nothing where that is None."""
        self._through = runtime.connect()
        self._faults: dict[str, deque[Fault]] = {}
        self._streams: dict[_Stream, None] = {}
        self._closed = False

    @property
    def clock(self) -> Clock:
        return self._through.clock

    def client(self, agent: str = "chair", **options: Any) -> MacpClient:
        """A client whose calls go over this wire."""
        return MacpClient.embedded(agent=agent, runtime=cast("Runtime", self), **options)

    def connect(self) -> Wire:
        return self

    # What a test says.

    def next(self, rpc: str, *faults: Fault) -> None:
        """Lets the next calls of an RPC suffer, each one fault."""
        self._faults.setdefault(rpc, deque()).extend(faults)

    def cut(self, error: Exception | None = CUT) -> None:
        """Breaks all streams with an error, or ends them cleanly; what is under way is lost."""
        for stream in tuple(self._streams):
            self.soon(lambda stream=stream: stream.finish(error))

    def up(self) -> None:
        """Ends what ``down`` began."""
        self.down = None
        for stream in tuple(self._streams):
            self.soon(stream.open)

    def made(self, rpc: str) -> list[Made]:
        """The calls of an RPC, in order."""
        return [call for call in self.calls if call.rpc == rpc]

    def times(self, rpc: str) -> list[float]:
        """When they were made."""
        return [call.at for call in self.made(rpc)]

    def asked_after(self) -> list[int]:
        """The sequences behind which session streams were asked for, in order."""
        return [call.requests[0].after_sequence for call in self.made("StreamSession")]

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def following(self) -> int:
        """How many session streams are open that follow what will be said."""
        return sum(stream.made.rpc == "StreamSession" and not stream.made.half_closed for stream in self._streams)

    # What a client sees: a Transport.

    def unary(
        self,
        method: Method[Any, Any],
        request: Protobuf,
        receiver: Receiver[Any],
        *,
        auth: AuthConfig | None,
        timeout: float | None,
        trace: Metadata | None = None,
    ) -> Callable[[], None]:
        self._check_open()
        rpc = self._note(method, [request]).rpc
        fault = self._fault(rpc)
        answer = _Answer(rpc, receiver, self.rewrite, fault.error if fault.lost else None)
        if self.down is not None:
            fault = Fault(error=self.down)
        if timeout is not None and (fault.hangs or fault.delay >= timeout):
            late = MacpTimeoutError(f"no answer within {timeout:g} s", method=method.path)
            return self.soon(lambda: receiver.on_error(late), timeout)
        if fault.hangs:
            return Disposable().dispose
        if fault.refused:
            refused = MACPError(code=fault.refused, message="the wire refused it")
            return self.soon(lambda: answer.on_next(core_pb2.SendResponse(ack=Ack(error=refused))), fault.delay)
        if fault.error is not None and not fault.lost:
            error = fault.error
            return self.soon(lambda: receiver.on_error(error), fault.delay)
        if not fault.delay:
            return self._through.unary(method, request, answer, auth=auth, timeout=timeout, trace=trace)
        cancel: list[Callable[[], None]] = []

        def arrive() -> None:
            cancel[:] = [self._through.unary(method, request, answer, auth=auth, timeout=timeout, trace=trace)]

        cancel.append(self.soon(arrive, fault.delay))
        return lambda: cancel[0]()

    def stream(
        self,
        method: Method[Any, Any],
        requests: Sequence[Any],
        receiver: Receiver[Any],
        *,
        auth: AuthConfig | None,
        on_sent: Callable[[], None] | None = None,
        patient: bool = False,
        trace: Metadata | None = None,
    ) -> Call[Any]:
        self._check_open()
        made = self._note(method, list(requests), patient)
        through = lambda frames, receiver: self._through.stream(  # noqa: E731
            method, frames, receiver, auth=auth, on_sent=on_sent or _nothing, trace=trace
        )
        stream = _Stream(self, made, receiver, self._fault(made.rpc), through)
        self._streams[stream] = None
        stream.start()
        return stream

    def close(self, on_closed: Callable[[], None]) -> None:
        self._closed = True
        for stream in tuple(self._streams):
            stream.cancel()
        self._through.close(on_closed)

    # Within.

    def _check_open(self) -> None:
        if self._closed:
            raise MacpClosedError("the wire is closed")

    def soon(self, action: Callable[[], object], seconds: float = 0) -> Callable[[], None]:
        """On the clock, and never inside the call; returns what prevents it."""
        return self.clock.run_later(seconds, action).dispose

    def forget(self, stream: _Stream) -> None:
        self._streams.pop(stream, None)

    def _note(self, method: Method[Any, Any], requests: list[Any], patient: bool = False) -> Made:
        made = Made(method.path.rpartition("/")[2], self.clock.seconds, requests, patient)
        self.calls.append(made)
        return made

    def _fault(self, rpc: str) -> Fault:
        faults = self._faults.get(rpc)
        return faults.popleft() if faults else Fault()


class _Answer:
    """The receiver of a unary call whose answer may be lost."""

    def __init__(self, rpc: str, receiver: Receiver[Any], rewrite: Callable[[str, Any], Any], lost: Exception | None):
        self._rpc = rpc
        self._receiver = receiver
        self._rewrite = rewrite
        self._lost = lost

    def on_next(self, value: Any, /) -> None:
        if self._lost is None:
            self._receiver.on_next(self._rewrite(self._rpc, value))

    def on_error(self, error: Exception, /) -> None:
        self._receiver.on_error(error)

    def on_completed(self) -> None:
        if self._lost is None:
            self._receiver.on_completed()
        else:
            self._receiver.on_error(self._lost)


class _Stream:
    """One streaming call over the wire: to the client a call, to the transport behind it a receiver."""

    def __init__(
        self,
        wire: Wire,
        made: Made,
        receiver: Receiver[Any],
        fault: Fault,
        through: Callable[[list[Any], Receiver[Any]], Call[Any]],
    ) -> None:
        self._wire = wire
        self.made = made
        self._receiver = receiver
        self._fault = fault
        self._through = through
        self._call: Call[Any] | None = None
        self._coming: deque[tuple[int, Callable[[], None]]] = deque()
        self._left = fault.after
        self._past: deque[Any] = deque()
        self._paused = self._over = False

    def start(self) -> None:
        down = self._wire.down
        if down is not None and not self.made.patient:
            self._wire.soon(lambda: self.finish(down))
        elif (self._fault.error or self._fault.ends) and not self._left:
            self._wire.soon(lambda: self.finish(self._fault.error))
        elif down is None:
            self.open()

    def open(self) -> None:
        """Opens the call, unless it is open or hangs."""
        if self._over or self._call is not None or self._fault.hangs:
            return
        frames = list(self.made.requests)
        if self._fault.redelivers:
            frames[0] = type(frames[0]).FromString(frames[0].SerializeToString())
            frames[0].after_sequence = max(0, frames[0].after_sequence - self._fault.redelivers)
        self._call = self._through(frames, self)
        if self._paused:
            self._call.pause()
        if self.made.half_closed:
            self._call.half_close()

    # To the client.

    def send(self, request: Any) -> None:
        self.made.requests.append(request)
        if self._call is not None:
            self._call.send(request)

    def half_close(self) -> None:
        self.made.half_closed = True
        if self._call is not None:
            self._call.half_close()

    def cancel(self) -> None:
        self._over = True
        self._coming.clear()
        self._wire.forget(self)
        if self._call is not None:
            self._call.cancel()

    def pause(self) -> None:
        self._paused = True
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        self._paused = False
        self._wire.soon(self._deliver)
        if self._call is not None:
            self._call.resume()

    # From the transport.

    def on_next(self, value: Any, /) -> None:
        for _ in range(2 if self._fault.doubled else 1):
            self._come(lambda: self._receive(value))
        if self._fault.repeats:
            self._past.append(value)
            if len(self._past) > self._fault.repeats:
                again = self._past.popleft()
                self._come(lambda: self._receive(again))

    def on_error(self, error: Exception, /) -> None:
        self._come(lambda: self.finish(error))

    def on_completed(self) -> None:
        self._come(lambda: self.finish(None))

    # Within.

    def _come(self, what: Callable[[], None]) -> None:
        self._coming.append((self._now_us + round(self._fault.delay * 1e6), what))
        if self._fault.delay:
            self._wire.soon(self._deliver, self._fault.delay)
        else:
            self._deliver()

    def _deliver(self) -> None:
        while self._coming and not (self._paused or self._over) and self._coming[0][0] <= self._now_us:
            _, what = self._coming.popleft()
            what()

    @property
    def _now_us(self) -> int:
        return round(self._wire.clock.seconds * 1e6)

    def _receive(self, value: Any) -> None:
        value = self._wire.rewrite(self.made.rpc, value)
        if value is None:
            return
        try:
            self._receiver.on_next(value)
        except Exception as error:  # raised by the subscriber: its own error, once, and the call ends
            self.finish(error)
            return
        if self._left:
            self._left -= 1
            if not self._left and not self._over:
                self.finish(self._fault.error)

    def finish(self, error: Exception | None) -> None:
        if self._over:
            return
        self.cancel()
        if error is None:
            self._receiver.on_completed()
        else:
            self._receiver.on_error(error)


def _as_it_is(_rpc: str, response: Any) -> Any:
    return response


def _nothing() -> None:
    return None
