"""Reading 5,000 replayed envelopes: session_events, payload decoded, one map, one filter, to the end of the session.

The session is resolved, so that every reader finds its end in the same way: at the Commitment.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

import grpc.aio
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload
from macp.v1 import core_pb2, core_pb2_grpc
from reactivex import operators as ops
from reactivex.scheduler import EventLoopScheduler

from benchmarks import Row, against, timed, wait_for
from benchmarks.server import METADATA, apart, connect, sdk_stream, session_with
from macp_rx import Accepted, DecisionSession, MacpClient, Stream
from macp_rx import operators as mo

__all__ = ["rows"]

ENVELOPES = 5000
EVALUATIONS = ENVELOPES - 3  # all but SessionStart, Proposal and Commitment


def rows(rounds: int) -> Iterable[Row]:
    """CPU per envelope against a bare grpc.aio loop and against macp-sdk-python's MacpStream."""
    with apart() as target:
        session_id = session_with(target, ENVELOPES)
        _check(target, session_id)
        seconds = timed(
            {
                "bare": lambda: asyncio.run(_bare(target, session_id)),
                "again": lambda: asyncio.run(_bare(target, session_id)),
                "ours": lambda: _ours(target, session_id),
                "shared": lambda: _shared(target, session_id),
                "sdk": lambda: _sdk(target, session_id),
            },
            rounds,
        )
    what = "read, decode, map, filter: CPU per envelope"
    bare, ours = seconds["bare"], seconds["ours"]
    yield against(what, ours, bare, "bare grpc.aio loop", most=1.08, show=_each)
    shared = seconds["shared"]
    yield against(f"{what}, shared, on another thread", shared, bare, "bare grpc.aio loop", most=1.15, show=_each)
    yield against(what, ours, seconds["sdk"], "macp-sdk-python", most=1, show=_each)
    yield against("control: the bare loop again", seconds["again"], bare, "bare grpc.aio loop", most=None, show=_each)


def _each(seconds: float) -> str:
    return f"{seconds / ENVELOPES * 1e6:.1f} us"


async def _bare(target: str, session_id: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        stub = core_pb2_grpc.MACPRuntimeServiceStub(channel)
        call = stub.StreamSession(metadata=METADATA)
        await call.write(core_pb2.StreamSessionRequest(subscribe_session_id=session_id))
        async for response in call:
            envelope = response.envelope
            if envelope.message_type == "Evaluation":
                _sure(_evaluation(envelope.payload))
            elif envelope.message_type == "Commitment":
                break
        call.cancel()


def _ours(target: str, session_id: str) -> None:
    with connect(target) as client:
        done = threading.Event()
        _sure_evaluations(client, session_id).subscribe(on_completed=done.set)
        wait_for(done)


def _shared(target: str, session_id: str) -> None:
    with connect(target) as client:
        done = threading.Event()
        thread = EventLoopScheduler()
        events = DecisionSession(client, session_id).events.pipe(mo.deliver_on(thread))
        _sure_ones(events).subscribe(on_completed=done.set)
        wait_for(done)
        thread.dispose()


def _check(target: str, session_id: str) -> None:
    with connect(target) as client:
        read = _sure_evaluations(client, session_id).pipe(ops.count()).run()
    if read != EVALUATIONS:
        raise SystemExit(f"benchmarks: read {read} evaluations of {EVALUATIONS}")


def _sure_evaluations(client: MacpClient, session_id: str) -> Stream[EvaluationPayload]:
    return _sure_ones(client.session_events(session_id))


def _sure_ones(events: Stream[Accepted]) -> Stream[EvaluationPayload]:
    return events.pipe(mo.of_type(EvaluationPayload), ops.map(_payload), ops.filter(_sure))


def _sdk(target: str, session_id: str) -> None:
    with sdk_stream(target, session_id) as stream:
        for envelope in stream.responses():
            if envelope.message_type == "Evaluation":
                _sure(_evaluation(envelope.payload))
            elif envelope.message_type == "Commitment":
                break


def _evaluation(payload: bytes) -> EvaluationPayload:
    return EvaluationPayload.FromString(payload)


def _payload(accepted: Accepted[EvaluationPayload]) -> EvaluationPayload:
    return accepted.payload


def _sure(evaluation: EvaluationPayload) -> bool:
    return evaluation.confidence >= 0.5
