"""The command line: ``macp-rx``. One file a command, or for a few that belong together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import typer

from macp_rx.cli.demo import demo
from macp_rx.cli.doctor import doctor
from macp_rx.cli.ending import Commands
from macp_rx.cli.marble import marble
from macp_rx.cli.modes import modes
from macp_rx.cli.policies import policies
from macp_rx.cli.record import record, replay
from macp_rx.cli.send import send
from macp_rx.cli.serve import serve
from macp_rx.cli.sessions import cancel, resume, sessions, suspend
from macp_rx.cli.simulate import simulate
from macp_rx.cli.studio import studio
from macp_rx.cli.terminal import LogLines
from macp_rx.cli.verify import receipt, receipt_keys, verify
from macp_rx.cli.watch import watch

__all__ = ["app", "main"]

app: typer.Typer = typer.Typer(
    name="macp-rx",
    help="Reactive streams for MACP, the Multi-Agent Coordination Protocol.",
    epilog="Exit status: 0 done, 1 failed, 2 used wrongly, 3 refused by the runtime, 4 not reached in time, 130 Ctrl-C.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=Commands,
)

PANELS: Final[Mapping[str, tuple[Callable[..., None], ...]]] = {
    "See it run": (demo, serve, studio, doctor),
    "Sessions": (sessions, watch, send, cancel, suspend, resume),
    "What happened": (record, replay, marble, receipt, receipt_keys, verify),
    "What if": (simulate,),
    "A runtime's registries": (modes,),
}
"""How the help groups them."""

for _panel, _commands in PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
app.add_typer(policies, name="policies", rich_help_panel="A runtime's registries")


def main() -> None:
    """Runs a command."""
    logging.basicConfig(handlers=[LogLines()])
    app()
