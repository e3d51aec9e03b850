"""A send is a span, from its first try to what became of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from macp_rx import (
    MacpAckError,
    MacpClient,
    MacpTransportError,
)
from macp_rx.streams.retry import RetryPolicy
from macp_rx.testing.guard import GuardedClock
from tests.opentelemetry.watched import (
    SEND,
    STREAM,
    Embedded,
    Watched,
    attributes_of,
    events_of,
    started,
)


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
        MacpClient(target="127.0.0.1:1", secure=False, telemetry=watched.telemetry, retry=None) as client,
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


def test_the_clock_of_a_span_is_exact_to_the_microsecond(watched: Watched, virtual_time: GuardedClock) -> None:
    """As a float the nanoseconds since 1970 would be rounded to 256."""
    virtual_time.advance_by(timedelta(microseconds=123_457).total_seconds())
    call = watched.telemetry.connection("embedded", virtual_time).stream("s", 0)
    call.ended()
    assert (watched.span(STREAM).start_time or 0) % 1_000_000_000 == 123_457_000
