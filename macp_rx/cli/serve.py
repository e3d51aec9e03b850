"""macp-rx serve: the embedded runtime on a real port."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer
from rich.console import Console

from macp_rx.runtime import Runtime

__all__ = ["serve"]


def serve(
    bind: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.", envvar="MACP_BIND_ADDR"),
    ] = "127.0.0.1:50051",
) -> None:
    """Runs the embedded runtime as a server, with development authentication: the bearer token is the sender.

    Example: macp-rx serve --bind 127.0.0.1:50051
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    with Runtime() as runtime, runtime.serve(bind) as server:
        Console().print(
            f"macp-rx runtime on [bold cyan]{server.target}[/], plaintext, development tokens; Ctrl-C ends it"
        )
        stop.wait()
