"""What a client does, told to OpenTelemetry: ``MacpClient(…, telemetry=OpenTelemetry())``.

Needs the extra ``macp-rx[otel]``. Names follow the semantic conventions for RPC and gRPC where those have one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import version
from typing import Final

from macp.v1.envelope_pb2 import Envelope

from macp_rx.clock import Clock
from macp_rx.errors import MacpRefusedError, MacpTransportError
from macp_rx.protocol.messages import Accepted
from macp_rx.streams.status import Connection
from macp_rx.transport.base import Metadata
from macp_rx.transport.telemetry import Buffer, ConnectionTelemetry, OnNext

try:
    from opentelemetry import context, metrics, propagate, trace
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.propagators.textmap import Setter, TextMapPropagator
    from opentelemetry.trace import SpanKind, StatusCode, TracerProvider
except ImportError as _error:
    raise ImportError(
        "macp_rx.opentelemetry needs the package opentelemetry-api: pip install 'macp-rx[otel]'"
    ) from _error
from macp_rx.transport.methods import SEND, STREAM_SESSION

__all__ = ["OpenTelemetry"]

SCOPE: Final = "macp_rx"
VERSION: Final = version("macp-rx")

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Where the buckets of durations end, as the conventions have it."""

Attributes = dict[str, str | int | float]


