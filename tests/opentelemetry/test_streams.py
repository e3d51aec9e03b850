"""A session stream is a span, and what becomes of its connection are its events."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from macp_rx import (
    AuthConfig,
    MacpClient,
)
from macp_rx.errors import MacpGapError
from macp_rx.streams.retry import RetryPolicy
from macp_rx.streams.stream import HIGH_WATER
from macp_rx.testing.guard import GuardedClock
from tests.chaos.proxy import Proxy
from tests.conftest import Recorder
from tests.opentelemetry.watched import (
    SEND,
    STREAM,
    Embedded,
    Watched,
    attributes_of,
    commit,
    events_of,
    started,
)


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
