"""A TCP proxy that makes trouble between clients and a server."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing sends RST, and what was not sent yet is thrown away."""


class Link:
    """One connection of a client, and then the one to the server that belongs to it."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.ends = [client]
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
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._port = 0
        self._delay = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy")
        self._thread.start()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.accept()
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
        self._now(self._stop_listening)

    def accept(self) -> None:
        """Accepts new connections again."""
        self._now(self._listen)

    def refuse_for(self, seconds: float) -> None:
        """Refuses new connections for a while."""
        self.refuse()
        self._soon(lambda: self._loop.call_later(seconds, self._listen))

    # What does it.

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self._port), backlog=1024)
            self._listener.setblocking(False)
            self._port = self._listener.getsockname()[1]
            self._loop.add_reader(self._listener, self._connected, self._listener)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _connected(self, listener: socket.socket) -> None:
        with suppress(OSError):  # gone already
            client, _ = listener.accept()
            client.setblocking(False)
            self._keep(self._loop.create_task(self._link(client)))

    async def _link(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        link = Link(writer)
        self._count(lambda: self._links.append(link))
        try:
            answers, server = await asyncio.open_connection(*self._upstream)
            link.ends.append(server)
            pumps = [
                self._keep(self._loop.create_task(self._pump(link, reader, server))),
                self._keep(self._loop.create_task(self._pump(link, answers, writer))),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server is down: the client sees its connection closed
        finally:
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
                    await asyncio.sleep(self._delay)  # the trouble itself: a network that is so slow
                if not link.silent:
                    writer.write(data)
                    await writer.drain()

    def _keep(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _soon(self, action: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(action)

    def _now(self, action: Callable[[], object]) -> None:
        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(10)

    def close(self) -> None:
        """Cuts what is left, and ends."""

        async def end() -> None:
            self._stop_listening()
            self._flowing.set()
            while self._tasks:
                for link in self._links:
                    link.close(reset=False)
                await asyncio.wait(self._tasks, timeout=0.1)
            await asyncio.sleep(0)  # what was aborted closes its socket in the next turn of the loop

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
