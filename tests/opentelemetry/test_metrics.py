"""What is counted and measured: how long sends take, lag, buffers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from reactivex import operators as ops
from reactivex.scheduler import NewThreadScheduler

from macp_rx import (
    MacpAckError,
)
from macp_rx import operators as mo
from macp_rx.opentelemetry import OpenTelemetry
from macp_rx.streams.retry import RetryPolicy
from macp_rx.testing.guard import GuardedClock
from tests.opentelemetry.watched import (
    SEND,
    Embedded,
    Watched,
    started,
)


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
