"""What is done under a span of the user's is its child, here and on the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import format_span_id, format_trace_id
from reactivex import operators as ops

from macp_rx import (
    AuthConfig,
    DecisionSession,
    MacpClient,
    MacpTransportError,
)
from macp_rx.clock import LoopClock
from macp_rx.opentelemetry import OpenTelemetry
from tests.conftest import RealServer, Recorder
from tests.opentelemetry.watched import (
    SEND,
    STREAM,
    NotingWire,
    Watched,
    attributes_of,
    call_everything,
    commit,
    started,
)


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


def test_every_call_says_its_trace(watched: Watched, wire: tuple[NotingWire, str]) -> None:
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


def test_a_propagator_of_ones_own(watched: Watched, wire: tuple[NotingWire, str]) -> None:
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
