"""Which runtime a command talks to: a server, or one inside the process."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Annotated

import typer

from macp_rx.client import MacpClient
from macp_rx.streams.sending import SEND_RETRY
from macp_rx.transport.auth import AuthConfig

__all__ = ["Secure", "Target", "connect", "is_loopback"]

Target = Annotated[
    str | None, typer.Option("--target", metavar="HOST:PORT", help="A runtime to use, instead of one in this process.")
]
Secure = Annotated[
    bool | None,
    typer.Option("--secure/--insecure", help="TLS or plaintext. Default: TLS, but plaintext to this very machine."),
]


def connect(target: str | None, agent: str, secure: bool | None) -> MacpClient:
    """A client that speaks as ``agent``: of a server, or of a runtime of its own."""
    if target is None:
        return MacpClient.embedded(agent=agent)
    if secure is None:
        secure = not is_loopback(target.rpartition(":")[0])
    at_once = replace(SEND_RETRY, first_contact=0)  # whoever has typed a wrong address should not have to wait
    return MacpClient(target=target, secure=secure, auth=AuthConfig.for_dev_agent(agent), retry=at_once)


def is_loopback(host: str) -> bool:
    """Whether a host's name stands for this very machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
