"""What OpenTelemetry is told: spans, the trace on the wire, metrics; and nothing unless it is asked for."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from macp.v1.envelope_pb2 import Ack
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from reactivex import operators as ops
from reactivex.scheduler import NewThreadScheduler

from macp_rx import (
    AuthConfig,
    DecisionSession,
    MacpAckError,
    MacpClient,
    MacpSessionError,
    MacpTransportError,
    Runtime,
)
from macp_rx import operators as mo
from macp_rx.clock import LoopClock
from macp_rx.errors import MacpGapError
from macp_rx.opentelemetry import OpenTelemetry
from macp_rx.runtime import Settings
from macp_rx.streams.retry import RetryPolicy
from macp_rx.streams.stream import HIGH_WATER
from macp_rx.testing.guard import GuardedClock
from tests.chaos.proxy import Proxy
from tests.conftest import RealServer, Recorder

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


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.close()


Embedded = Callable[..., MacpClient]


@pytest.fixture
def embedded(watched: Watched, virtual_time: GuardedClock) -> Iterator[Embedded]:
    """Makes the chair's client of an embedded runtime under virtual time; settings are the runtime's."""
    made: list[MacpClient | Runtime] = []

    def embedded(
        retry: RetryPolicy | None = None, telemetry: OpenTelemetry = watched.telemetry, **settings: Any
    ) -> MacpClient:
        runtime = Runtime(clock=virtual_time, settings=Settings(**settings))
        client = MacpClient.embedded(
            agent="chair", runtime=runtime, telemetry=telemetry, retry=retry, default_timeout=None
        )
        made[:0] = [client, runtime]
        return client

    yield embedded
    for each in made:
        each.close()


def started(client: MacpClient) -> DecisionSession:
    session = DecisionSession(client)
    session.start(intent="telemetry", participants=["chair", "alice"], ttl_ms=3_600_000)
    return session


def commit(session: DecisionSession) -> Ack:
    return session.commit(action="decision.approved", authority_scope="test", reason="because")


# Sends.


def test_a_send_is_a_client_span(watched: Watched, embedded: Embedded) -> None:
    session = started(embedded())
    ack = session.propose("p1", "canary")
    span = watched.span(SEND, message_type="Proposal")
    assert span.kind is SpanKind.CLIENT
    assert span.parent is None
    assert span.status.status_code is StatusCode.UNSET
    assert attributes_of(span) == {
        "rpc.system.name": "grpc",
        "rpc.method": SEND,
        "rpc.response.status_code": "OK",
        "server.address": "embedded",
        "macp.mode": "macp.mode.decision.v1",
        "macp.message_type": "Proposal",
        "macp.session_id": session.session_id,
        "macp.message_id": ack.message_id,
    }
    assert events_of(span) == ["try"]


def test_the_times_of_spans_are_the_clients_clocks(
    watched: Watched, embedded: Embedded, virtual_time: GuardedClock
) -> None:
    session = started(embedded())
    virtual_time.advance_by(5)
    session.propose("p1", "canary")
    began = watched.span(SEND, message_type="Proposal").start_time
    assert began is not None
    assert datetime.fromtimestamp(began / 1e9, UTC) == virtual_time.now
    assert began - (watched.span(SEND, message_type="SessionStart").start_time or 0) == 5_000_000_000


def test_a_refusal_is_an_error_with_its_code(watched: Watched, embedded: Embedded) -> None:
    session = started(embedded())
    with pytest.raises(MacpAckError) as refused:
        session.acting_as("mallory").propose("p1", "mine")
    span = watched.span(SEND, message_type="Proposal")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == str(refused.value)
    told = attributes_of(span)
    assert (told["macp.error.code"], told["error.type"]) == ("FORBIDDEN", "FORBIDDEN")
    assert told["rpc.response.status_code"] == "OK"  # the call went well: its answer was no


def test_an_unreachable_runtime_is_an_error_with_the_status(watched: Watched) -> None:
    with (
        MacpClient(target="127.0.0.1:1", secure=False, telemetry=watched.telemetry) as client,
        pytest.raises(MacpTransportError),
    ):
        client.send_signal(signal_type="hello")
    told = attributes_of(watched.span(SEND))
    assert (told["server.address"], told["server.port"]) == ("127.0.0.1", 1)
    assert (told["rpc.response.status_code"], told["error.type"]) == ("UNAVAILABLE", "UNAVAILABLE")
    assert "macp.error.code" not in told


def test_every_try_is_an_event(watched: Watched, embedded: Embedded) -> None:
    session = started(embedded(RetryPolicy(first=20, cap=20, give_up_after=120), messages_per_minute=1))
    session.propose("p1", "one")
    session.propose("p2", "another")  # only after a minute
    first, second = watched.spans(SEND, message_type="Proposal")
    assert events_of(first) == ["try"]
    retries = (len(second.events) - 1) // 2
    assert retries > 1
    assert events_of(second) == ["try", "retry"] * retries + ["try"]
    again = dict(second.events[1].attributes or {})
    delay = again.pop("macp.delay")
    assert isinstance(delay, float)
    assert again.pop("error.type") == "RATE_LIMITED"
    assert "1 messages a minute" in str(again.pop("error.message"))
    assert not again
    assert second.events[2].timestamp - second.events[1].timestamp == pytest.approx(delay * 1e9, abs=1000)
    assert second.status.status_code is StatusCode.UNSET


def test_a_send_that_nobody_waits_for_any_more_is_cancelled_and_no_error(
    watched: Watched, embedded: Embedded, virtual_time: GuardedClock
) -> None:
    session = started(embedded(RetryPolicy(first=5, cap=5, give_up_after=120), messages_per_minute=1))
    session.propose("p1", "one")
    another = session.rx.propose("p2", "another").subscribe()
    virtual_time.advance_by(10)
    another.dispose()
    virtual_time.advance_by(10)
    span = watched.spans(SEND)[-1]
    assert events_of(span)[:2] == ["try", "retry"]
    assert (span.end_time or 0) - (span.start_time or 0) == 10_000_000_000
    assert attributes_of(span)["rpc.response.status_code"] == "CANCELLED"
    assert span.status.status_code is StatusCode.UNSET


# The user's own spans.


@pytest.fixture
def connected(watched: Watched, connected_to: str) -> Iterator[MacpClient]:
    auth = AuthConfig.for_dev_agent("chair")
    with MacpClient(target=connected_to, secure=False, auth=auth, telemetry=watched.telemetry) as client:
        yield client


@pytest.fixture(params=["port", pytest.param("server", marks=pytest.mark.server)])
def connected_to(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "server":
        yield request.getfixturevalue("real_server").target
        return
    with Runtime() as runtime, runtime.serve() as server:
        yield server.target


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def test_what_is_done_under_a_span_is_its_child(watched: Watched, connected: MacpClient) -> None:
    with watched.tracer.start_as_current_span("work") as work:
        session = started(connected)
        history = session._client.history(session.session_id)
        assert [accepted.message_type for accepted in history] == ["SessionStart"]
    for span in (watched.span(SEND), watched.span(STREAM)):
        assert parent_of(span) == work.get_span_context().span_id


def test_what_is_awaited_under_a_span_is_its_child_on_any_loop(watched: Watched, connected_to: str) -> None:
    async def main() -> None:
        auth = AuthConfig.for_dev_agent("chair")
        here = LoopClock(asyncio.get_running_loop())
        for scheduler in (here, None):
            async with MacpClient(
                target=connected_to, secure=False, auth=auth, scheduler=scheduler, telemetry=watched.telemetry
            ) as client:
                await asyncio.gather(*(start(client, name) for name in ("left", "right")))

    async def start(client: MacpClient, name: str) -> None:
        with watched.tracer.start_as_current_span(name):
            await DecisionSession(client).rx.start(intent=name, participants=["chair"], ttl_ms=60_000)

    asyncio.run(main())
    works = [span.context.span_id for span in watched.spans() if span.name in ("left", "right") and span.context]
    assert sorted(parent_of(span) for span in watched.spans(SEND)) == sorted(works)


def test_messages_in_one_line_stay_in_their_senders_traces(watched: Watched, connected: MacpClient) -> None:
    """The second is sent when the first was answered; it belongs to its own sender all the same, and so does what follows."""
    session = started(connected)
    heard = Recorder()
    for name in ("one", "two"):
        with watched.tracer.start_as_current_span(name):
            then = session.rx.propose(f"{name}-then", "later")
            session.rx.propose(name, "now").pipe(ops.flat_map(lambda _ack, then=then: then)).subscribe(heard)
    heard.wait_for(2)
    names = {span.context.span_id: span.name for span in watched.spans() if span.context}
    sent = [names[parent_of(span)] for span in watched.spans(SEND, message_type="Proposal")]
    assert sorted(sent) == ["one", "one", "two", "two"]


# Streams.


def told_of(span: ReadableSpan) -> list[tuple[str, dict[str, Any]]]:
    return [(event.name, dict(event.attributes or {})) for event in span.events]


def test_a_stream_is_a_span_from_its_start_to_its_end(
    watched: Watched, embedded: Embedded, virtual_time: GuardedClock
) -> None:
    client = embedded()
    session = started(client)
    client.session_events(session.session_id).subscribe()
    virtual_time.advance_by(1)
    session.propose("p1", "canary")
    virtual_time.advance_by(1)
    commit(session)
    virtual_time.run_until_idle()
    span = watched.span(STREAM)
    assert span.kind is SpanKind.CLIENT
    assert attributes_of(span) == {
        "rpc.system.name": "grpc",
        "rpc.method": STREAM,
        "rpc.response.status_code": "OK",
        "server.address": "embedded",
        "macp.session_id": session.session_id,
        "macp.after_sequence": 0,
        "macp.delivered": 3,
    }
    assert told_of(span) == [("connected", {"macp.sequence": 0}), ("caught up", {"macp.sequence": 1})]
    assert (span.end_time or 0) - (span.start_time or 0) == 2_000_000_000


def test_a_stream_that_lags_is_lost_and_comes_back(
    watched: Watched, embedded: Embedded, virtual_time: GuardedClock
) -> None:
    client = embedded()
    session = started(client)
    read = iter(client.session_events(session.session_id))
    assert next(read).sequence == 1
    for number in range(3 * HIGH_WATER):  # the reader waits at 256 unread; 256 more, and the runtime ends the call
        session.propose(f"p{number}", "one of many")
    assert watched.value("macp.client.buffer.waiting") == HIGH_WATER
    commit(session)
    assert [accepted.sequence for accepted in read] == list(range(2, 3 * HIGH_WATER + 3))
    span = watched.span(STREAM)
    assert events_of(span) == ["connected", "caught up", "lost", "reconnecting", "connected"]
    lost = dict(span.events[2].attributes or {})
    assert lost["error.type"] == "STREAM_LAGGED"
    assert attributes_of(span)["macp.delivered"] == 3 * HIGH_WATER + 2
    (point,) = watched.points("macp.client.stream.reconnects")
    assert (point.value, point.attributes["error.type"]) == (1, "STREAM_LAGGED")
    assert watched.value("macp.client.buffer.waiting") == 0


@pytest.mark.parametrize("on_gap", ["fail", "continue"])
def test_a_gap_is_told_and_counted(watched: Watched, embedded: Embedded, on_gap: Any) -> None:
    client = embedded(compact_ended=True)
    session = started(client)
    read = iter(client.session_events(session.session_id, on_gap=on_gap))
    next(read)
    for number in range(3 * HIGH_WATER):
        session.propose(f"p{number}", "one of many")
    commit(session)
    if on_gap == "fail":
        with pytest.raises(MacpGapError):
            list(read)
        span = watched.span(STREAM)
        assert span.status.status_code is StatusCode.ERROR
        assert attributes_of(span)["macp.error.code"] == "HISTORY_UNAVAILABLE"
        assert watched.points("macp.client.stream.missing") == []
        return
    seen = len(list(read)) + 1
    assert "gap" in events_of(watched.span(STREAM))
    missing = 3 * HIGH_WATER + 2 - seen
    assert watched.value("macp.client.stream.missing") == missing


def test_a_stream_that_is_left_or_closed_ends_its_span(
    watched: Watched, embedded: Embedded, virtual_time: GuardedClock
) -> None:
    client = embedded()
    session = started(client)
    left = client.session_events(session.session_id).subscribe()
    client.session_events(session.session_id).subscribe()
    virtual_time.advance_by(1)
    left.dispose()
    virtual_time.advance_by(1)
    assert len(watched.spans(STREAM)) == 1
    client.close()
    for span in watched.spans(STREAM):
        assert attributes_of(span)["rpc.response.status_code"] == "CANCELLED"
        assert span.status.status_code is StatusCode.UNSET
    assert len(watched.spans(STREAM)) == 2


def test_what_is_under_way_when_the_client_closes_is_told_once(
    watched: Watched, embedded: Embedded, virtual_time: GuardedClock, caplog: pytest.LogCaptureFixture
) -> None:
    client = embedded(RetryPolicy(first=5, cap=5, give_up_after=120), messages_per_minute=1)
    session = started(client)
    session.propose("p1", "one")
    session.rx.propose("p2", "waits for its next try").subscribe(on_error=lambda _error: None)
    session.rx.propose("p3", "waits for the one before").subscribe(on_error=lambda _error: None)
    virtual_time.advance_by(1)
    client.close()
    virtual_time.advance_by(60)
    ends = [attributes_of(span)["rpc.response.status_code"] for span in watched.spans(SEND, message_type="Proposal")]
    assert ends == ["OK", "CANCELLED", "CANCELLED"]
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []


def test_a_lost_connection_and_its_return(
    watched: Watched, connected_to: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "macp_rx")
    auth = AuthConfig.for_dev_agent("chair")
    with (
        Proxy(connected_to) as proxy,
        MacpClient(target=proxy.target, secure=False, auth=auth, telemetry=watched.telemetry) as client,
    ):
        session = started(client)
        heard, again = Recorder(), Recorder()
        events = client.session_events(session.session_id)
        events.status.subscribe(again)
        events.subscribe(heard)
        again.wait_for(2)  # connected, caught up
        proxy.cut()
        again.wait_for(5)  # lost, reconnecting, connected
        session.propose("p1", "canary")
        commit(session)
        heard.wait_for_end()
    span = watched.span(STREAM)
    assert events_of(span)[:5] == ["connected", "caught up", "lost", "reconnecting", "connected"]


# Metrics.


def test_how_long_sends_take(watched: Watched, embedded: Embedded) -> None:
    session = started(embedded(RetryPolicy(first=20, cap=20, give_up_after=120), messages_per_minute=1))
    session.propose("p1", "one")
    with pytest.raises(MacpAckError):
        session.acting_as("mallory").propose("p2", "mine")
    points = {
        (point.attributes["macp.message_type"], point.attributes.get("error.type")): point
        for point in watched.points("rpc.client.call.duration")
    }
    assert set(points) == {("SessionStart", None), ("Proposal", None), ("Proposal", "FORBIDDEN")}
    assert dict(points["Proposal", "FORBIDDEN"].attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": SEND,
        "rpc.response.status_code": "OK",
        "server.address": "embedded",
        "macp.message_type": "Proposal",
        "macp.error.code": "FORBIDDEN",
        "error.type": "FORBIDDEN",
    }
    session.propose("p3", "after a minute")
    (waited,) = (point for point in watched.points("rpc.client.call.duration") if point.sum > 1)
    sends = watched.spans(SEND, message_type="Proposal")
    assert waited.sum == pytest.approx(((sends[-1].end_time or 0) - (sends[-1].start_time or 0)) / 1e9)


def test_lag_is_from_what_an_envelope_says_to_its_delivery(
    watched: Watched, embedded: Embedded, virtual_time: GuardedClock
) -> None:
    client = embedded()
    session = started(client)  # replayed, which is no lag
    client.session_events(session.session_id).subscribe()
    virtual_time.advance_by(1)
    late = session.rx.propose("p1", "stamped now")
    virtual_time.advance_by(0.25)
    late.run()
    virtual_time.run_until_idle()
    (point,) = watched.points("macp.client.stream.lag")
    assert (point.count, point.sum) == (1, pytest.approx(0.25))


def test_a_buffer_that_drops_is_seen(watched: Watched, embedded: Embedded, virtual_time: GuardedClock) -> None:
    client = embedded()
    session = started(client)
    hop = mo.deliver_on(Later(), buffer=4, overflow="drop_oldest")
    subscription = client.session_events(session.session_id).pipe(hop).subscribe()
    for number in range(9):
        session.propose(f"p{number}", "one of many")
    virtual_time.advance_by(1)
    assert watched.value("macp.client.buffer.waiting") == 4
    assert watched.value("macp.client.buffer.dropped") == 6
    subscription.dispose()
    virtual_time.advance_by(1)
    assert watched.value("macp.client.buffer.waiting") == 0
    assert watched.value("macp.client.buffer.dropped") == 6  # what has been dropped stays dropped


class Later(NewThreadScheduler):
    """A scheduler that never gets round to it."""

    def schedule(self, action: Any, state: Any = None) -> Any:
        return None


def test_every_buffer_on_the_way_is_seen(watched: Watched, embedded: Embedded, virtual_time: GuardedClock) -> None:
    session = started(embedded())
    for number in range(9):
        session.propose(f"p{number}", "one of many")
    first, second = mo.deliver_on(virtual_time), mo.deliver_on(Later(), overflow="drop_newest")
    session.events.pipe(first, second).subscribe()
    read = iter(session.events.pipe(mo.deliver_on(virtual_time)))
    next(read)
    virtual_time.advance_by(1)
    assert (
        watched.value("macp.client.buffer.waiting") == 10 + 9
    )  # ten wait in the second hop; of the other ten one was read


def test_a_buffer_of_two_sources_is_seen_once(watched: Watched, embedded: Embedded, virtual_time: GuardedClock) -> None:
    session = started(embedded())
    read = iter(session.events.pipe(ops.merge(session.events)))
    next(read)
    virtual_time.advance_by(1)
    assert watched.value("macp.client.buffer.waiting") == 1  # it had two starts, and one was read


def test_every_client_of_a_provider_is_seen(watched: Watched, embedded: Embedded, virtual_time: GuardedClock) -> None:
    """The SDK asks only the first of two observable instruments of one name (measured)."""
    reading: list[Iterator[object]] = []
    for telemetry in (watched.telemetry, OpenTelemetry(meter_provider=watched.meters)):
        session = started(embedded(telemetry=telemetry))
        session.propose("p1", "canary")
        read = iter(session.events)
        next(read)
        virtual_time.advance_by(1)
        reading.append(read)
    assert watched.value("macp.client.buffer.waiting") == 2


# The wire.


class Wire(grpc.GenericRpcHandler):
    """Notes what goes with each call, and implements none."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, str]]] = []

    def service(self, details: grpc.HandlerCallDetails) -> None:
        self.heard.append((details.method.rpartition("/")[2], dict(details.invocation_metadata)))


