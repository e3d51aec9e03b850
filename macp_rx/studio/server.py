"""`Studio`: the page, what it asks for, and the port that it is on."""

from __future__ import annotations

import asyncio
import secrets
import socket
from base64 import b64encode
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib.resources import files
from re import DOTALL, findall, fullmatch
from types import TracebackType
from typing import Final, Self

import uvicorn
from macp.v1.core_pb2 import SessionMetadata
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from macp_rx.client import MacpClient
from macp_rx.diagrams.theme import style_sheet
from macp_rx.errors import MacpSessionError, MacpWouldBlockError
from macp_rx.studio import session
from macp_rx.studio.drawing import drawn
from macp_rx.studio.guard import Guard
from macp_rx.studio.sessions import Sessions

__all__ = ["Studio"]

LARGEST: Final = 16 * 1024 * 1024
"""Bytes of a file that is drawn, at the most."""

HANGING_UP: Final = 0.05
"""Seconds between two looks whether somebody is still there."""

NOBODY: Final = "studio"
"""Who lists the sessions where nobody has said who is asking."""


class Studio:
    """A page that shows what the sessions of a runtime do. It lives on the client's own loop, beside its streams.

    As whom it reads is the client's to say. Where it does not, each session is read in the name of its initiator, as on a
    development runtime anybody may.

    Args:
        client: the connection; to be closed after the studio.
        host: where to listen.
        port: 0 takes a free one.
        token: what a browser must have; a new one if blank.

    Raises:
        MacpSessionError: a token that is too easily guessed, or cannot stand in an address; the client lives under virtual time.
        MacpWouldBlockError: this is the client's own loop, which its close would have to wait for.
        OSError: it cannot listen there.
    """

    def __init__(self, client: MacpClient, *, host: str = "127.0.0.1", port: int = 0, token: str = "") -> None:
        if token and not fullmatch(r"[A-Za-z0-9_-]{16,}", token):
            raise MacpSessionError("the studio's token has at least 16 letters, digits, - or _")
        if not client.clock.runs_by_itself:
            raise MacpSessionError("a studio is for people, and needs a client in real time")
        if client.clock.on_own_thread():
            raise MacpWouldBlockError("a studio is opened and closed from another thread than the client's own loop")
        self._client = client
        self._loop = client.clock.loop
        self._reader = client if client.auth is not None else client.acting_as(NOBODY)
        self._token = token or secrets.token_urlsafe(24)
        self._sessions = Sessions(self._reader)
        self._drawing = ThreadPoolExecutor(1, "macp_rx-drawing")
        self._one_at_a_time = asyncio.Semaphore(1)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
        self._host, self._port = host, int(listening.getsockname()[1])
        config = uvicorn.Config(
            self._app(host),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._serving = asyncio.run_coroutine_threadsafe(self._serve(listening), self._loop)

    @property
    def url(self) -> str:
        """The page's address, with its token."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/?token={self._token}"

    def wait(self) -> None:
        """Blocks as long as it serves."""
        self._serving.result()

    def close(self) -> None:
        """Hangs up on every page, and listens no more. Any number of times."""
        self._server.should_exit = True
        if not self._serving.done():  # else the client was closed first, and with it the loop
            asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
        self._drawing.shutdown()

    def __enter__(self) -> Self:
        """The studio itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()

    async def _serve(self, listening: socket.socket) -> None:
        self._sessions.start()
        try:
            await self._server.serve([listening])
        finally:
            self._sessions.stop()
            listening.close()

    async def _hang_up(self) -> None:
        """Ends the streams as their readers would, for with a request ends what it has subscribed to.

        More than once: a page that was hung up on comes back as long as the port is open.
        """
        while not self._serving.done():
            for connection in tuple(self._server.server_state.connections):
                connection.transport.close()
            await asyncio.sleep(HANGING_UP)

    def _app(self, host: str) -> Starlette:
        page = _page()
        policy = _policy(page)

        async def index(_request: Request) -> Response:
            return HTMLResponse(page)

        routes = [
            Route("/", index),
            Route("/sessions", self._list),
            Route("/sessions/{session_id}", self._session),
            Route("/draw", self._draw, methods=["POST"]),
        ]
        return Starlette(routes=routes, middleware=[Middleware(Guard, token=self._token, policy=policy, host=host)])

    async def _list(self, _request: Request) -> Response:
        return _Events(self._sessions.frames())

    async def _session(self, request: Request) -> Response:
        metadata = self._sessions.find(request.path_params["session_id"])
        if metadata is None:
            return PlainTextResponse("the runtime knows no such session (any more)", 404)
        after = request.headers.get("last-event-id", "0")
        if not fullmatch(r"\d{1,18}", after):
            return PlainTextResponse("Last-Event-ID is the sequence that was heard last", 400)
        return _Events(session.frames(self._reading(metadata), metadata, int(after)))

    def _reading(self, metadata: SessionMetadata) -> MacpClient:
        return self._client if self._client.auth is not None else self._client.acting_as(metadata.initiator)

    async def _draw(self, request: Request) -> Response:
        file = bytearray()
        async with self._one_at_a_time:  # whoever waits has not been read yet
            async for part in request.stream():
                file += part
                if len(file) > LARGEST:
                    return PlainTextResponse(
                        "this is more than 16 MB: `macp-rx marble FILE -o picture.svg` draws it", 413
                    )
            try:
                told = await self._loop.run_in_executor(self._drawing, drawn, bytes(file))
            except MacpSessionError as error:
                return PlainTextResponse(str(error), 422)
        return JSONResponse(told)


class _Events(StreamingResponse):
    """Server-sent events, which end with their reader; one that waits for a slow reader would else be left to the collector."""

    def __init__(self, frames: AsyncGenerator[str]) -> None:
        super().__init__(frames, media_type="text/event-stream")
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tells them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._frames.aclose()


def _page() -> str:
    """The page, in the colours of the pictures."""
    text = files("macp_rx.studio").joinpath("page.html").read_text(encoding="utf-8")
    return text.replace("/* the theme */", style_sheet("auto"), 1)


def _policy(page: str) -> str:
    """What the page may do: run its own script, look as it says, and ask the studio. Nothing else."""

    def hashes(tag: str) -> str:
        bodies = findall(rf"<{tag}>(.*?)</{tag}>", page, DOTALL)
        return " ".join(f"'sha256-{b64encode(sha256(body.encode()).digest()).decode()}'" for body in bodies)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
