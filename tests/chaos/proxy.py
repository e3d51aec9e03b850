"""A TCP proxy that makes trouble between clients and a server."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing sends RST, and what was not sent yet is thrown away."""


class Link:
    """One connection of a client, and the one to the server that belongs to it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.ends = (client, server)
        self.silent = False

    def close(self, *, reset: bool) -> None:
        for end in self.ends:
            if reset:
                with suppress(OSError):  # it is closed already
                    end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            end.transport.abort()


class Proxy:
    """Forwards every connection to a server, and makes trouble on request, from any thread.

    Args:
        upstream: ``host:port`` of the server.
    """

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = host, int(port)
        self._links: list[Link] = []
        self._changed = threading.Condition()
        self._pumps: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None
        self._port = 0
        self._delay = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy")
        self._thread.start()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._run(self._listen())
        self.target = f"127.0.0.1:{self._port}"

    def wait_until(self, expected: Callable[[int], bool], seconds: float) -> None:
        """Waits until so many connections of clients are open as are expected."""
        with self._changed:
            if not self._changed.wait_for(lambda: expected(len(self._links)), seconds):
                raise AssertionError(f"{len(self._links)} connections are open after {seconds} s")

    # Trouble. ``which`` picks the links that have it: all of them, or one.

    def cut(self, which: Callable[[list[Link]], list[Link]] = list, *, reset: bool = False) -> None:
        """Closes both sides of the links, orderly or by a reset."""

        def cut() -> None:
            for link in which(self._links):
                link.close(reset=reset)

        self._soon(cut)

    def silence(self, which: Callable[[list[Link]], list[Link]] = list) -> None:
        """Swallows from now on whatever goes over the links as they are, without closing them: half-open."""

        def silence() -> None:
            for link in which(self._links):
                link.silent = True

        self._soon(silence)

    def stall(self, seconds: float) -> None:
        """Forwards nothing for a while, and loses nothing."""

        def stall() -> None:
            self._flowing.clear()
            self._loop.call_later(seconds, self._flowing.set)

        self._soon(stall)

    def delay(self, seconds: float) -> None:
        """Forwards everything so much later, from now on."""
        self._delay = seconds

    def refuse(self) -> None:
        """Refuses new connections."""

        async def refuse() -> None:
            if self._listening is not None:
                self._listening.close()
                self._listening = None

        self._run(refuse())

    def accept(self) -> None:
        """Accepts new connections again."""
        self._run(self._listen())

    def refuse_for(self, seconds: float) -> None:
        """Refuses new connections for a while."""
        self.refuse()

        def accept() -> None:
            self._keep(self._loop.create_task(self._listen()))

        self._soon(lambda: self._loop.call_later(seconds, accept))

    # What does it.

    async def _listen(self) -> None:
        if self._listening is None:
            self._listening = await asyncio.start_server(self._linked, "127.0.0.1", self._port)
            self._port = self._listening.sockets[0].getsockname()[1]

    async def _linked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection(*self._upstream)
        except OSError:  # the server is down: the client sees its connection closed
            writer.transport.abort()
            return
        link = Link(writer, server)
        self._count(lambda: self._links.append(link))
        pumps = [
            self._keep(self._loop.create_task(self._pump(link, reader, server))),
            self._keep(self._loop.create_task(self._pump(link, answers, writer))),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        link.close(reset=False)
        self._count(lambda: self._links.remove(link))

    def _count(self, change: Callable[[], None]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                if not link.silent:
                    writer.write(data)
                    await writer.drain()

    def _keep(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)
        return task

    def _soon(self, action: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(action)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def close(self) -> None:
        """Cuts what is left, and ends."""

        async def end() -> None:
            if self._listening is not None:
                self._listening.close()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for link in self._links:
                link.close(reset=False)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
