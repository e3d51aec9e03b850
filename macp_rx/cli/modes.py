"""macp-rx modes."""

from __future__ import annotations

from typing import Annotated

import typer

from macp_rx.cli.connection import connected
from macp_rx.cli.terminal import print_json, print_table
from macp_rx.client import MacpClient
from macp_rx.protocol import canonical

__all__ = ["modes"]


@connected()
def modes(
    client: MacpClient,
    as_json: Annotated[bool, typer.Option("--json", help="A line of canonical JSON for each.")] = False,
) -> None:
    """Lists the modes of a runtime, extensions included.

    Example: macp-rx modes --target 127.0.0.1:50051
    """
    listed = [*client.list_modes().modes, *client.list_ext_modes().modes]
    if as_json:
        for mode in listed:
            print_json(canonical.to_json(mode))
        return
    rows = [(mode.mode, mode.mode_version, ", ".join(mode.message_types)) for mode in listed]
    print_table(("MODE", "VERSION", "MESSAGES"), rows)
