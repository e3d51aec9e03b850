"""Who may ask the studio for something: a browser that has its token, under a name that no stranger's page can have."""

from __future__ import annotations

import secrets
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

NO_TOKEN: Final = """\
This is a macp_rx studio, and the address lacks its token, or has an old one.

Open the address that `macp-rx studio` has printed: it ends in /?token=...
The token is another one at each start, unless MACP_STUDIO_TOKEN says which it is.
"""

WRONG_HOST: Final = """\
A studio answers under an IP address or localhost, not under {host}.
"""


class Guard:
    """Lets through what has the token, and adds to every answer what a browser must not do with it.

    The page has the token in its address, as ``?token=``, and its requests have it as a bearer. Not as a cookie: browsers send
    cookies of one port to every other port of the machine (RFC 6265, 8.5).

    Against DNS rebinding the Host must be an address, or localhost: a page of a stranger that points a name of its own at this
    machine sends that name.

    Args:
        app: what it guards.
        token: the token.
        policy: the page's Content-Security-Policy.
        host: the name that the studio was told to listen on.
    """

    def __init__(self, app: ASGIApp, *, token: str, policy: str, host: str) -> None:
        self._app = app
        self._token = token.encode()
        self._names = {"localhost", host.lower()}
        self._headers = {**HEADERS, "Content-Security-Policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        app = self._app
        host = _name(headers.get("host", ""))
        if not (host in self._names or _is_address(host)):
            app = PlainTextResponse(WRONG_HOST.format(host=host or "no name"), 421)
        elif not secrets.compare_digest(_token(headers, scope["query_string"]).encode(), self._token):
            app = PlainTextResponse(NO_TOKEN, 403)
        await app(scope, receive, with_headers)


def _name(host: str) -> str:
    """The host without its port: ``[::1]:8765`` is ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _token(headers: Mapping[str, str], query: bytes) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token
    return parse_qs(query.decode("latin-1")).get("token", [""])[0]