@pytest.fixture
def wire() -> Iterator[tuple[Wire, str]]:
    wire = Wire()
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, [wire])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield wire, f"127.0.0.1:{port}"
        server.stop(None).wait()


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


def test_every_call_says_its_trace(watched: Watched, wire: tuple[Wire, str]) -> None:
    heard, target = wire
    auth = AuthConfig.for_dev_agent("chair")
    with MacpClient(target=target, secure=False, auth=auth, telemetry=watched.telemetry) as client:
        with watched.tracer.start_as_current_span("work") as work:
            call_everything(client)
        assert [method for method, _ in heard.heard] == [
            "Send",
            "StreamSession",
            "Initialize",
            "WatchRoots",
            "StreamSession",
        ]
        trace = format_trace_id(work.get_span_context().trace_id)
        own = format_span_id(work.get_span_context().span_id)
        send, stream = (watched.span(name).context for name in (SEND, STREAM))
        assert send is not None
        assert stream is not None
        belongs_to = [format_span_id(send.span_id), format_span_id(stream.span_id), own, own, own]
        said = [said["traceparent"].rpartition("-")[0] for _, said in heard.heard]
        assert said == [f"00-{trace}-{span}" for span in belongs_to]
        heard.heard.clear()
        with pytest.raises(MacpTransportError):
            client.initialize()
        assert "traceparent" not in heard.heard[0][1]  # no work, no trace


