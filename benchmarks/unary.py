"""Unary sends, 64 in flight."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterable

import grpc.aio
from macp.v1 import core_pb2, core_pb2_grpc
from macp.v1.envelope_pb2 import Ack, Envelope
from reactivex.scheduler.eventloop import AsyncIOScheduler

from benchmarks import Row, against, timed, wait_for
from benchmarks.server import AGENT, METADATA, apart, connect

__all__ = ["rows"]

SENDS = 2000
IN_FLIGHT = 64


def rows(rounds: int) -> Iterable[Row]:
    """CPU per send: awaited on the user's loop, and subscribed on the shared I/O thread, against bare grpc.aio."""
    envelopes = [_progress() for _ in range(SENDS)]
    with apart() as target:
        seconds = timed(
            {
                "bare": lambda: asyncio.run(_bare(target, envelopes)),
                "awaited": lambda: asyncio.run(_awaited(target, envelopes)),
                "subscribed": lambda: _subscribed(target, envelopes),
            },
            rounds,
        )
    for name in ("awaited", "subscribed"):
        what = f"unary send, {IN_FLIGHT} in flight, {name}: CPU per send"
        yield against(what, seconds[name], seconds["bare"], "bare grpc.aio", most=1.4, show=_each)


def _each(seconds: float) -> str:
    return f"{seconds / SENDS * 1e6:.0f} us"


def _progress() -> Envelope:
    payload = core_pb2.ProgressPayload(progress_token="benchmark", progress=1, total=2)
    return Envelope(
        macp_version="1.0",
        message_type="Progress",
        message_id=str(uuid.uuid4()),
        sender=AGENT,
        payload=payload.SerializeToString(),
    )


async def _bare(target: str, envelopes: list[Envelope]) -> None:
    waiting = iter(envelopes)
    async with grpc.aio.insecure_channel(target) as channel:
        stub = core_pb2_grpc.MACPRuntimeServiceStub(channel)

        async def send() -> None:
            for envelope in waiting:
                request = core_pb2.SendRequest(envelope=envelope)
                response = await stub.Send(request, metadata=METADATA, timeout=30)
                assert response.ack.ok

        await asyncio.gather(*(send() for _ in range(IN_FLIGHT)))


async def _awaited(target: str, envelopes: list[Envelope]) -> None:
    waiting = iter(envelopes)
    scheduler = AsyncIOScheduler(asyncio.get_running_loop())
    async with connect(target, scheduler=scheduler) as client:
        rx = client.rx

        async def send() -> None:
            for envelope in waiting:
                assert (await rx.send(envelope)).ok

        await asyncio.gather(*(send() for _ in range(IN_FLIGHT)))


def _subscribed(target: str, envelopes: list[Envelope]) -> None:
    waiting = iter(envelopes)
    answered = 0
    done = threading.Event()
    with connect(target) as client:
        rx = client.rx

        def send() -> None:
            envelope = next(waiting, None)
            if envelope is not None:
                rx.send(envelope).subscribe(took)

        def took(ack: Ack) -> None:
            nonlocal answered
            answered += 1
            if answered == SENDS:
                done.set()
            send()

        def fill() -> None:
            for _ in range(IN_FLIGHT):
                send()

        client.clock.run_soon(fill)
        wait_for(done)
