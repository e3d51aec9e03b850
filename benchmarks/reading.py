"""Reading 5,000 replayed envelopes: session_events, payload decoded, one map, one filter."""

from __future__ import annotations

import asyncio
import logging
import statistics
import threading
from collections.abc import Iterable

import grpc.aio
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload
from macp.v1 import core_pb2, core_pb2_grpc
from reactivex import operators as ops

from benchmarks import Row, cpu_rounds, ratio
from benchmarks.server import AGENT, METADATA, running_server, session_with
from macp_rx import Accepted, AuthConfig, MacpClient
from macp_rx import operators as mo

__all__ = ["rows"]

ENVELOPES = 5000


def rows(rounds: int) -> Iterable[Row]:
    """CPU per envelope against a bare grpc.aio loop, and against macp-sdk-python's MacpStream."""
    with running_server() as target:
        session_id = session_with(target, ENVELOPES)
        seconds = cpu_rounds(
            {
                "bare": lambda: asyncio.run(_bare(target, session_id)),
                "ours": lambda: _ours(target, session_id),
                "sdk": lambda: _sdk(target, session_id),
            },
            rounds,
        )
    each = {name: statistics.median(values) / ENVELOPES * 1e6 for name, values in seconds.items()}
    bare, sdk = ratio(seconds["ours"], seconds["bare"]), ratio(seconds["ours"], seconds["sdk"])
    what = "read, decode, map, filter: CPU per envelope"
    yield Row(
        what, f"{each['ours']:.1f} us", f"{each['bare']:.1f} us", "bare grpc.aio loop", bare, "≤ 1.08x", bare <= 1.08
    )
    yield Row(what, f"{each['ours']:.1f} us", f"{each['sdk']:.1f} us", "macp-sdk-python", sdk, "< 1x", sdk < 1)


async def _bare(target: str, session_id: str) -> None:
    read = 0
    async with grpc.aio.insecure_channel(target) as channel:
        stub = core_pb2_grpc.MACPRuntimeServiceStub(channel)
        call = stub.StreamSession(metadata=METADATA)
        await call.write(core_pb2.StreamSessionRequest(subscribe_session_id=session_id))
        async for response in call:
            read += 1
            envelope = response.envelope
            if envelope.message_type == "Evaluation":
                _sure(_evaluation(envelope.payload))
            if read == ENVELOPES:
                break
        call.cancel()


def _ours(target: str, session_id: str) -> None:
    with MacpClient(target=target, secure=False, auth=AuthConfig.for_dev_agent(AGENT)) as client:
        done = threading.Event()
        evaluations = client.session_events(session_id).pipe(
            mo.of_type(EvaluationPayload), ops.map(_payload), ops.filter(_sure), ops.take(ENVELOPES - 2)
        )
        evaluations.subscribe(on_completed=done.set)
        done.wait()


def _sdk(target: str, session_id: str) -> None:
    import macp_sdk

    logging.getLogger("macp_sdk").setLevel(logging.ERROR)  # it warns of every plaintext client
    client = macp_sdk.MacpClient(target=target, allow_insecure=True, auth=macp_sdk.AuthConfig.for_dev_agent(AGENT))
    stream = client.open_stream()
    stream.send_subscribe(session_id)
    for read, envelope in enumerate(stream.responses(), start=1):
        if envelope.message_type == "Evaluation":
            _sure(_evaluation(envelope.payload))
        if read == ENVELOPES:
            break
    stream.cancel()
    client.close()


def _evaluation(payload: bytes) -> EvaluationPayload:
    return EvaluationPayload.FromString(payload)


def _payload(accepted: Accepted[EvaluationPayload]) -> EvaluationPayload:
    return accepted.payload


def _sure(evaluation: EvaluationPayload) -> bool:
    return evaluation.confidence >= 0.5
