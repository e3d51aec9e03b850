"""Asking a studio as anybody could: with plain HTTP, without a browser."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import parse_qs, urlsplit

from macp_rx.studio import Studio


@dataclass(frozen=True)
class Address:
    """Where a studio is."""

    port: int
    token: str

    @classmethod
    def of(cls, studio: Studio) -> Address:
        parts = urlsplit(studio.url)
        assert parts.port is not None
        return cls(parts.port, parse_qs(parts.query)["token"][0])

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@contextmanager
def asked(
    studio: Studio,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[HTTPResponse]:
    """The answer to one request; the token is in it unless other headers are named."""
    address = Address.of(studio)
    connection = HTTPConnection("127.0.0.1", address.port, timeout=20)
    try:
        connection.request(method, path, body, dict(address.bearer if headers is None else headers))
        yield connection.getresponse()
    finally:
        connection.close()


def events(response: HTTPResponse) -> Iterator[tuple[str, Any, int]]:
    """The server-sent events of an answer: name, data, id."""
    fields: dict[str, str] = {}
    for line in response:
        text = line.decode().rstrip("\n")
        if text:
            name, _, value = text.partition(": ")
            fields[name] = value
        else:
            yield fields["event"], json.loads(fields["data"]), int(fields.get("id", 0))
            fields = {}


def unread(studio: Studio, path: str) -> socket.socket:
    """A connection that has asked for something, and does not read the answer."""
    address = Address.of(studio)
    asking = socket.socket()
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asking.settimeout(20)
    asking.connect(("127.0.0.1", address.port))
    asking.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {address.token}\r\n\r\n".encode())
    return asking
