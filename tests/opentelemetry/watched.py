"""OpenTelemetry that keeps what it was told, and what the specs of it say and look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
import pytest
from macp.v1.envelope_pb2 import Ack
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from macp_rx import (
    DecisionSession,
    MacpClient,
    MacpTransportError,
)
from macp_rx.opentelemetry import OpenTelemetry

SEND = "macp.v1.MACPRuntimeService/Send"
STREAM = "macp.v1.MACPRuntimeService/StreamSession"


class Watched:
    """OpenTelemetry with everything that it was told kept in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.traces = TracerProvider()
        self.traces.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])
        self.tracer = self.traces.get_tracer("the application")
        self.telemetry = OpenTelemetry(tracer_provider=self.traces, meter_provider=self.meters)

    def spans(self, name: str = "", **attributes: str) -> list[ReadableSpan]:
        """The spans that have ended, in the order in which they did."""
        wanted = {f"macp.{key}": value for key, value in attributes.items()}
        return [
            span
            for span in self._exporter.get_finished_spans()
            if span.name.startswith(name) and wanted.items() <= attributes_of(span).items()
        ]

    def span(self, name: str, **attributes: str) -> ReadableSpan:
        (span,) = self.spans(name, **attributes)
        return span

    def points(self, name: str) -> list[Any]:
        """What a metric has come to."""
        data = self._reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        found = [metric for scope in scopes for metric in scope.metrics if metric.name == name]
        return [point for metric in found for point in metric.data.data_points]

    def value(self, name: str) -> float:
        (point,) = self.points(name)
        return point.value  # type: ignore[no-any-return]

    def close(self) -> None:
        self.traces.shutdown()
        self.meters.shutdown()


def attributes_of(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def events_of(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


Embedded = Callable[..., MacpClient]
"""Makes the chair's client of an embedded runtime; settings are the runtime's."""


def started(client: MacpClient) -> DecisionSession:
    session = DecisionSession(client)
    session.start(intent="telemetry", participants=["chair", "alice"], ttl_ms=3_600_000)
    return session


def commit(session: DecisionSession) -> Ack:
    return session.commit(action="decision.approved", authority_scope="test", reason="because")


class NotingWire(grpc.GenericRpcHandler):
    """Notes what goes with each call, and implements none."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, str]]] = []

    def service(self, details: grpc.HandlerCallDetails) -> None:
        self.heard.append((details.method.rpartition("/")[2], dict(details.invocation_metadata)))


def call_everything(client: MacpClient) -> None:
    with pytest.raises(MacpTransportError):
        client.send_signal(signal_type="hello")
    with pytest.raises(MacpTransportError):
        list(client.session_events("0b3f0b0e-6d5b-4c55-9a6b-1a8d3a1f6f10"))
    with pytest.raises(MacpTransportError):
        client.initialize()
    with pytest.raises(MacpTransportError):
        list(client.watch_roots())
    with pytest.raises(MacpTransportError):
        client.open_stream().read()
