"""macp-rx studio: a page that shows what the sessions of a runtime do."""

from __future__ import annotations

import sys
import webbrowser
from typing import Annotated

import typer

from macp_rx.cli.connection import connected, is_loopback
from macp_rx.client import MacpClient
from macp_rx.errors import MacpSessionError

__all__ = ["studio"]


@connected()
def studio(
    client: MacpClient,
    host: Annotated[str, typer.Option(metavar="HOST", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="0 takes a free one.", min=0, max=65535)] = 8765,
    page_token: Annotated[
        str,
        typer.Option(
            metavar="TOKEN",
            help="What a browser must have; a new one at each start, unless it is said here.",
            envvar="MACP_STUDIO_TOKEN",
            show_default=False,
        ),
    ] = "",
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    allow_insecure: Annotated[
        bool, typer.Option("--allow-insecure", help="Permit a host that other machines can reach, in plaintext.")
    ] = False,
) -> None:
    """Shows sessions live on a page of this machine, and draws a transcript that is dropped on it. Ctrl-C ends it.

    Without --agent and --token each session is read in the name of its initiator, as on a development runtime anybody may.
    Needs the extra: pip install "macp-rx[studio]".

    Example: macp-rx studio --target 127.0.0.1:50051
    """
    try:
        from macp_rx.studio import Studio
    except ImportError as error:
        raise MacpSessionError(f'the studio needs more: pip install "macp-rx[studio]" ({error})') from None
    if not is_loopback(host):
        if not allow_insecure:
            raise MacpSessionError(f"{host} can be reached from other machines, in plaintext; or --allow-insecure")
        typer.secho(f"macp-rx: whoever can read the network to {host} sees the sessions", fg="yellow", err=True)
    with Studio(client, host=host, port=port, token=page_token) as running:
        sys.stdout.write(f"{running.url}\n")
        sys.stdout.flush()
        if open_it:
            webbrowser.open(running.url)
        running.wait()
