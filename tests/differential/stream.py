"""A StreamSession call whose frames are answered one at a time, although the protocol has no answer for most."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope

from tests.differential import answers
from tests.differential.answers import Plain

__all__ = ["LOST", "Stream"]

SILENCE = 0.1
"""Seconds that a frame may go unanswered before it counts as accepted in silence."""

LOST = "its status was lost"
"""How a call ended that ended while grpc.aio wrote, which then puts "Internal error from Core" for what the server said."""


StreamCall = grpc.aio.StreamStreamCall[bytes, core_pb2.StreamSessionResponse]


@dataclass(frozen=True)
class _End:
    how: Plain


class Stream:
    """One call, and a task that reads it.

    Args:
        open: opens it. Its requests are bytes.

    Attributes:
        ended: nothing more will be said.
    """

    def __init__(self, open: Callable[[], StreamCall]) -> None:
        self._open = open
        self._call = open()
        self._said: asyncio.Queue[core_pb2.StreamSessionResponse | _End] = asyncio.Queue()
        self.ended = False
        self._marks = 0
        self._reading = asyncio.create_task(self._read())

    async def frame(self, request: bytes) -> list[Plain]:
        """Writes a frame; returns what was said before it, then what answers it.

        A mark behind the frame is an envelope of another protocol version, which is always refused inline: what is said up to
        that answers the frame. A mark before it makes sure that what happened earlier has been said. The mark behind is
        held back until something was said, because of LOST.
        """
        heard: list[Plain] = []
        await self._to_mark(heard)
        if not self.ended:
            await self._write(request)
            with suppress(TimeoutError):
                async with asyncio.timeout(SILENCE):
                    self._note(await self._said.get(), heard)
        await self._to_mark(heard)
        return heard

    async def close(self) -> list[Plain]:
        """Half-closes; returns what is still said."""
        heard: list[Plain] = []
        await self._to_mark(heard)
        if not self.ended:
            await self._call.done_writing()
        while not self.ended:
            self._note(await self._said.get(), heard)
        return heard

    def cancel(self) -> None:
        """Leaves it."""
        self.ended = True
        self._reading.cancel()
        self._call.cancel()

    async def _to_mark(self, heard: list[Plain]) -> None:
        if self.ended:
            return
        self._marks += 1
        mark = Envelope(macp_version="mark", message_id=f"mark {self._marks}")
        await self._write(core_pb2.StreamSessionRequest(envelope=mark).SerializeToString())
        while not self.ended:
            said = await self._said.get()
            if isinstance(said, core_pb2.StreamSessionResponse) and said.error.message_id == mark.message_id:
                return
            self._note(said, heard)

    def _note(self, said: core_pb2.StreamSessionResponse | _End, heard: list[Plain]) -> None:
        if isinstance(said, _End):
            self.ended = True
            heard.append({"ended": said.how})
        elif said.HasField("error"):
            heard.append(answers.inline_error(said))
        else:
            heard.append(answers.accepted(said.envelope))

    async def _write(self, frame: bytes) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it has ended: the reader tells how
            await self._call.write(frame)

    async def _read(self) -> None:
        with suppress(grpc.aio.AioRpcError):
            async for said in self._call:
                self._said.put_nowait(said)
        how = await _status(self._call)
        if how == LOST and self._marks == 1:  # it was refused as it opened, and so is another one
            self._call = self._open()
            await self._call.done_writing()
            how = await _status(self._call)
        self._said.put_nowait(_End(how))


async def _status(call: Any) -> Plain:
    code, sentence = await call.code(), await call.details()
    if code is grpc.StatusCode.OK:
        return "OK"
    if sentence == "Internal error from Core":
        return LOST
    return answers.status(code, sentence, await call.trailing_metadata())
