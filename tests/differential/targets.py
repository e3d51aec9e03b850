"""A runtime under test: steps go in as bytes, answers come out comparable, and two watches listen all the while."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope

from tests.differential import answers
from tests.differential.answers import Plain
from tests.differential.steps import (
    Call,
    Close,
    Frame,
    Metadata,
    Open,
    Pause,
    Scenario,
    Step,
    bearer,
    page_token,
    path,
    response_class,
)
from tests.differential.stream import Stream

__all__ = ["Conversation", "Target", "connected"]

JUDGE = bearer("judge")
LAST_SESSION = "z" * 128
"""Sorts behind every other session, so that a page of one session is never the last one."""

PATIENCE = 20
"""Seconds after which a call that has not answered is a divergence, not a wait."""


class Target:
    """One runtime, reached over several connections, because one carries 128 streams and 64 requests at most."""

    def __init__(self, name: str, channels: list[grpc.aio.Channel]) -> None:
        self.name = name
        self.lifecycle: dict[str, list[Plain]] = defaultdict(list)
        """Session id -> its lifecycle events."""
        self.signals: dict[str, list[Plain]] = defaultdict(list)
        """Sender -> the signals it sent."""
        self._channels = channels
        self._next = itertools.count()
        self._marks: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._listening: list[asyncio.Task[None]] = []

    def channel(self) -> grpc.aio.Channel:
        """The next connection."""
        return self._channels[next(self._next) % len(self._channels)]

    async def begin(self) -> None:
        """Starts listening, and the session that sorts last."""
        self._listening = [
            asyncio.create_task(self._watch("WatchSessions", self._hear_lifecycle)),
            asyncio.create_task(self._watch("WatchSignals", self._hear_signal)),
        ]
        await self._start(LAST_SESSION)
        await asyncio.wait_for(self._heard(LAST_SESSION), PATIENCE)

    async def end(self) -> None:
        """Waits until both watches have told everything that has happened, and stops listening."""
        last_session, last_signal = uuid.uuid4().hex, uuid.uuid4().hex
        await self._start(last_session)
        await self._send(Envelope(macp_version="1.0", message_type="Signal", message_id=last_signal))
        await asyncio.wait_for(self._heard(last_session), PATIENCE)
        await asyncio.wait_for(self._heard(last_signal), PATIENCE)
        for task in self._listening:
            task.cancel()

    async def listed(self, session_ids: Iterable[str]) -> dict[str, core_pb2.SessionMetadata]:
        """The sessions of these ids as they are now. To list them changes none, and counts for no limit."""
        ask = self.channel().unary_unary(
            path("ListSessions"), response_deserializer=core_pb2.ListSessionsResponse.FromString
        )
        found: dict[str, core_pb2.SessionMetadata] = {}
        for session_id in session_ids:
            cursor = session_id[: len(LAST_SESSION)][:-1]  # sorts right before it, if it is short enough to be an id
            request = core_pb2.ListSessionsRequest(page_size=1, page_token=page_token(cursor) if cursor else "")
            page = await ask(request.SerializeToString(), metadata=JUDGE)
            found.update((session.session_id, session) for session in page.sessions if session.session_id == session_id)
        return found

    async def _heard(self, mark: str) -> None:
        heard = asyncio.create_task(self._marks[mark].wait())
        done, _ = await asyncio.wait([heard, *self._listening], return_when=asyncio.FIRST_COMPLETED)
        heard.cancel()
        for task in done - {heard}:
            task.result()  # a watch that ended, says why
            raise AssertionError(f"a watch of {self.name} ended with OK")

    async def _watch(self, method: str, hear: Any) -> None:
        call = self.channel().unary_stream(path(method), response_deserializer=response_class(method).FromString)(
            b"", metadata=JUDGE
        )
        async for said in call:
            hear(said)

    def _hear_lifecycle(self, said: core_pb2.WatchSessionsResponse) -> None:
        session_id = said.event.session.session_id
        self.lifecycle[session_id].append(answers.lifecycle_event(said.event))
        self._marks[session_id].set()

    def _hear_signal(self, said: core_pb2.WatchSignalsResponse) -> None:
        self.signals[said.envelope.sender].append(answers.signal(said))
        self._marks[said.envelope.message_id].set()

    async def _start(self, session_id: str) -> None:
        payload = core_pb2.SessionStartPayload(
            participants=["judge"], mode_version="1.0.0", configuration_version="c", ttl_ms=DAY
        )
        envelope = Envelope(
            macp_version="1.0",
            mode="macp.mode.decision.v1",
            message_type="SessionStart",
            message_id="start",
            session_id=session_id,
            payload=payload.SerializeToString(),
        )
        await self._send(envelope)

    async def _send(self, envelope: Envelope) -> None:
        request = core_pb2.SendRequest(envelope=envelope).SerializeToString()
        said = await self.channel().unary_unary(path("Send"), response_deserializer=core_pb2.SendResponse.FromString)(
            request, metadata=JUDGE
        )
        assert said.ack.ok, f"{self.name} refused the judge: {said}"


DAY = 86_400_000


@asynccontextmanager
async def connected(name: str, target: str, *, connections: int = 6) -> AsyncIterator[Target]:
    """A target, and its connections as long as the block runs."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(connections)]
    try:
        yield Target(name, channels)
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


@dataclass
class Conversation:
    """One scenario with one target: what it says, one step after the other.

    Attributes:
        scenario: what is played.
        target: with whom.
    """

    scenario: Scenario
    target: Target
    _streams: dict[int, Stream] = field(default_factory=dict)
    _channel: grpc.aio.Channel | None = None
    _receipts: dict[bytes, str] = field(default_factory=dict)

    async def take(self, step: Step) -> Plain:
        """Does a step and returns the answer."""
        if self._channel is None:
            self._channel = self.target.channel()
        try:
            async with asyncio.timeout(PATIENCE):
                match step:
                    case Call():
                        return await self._call(step)
                    case Open(stream, metadata):
                        self._streams[stream] = self._open(metadata)
                        return "opened"
                    case Frame(stream, request):
                        return await self._streams[stream].frame(request)
                    case Close(stream):
                        return await self._streams.pop(stream).close()
                    case Pause(seconds):
                        await asyncio.sleep(seconds)  # a deadline passes, on clocks that nobody can move
                        return "waited"
        except TimeoutError:
            return f"no answer within {PATIENCE} s"

    def over(self, stream: int) -> bool:
        """Whether a stream has ended."""
        return self._streams[stream].ended

    def leave(self, stream: int) -> None:
        """Cancels a stream; later steps find it ended."""
        self._streams[stream].cancel()

    def give_up(self) -> None:
        """Cancels the streams that are open."""
        for stream in self._streams:
            self.leave(stream)

    async def _call(self, step: Call) -> Plain:
        assert self._channel is not None
        call = self._channel.unary_unary(
            path(step.method), response_deserializer=response_class(step.method).FromString
        )
        try:
            said: Message = await call(step.request, metadata=step.metadata)
        except grpc.aio.AioRpcError as error:
            return answers.status(error.code(), error.details(), error.trailing_metadata())
        known = answers.response(self.scenario, step, said)
        if isinstance(said, core_pb2.GetDecisionReceiptResponse):
            first = self._receipts.setdefault(step.request, said.receipt_json)
            known = {**known, "as before": said.receipt_json == first}
        return known

    def _open(self, metadata: Metadata) -> Stream:
        assert self._channel is not None
        method = self._channel.stream_stream(
            path("StreamSession"), response_deserializer=core_pb2.StreamSessionResponse.FromString
        )
        return Stream(lambda: method(metadata=metadata))