def test_a_propagator_of_ones_own(watched: Watched, wire: tuple[Wire, str]) -> None:
    class Capitals(TextMapPropagator):
        fields = {"X-Work"}  # noqa: RUF012 - as the API has it

        def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
            setter.set(carrier, "X-Work", "7")

        def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
            raise NotImplementedError

    heard, target = wire
    telemetry = OpenTelemetry(tracer_provider=watched.traces, meter_provider=watched.meters, propagator=Capitals())
    with MacpClient(target=target, secure=False, telemetry=telemetry) as client, pytest.raises(MacpTransportError):
        client.initialize()
    assert heard.heard[0][1]["x-work"] == "7"


@pytest.mark.server
def test_the_real_server_takes_it(watched: Watched, real_server: RealServer) -> None:
    auth = AuthConfig.for_dev_agent("chair")
    with MacpClient(target=real_server.target, secure=False, auth=auth, telemetry=watched.telemetry) as client:
        session = started(client)
        heard = Recorder()
        session.events.subscribe(heard)
        session.propose("p1", "canary")
        commit(session)
        heard.wait_for_end()
        assert session.outcome.run().state == "RESOLVED"
    assert [attributes_of(span)["macp.message_type"] for span in watched.spans(SEND)] == [
        "SessionStart",
        "Proposal",
        "Commitment",
    ]
    assert attributes_of(watched.spans(STREAM)[0])["macp.delivered"] == 3


