"""Which runtime a command talks to, and as whom: the options of every command that has a client, written once."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec, cast

import typer

from macp_rx.client import MacpClient
from macp_rx.streams.sending import SEND_RETRY
from macp_rx.transport.auth import AuthConfig

__all__ = ["connect", "connected", "is_loopback"]

P = ParamSpec("P")

LOCAL: Final = "127.0.0.1:50051"
"""Where `macp-rx serve` listens."""

_panel: Final = partial(typer.Option, rich_help_panel="Connection")


def connect(
    target: Annotated[str | None, _panel("--target", metavar="HOST:PORT", help="The runtime.", envvar="MACP_TARGET")],
    agent: Annotated[
        str | None,
        _panel(
            "--agent",
            metavar="NAME",
            help="Who is asking: a development runtime takes the name for it; with a token, whom the token is for.",
            envvar="MACP_AGENT",
        ),
    ] = None,
    token: Annotated[
        str | None,
        _panel(
            "--token",
            metavar="TOKEN",
            help="Bearer token. Others can read it in the list of processes: better by the environment.",
            envvar="MACP_TOKEN",
            show_default=False,
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        _panel(
            "--ca",
            metavar="FILE",
            help="PEM of the CA to trust, instead of the system's.",
            envvar="MACP_CA",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    insecure: Annotated[
        bool | None,
        _panel(
            "--insecure/--secure",
            help="Plaintext or TLS. Without either: TLS, but plaintext to this very machine.",
            envvar="MACP_INSECURE",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float,
        _panel("--timeout", metavar="SECONDS", help="How long an answer may take.", envvar="MACP_TIMEOUT", min=0.001),
    ] = 10,
) -> MacpClient:
    """A client of a server; without a target, of a runtime of its own.

    Raises:
        MacpSessionError: a target, token or file that can never work. The text never shows the token.
    """
    auth = _auth(token, agent)
    if target is None:
        client = MacpClient.embedded(agent="nobody", default_timeout=timeout)
        return client if auth is None else client.acting_as(auth)
    if insecure is None:
        insecure = ca is None and is_loopback(target.rpartition(":")[0])
    if insecure and token and not is_loopback(target.rpartition(":")[0]):
        typer.secho(f"macp-rx: the token goes to {target} in plaintext", fg=typer.colors.YELLOW, err=True)
    return MacpClient(
        target=target,
        secure=not insecure,
        auth=auth,
        root_certificates=ca.read_bytes() if ca else None,
        retry=replace(SEND_RETRY, first_contact=0),  # whoever has typed a wrong address should not have to wait
        default_timeout=timeout,
    )


def _auth(token: str | None, agent: str | None) -> AuthConfig | None:
    if token:
        return AuthConfig.for_bearer(token, expected_sender=agent)
    return AuthConfig.for_dev_agent(agent) if agent else None


def connected(
    *, target: str | None = LOCAL
) -> Callable[[Callable[Concatenate[MacpClient, P], None]], Callable[..., None]]:
    """Makes a command of a function whose first parameter is a client: it gets the options of `connect` for it.

    Args:
        target: the runtime by default; None is one inside the process.
    """

    def decorate(command: Callable[Concatenate[MacpClient, P], None]) -> Callable[..., None]:
        options = signature(connect, eval_str=True).parameters
        own = list(signature(command, eval_str=True).parameters.values())[1:]

        def run(**given: Any) -> None:
            chosen = {name: given.pop(name) for name in options}
            with connect(**chosen) as client:
                cast("Callable[..., None]", command)(client, **given)

        theirs = [options["target"].replace(default=target), *list(options.values())[1:]]
        # not functools.wraps: by __wrapped__ typer would read the command's own parameters
        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        parameters = [each.replace(kind=each.KEYWORD_ONLY) for each in (*own, *theirs)]
        vars(run)["__signature__"] = Signature(parameters)
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def is_loopback(host: str) -> bool:
    """Whether a host's name stands for this very machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