class OpenTelemetry:
    """Spans for sends and session streams, trace context on the wire, metrics.

    Args:
        tracer_provider: where spans go; the process's own by default.
        meter_provider: where metrics go; the process's own by default.
        propagator: how a trace is named on the wire; the process's own by default, which is W3C trace context.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagator: TextMapPropagator | None = None,
    ) -> None:
        self.tracer: Final = trace.get_tracer(SCOPE, VERSION, tracer_provider)
        self._meters: Final = _meters(meter_provider)
        self._propagator = propagator

    def connection(self, target: str, clock: Clock) -> ConnectionTelemetry:
        """A client connects."""
        return _Connection(self, target, clock)

    def inject(self, where: context.Context | None) -> Metadata:
        """What names a trace on the wire; None for the current one."""
        carrier: list[tuple[str, str]] = []
        propagator = self._propagator or propagate.get_global_textmap()
        propagator.inject(carrier, where, _Appending())
        return tuple(carrier)


class _Appending(Setter[list[tuple[str, str]]]):
    def set(self, carrier: list[tuple[str, str]], key: str, value: str) -> None:
        carrier.append((key.lower(), value))  # gRPC takes no capitals


class _Meters:
    """The instruments, and the buffers that are looked at when somebody collects."""

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = metrics.get_meter(SCOPE, VERSION, provider)
        self.duration = meter.create_histogram(
            "rpc.client.call.duration",
            "s",
            "How long a send took, all its tries included.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self.lag = meter.create_histogram(
            "macp.client.stream.lag",
            "s",
            "From the time that an envelope names to its delivery, of what came live.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self.reconnects = meter.create_counter(
            "macp.client.stream.reconnects", "{reconnect}", "How often session streams were reopened, and why."
        )
        self.missing = meter.create_counter(
            "macp.client.stream.missing", "{envelope}", "How many envelopes gaps have swallowed."
        )
        meter.create_observable_up_down_counter(
            "macp.client.buffer.waiting", [self._waiting], "{item}", "How many items wait for their consumers."
        )
        meter.create_observable_counter(
            "macp.client.buffer.dropped",
            [self._dropped],
            "{item}",
            "How many items were dropped before slow consumers.",
        )
        self._lock = threading.Lock()  # clients have threads, and so have collectors
        self._buffers: dict[Buffer, int] = {}
        self._dropped_by_those_gone = 0

    def buffer(self, buffer: Buffer) -> Callable[[], None]:
        with self._lock:
            self._buffers[buffer] = self._buffers.get(buffer, 0) + 1

        def forget() -> None:
            with self._lock:
                self._buffers[buffer] -= 1
                if not self._buffers[buffer]:
                    del self._buffers[buffer]
                    self._dropped_by_those_gone += buffer.dropped

        return forget

    def _waiting(self, _options: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            return [Observation(sum(buffer.waiting for buffer in self._buffers))]

    def _dropped(self, _options: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            return [Observation(self._dropped_by_those_gone + sum(buffer.dropped for buffer in self._buffers))]


@cache
def _meters(provider: MeterProvider | None) -> _Meters:
    """One for each provider: of two observable instruments of one name the SDK asks only the first (measured)."""
    return _Meters(provider)


class _Connection:
    """One connection: who is at its other end, and what is under way on it."""

    def __init__(self, telemetry: OpenTelemetry, target: str, clock: Clock) -> None:
        host, _, port = target.rpartition(":")
        self.server: Attributes = {"server.address": target}
        if host and port.isdecimal():
            self.server = {"server.address": host.strip("[]"), "server.port": int(port)}
        self.telemetry: Final = telemetry
        self.clock: Final = clock
        self.open: dict[_Call, None] = {}

    def trace(self) -> Metadata:
        return self.telemetry.inject(None)

    def send(self, envelope: Envelope) -> _Call:
        about: Attributes = {
            "macp.mode": envelope.mode,
            "macp.message_type": envelope.message_type,
            "macp.session_id": envelope.session_id,
            "macp.message_id": envelope.message_id,
        }
        return _Send(self, SEND.path, about)

    def stream(self, session_id: str, after_sequence: int) -> _Call:
        return _Stream(
            self, STREAM_SESSION.path, {"macp.session_id": session_id, "macp.after_sequence": after_sequence}
        )

    def buffer(self, buffer: Buffer) -> Callable[[], None]:
        return self.telemetry._meters.buffer(buffer)  # pyright: ignore[reportPrivateUsage]  # one module

    def closed(self) -> None:
        for call in tuple(self.open):
            call.cancelled()


class _Call:
    """A span from the start of a call to its end. Its times are the client's clock's, so simulated runs have simulated ones."""

    def __init__(self, connection: _Connection, path: str, about: Attributes) -> None:
        self.connection: Final = connection
        self._meters: Final = connection.telemetry._meters  # pyright: ignore[reportPrivateUsage]  # one module
        self.about: Final = about
        self.method: Final[Attributes] = {"rpc.system.name": "grpc", "rpc.method": path[1:], **connection.server}
        self.began: Final = self.now
        self.span: Final = connection.telemetry.tracer.start_span(
            path[1:], kind=SpanKind.CLIENT, attributes={**self.method, **about}, start_time=self.began
        )
        self.context: Final = trace.set_span_in_context(self.span)
        connection.open[self] = None

    @property
    def now(self) -> int:
        """Nanoseconds since 1970, exactly: as a float they would be rounded."""
        return (self.connection.clock.now - EPOCH) // timedelta(microseconds=1) * 1000

    def trace(self) -> Metadata:
        return self.connection.telemetry.inject(self.context)

    def happened(self, what: str, error: Exception | None = None, **details: float) -> None:
        if self not in self.connection.open:
            return
        about: Attributes = {f"macp.{name}": value for name, value in details.items()}
        if error is not None:
            about |= {"error.type": _type(error), "error.message": str(error)}
        self.span.add_event(what, about, self.now)

    def delivering(self, on_next: OnNext) -> OnNext:
        return on_next

    def ended(self, error: Exception | None = None) -> None:
        about: Attributes = {}
        if error is None or isinstance(error, MacpRefusedError):  # an answer that says no is an answer
            about["rpc.response.status_code"] = "OK"
        elif isinstance(error, MacpTransportError):
            about["rpc.response.status_code"] = error.status
        if error is not None:
            about["error.type"] = _type(error)
        if isinstance(error, MacpRefusedError | MacpTransportError) and error.code:
            about["macp.error.code"] = error.code
        self._end(about, error)

    def cancelled(self) -> None:
        self._end({"rpc.response.status_code": "CANCELLED"})

    def _end(self, about: Attributes, error: Exception | None = None) -> None:
        if self in self.connection.open:
            del self.connection.open[self]
            self.span.set_attributes(about)
            if error is not None:
                self.span.set_status(StatusCode.ERROR, str(error))
            self.measure(about)
            self.span.end(self.now)

    def measure(self, about: Attributes) -> None:
        """Tells the metrics of the end."""


class _Send(_Call):
    """One send."""

    def measure(self, about: Attributes) -> None:
        kind = {"macp.message_type": self.about["macp.message_type"]}
        took = max(0, self.now - self.began) / 1e9  # the clock of the wall may be set back
        self._meters.duration.record(took, {**self.method, **kind, **about}, self.context)


class _Stream(_Call):
    """One subscription to a session."""

    delivered = 0
    why = ""

    def happened(self, what: str, error: Exception | None = None, **details: float) -> None:
        super().happened(what, error, **details)
        if what == Connection.LOST.value:
            self.why = _type(error) if error else "OK"
        elif what == Connection.RECONNECTING.value:
            self._meters.reconnects.add(1, {**self.connection.server, "error.type": self.why}, self.context)
        elif what == Connection.GAP.value:
            self._meters.missing.add(details["missing"], self.connection.server, self.context)

    def delivering(self, on_next: OnNext) -> OnNext:
        lag, clock, server = self._meters.lag, self.connection.clock, self.connection.server

        def deliver(accepted: Accepted) -> None:
            self.delivered += 1
            if accepted.live:
                lag.record(max(0, clock.now_ms - accepted.envelope.timestamp_unix_ms) / 1000, server)
            on_next(accepted)

        return deliver

    def measure(self, about: Attributes) -> None:
        self.span.set_attribute("macp.delivered", self.delivered)


def _type(error: Exception) -> str:
    """What kind of error it is, for counting: the code of the registry, else the gRPC status, else the class."""
    if isinstance(error, MacpRefusedError):
        return error.code
    if isinstance(error, MacpTransportError):
        return error.code or error.status
    return type(error).__qualname__