# Off, and what is never told.


def test_off_nothing_goes_with_a_call_even_under_a_span(watched: Watched, wire: tuple[Wire, str]) -> None:
    heard, target = wire
    auth = AuthConfig.for_dev_agent("chair")
    with (
        MacpClient(target=target, secure=False, auth=auth) as client,
        watched.tracer.start_as_current_span("work"),
    ):
        call_everything(client)
    assert len(heard.heard) == 5
    assert not [said for _, said in heard.heard if set(said) & {"traceparent", "tracestate", "baggage"}]
    assert [span.name for span in watched.spans()] == ["work"]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_off_opentelemetry_is_not_imported() -> None:
    code = """
import sys, macp_rx
with macp_rx.MacpClient.embedded(agent="chair") as client:
    session = macp_rx.DecisionSession(client)
    session.start(intent="off", participants=["chair"], ttl_ms=60_000)
    session.propose("p1", "canary")
    client.history(session.session_id).run()
print(sorted(name for name in sys.modules if "opentelemetry" in name))
"""
    assert run(code) == "[]"


def test_without_the_extra_the_error_names_it() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
try:
    import macp_rx.opentelemetry
except ImportError as error:
    print(error)
"""
    assert run(code) == "macp_rx.opentelemetry needs the package opentelemetry-api: pip install 'macp-rx[otel]'"


@pytest.mark.parametrize("telemetry", [None, True, OpenTelemetry, TracerProvider])
def test_what_is_no_telemetry_is_refused_at_once(telemetry: Any, no_thread_left: None) -> None:
    with pytest.raises(MacpSessionError, match=r"such as OpenTelemetry\(\)"):
        MacpClient(target="127.0.0.1:1", telemetry=telemetry)
    with pytest.raises(MacpSessionError, match=r"such as OpenTelemetry\(\)"):
        MacpClient.embedded(agent="chair", telemetry=telemetry)


def test_no_token_is_ever_told(watched: Watched, connected_to: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = "a-bearer-token-that-nobody-may-see"

    def expired() -> str:
        raise PermissionError("the session of the identity provider has expired")

    retry = RetryPolicy(first=0.01, cap=0.01, give_up_after=0.02)
    with Proxy(connected_to) as proxy:
        for provider in (token, lambda: token, expired):
            auth = AuthConfig.for_bearer(provider)
            with MacpClient(
                target=proxy.target, secure=False, auth=auth, telemetry=watched.telemetry, retry=retry
            ) as client:
                if provider is expired:
                    with pytest.raises(MacpTransportError):
                        started(client)
                    continue
                session = started(client)
                heard = Recorder()
                events = client.session_events(session.session_id, retry=retry)
                events.subscribe(heard)
                heard.wait_for(1)
                proxy.refuse()
                proxy.cut()
                heard.wait_for_end()
                with pytest.raises(MacpTransportError):
                    session.propose("p1", "nobody hears it")
                proxy.accept()
    told = caplog.text + "".join(span.to_json() for span in watched.spans())
    assert "given up" in told
    assert "has expired" in told
    assert token not in told


def test_the_clock_of_a_span_is_exact_to_the_microsecond(watched: Watched, virtual_time: GuardedClock) -> None:
    """As a float the nanoseconds since 1970 would be rounded to 256."""
    virtual_time.advance_by(timedelta(microseconds=123_457).total_seconds())
    call = watched.telemetry.connection("embedded", virtual_time).stream("s", 0)
    call.ended()
    assert (watched.span(STREAM).start_time or 0) % 1_000_000_000 == 123_457_000
