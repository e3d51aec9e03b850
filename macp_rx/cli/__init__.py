"""The command line: ``macp-rx``."""

from __future__ import annotations

import typer

from macp_rx.cli.demo import demo
from macp_rx.cli.serve import serve
from macp_rx.errors import MacpError

__all__ = ["app", "main"]

app: typer.Typer = typer.Typer(
    name="macp-rx",
    help="Reactive streams for MACP, the Multi-Agent Coordination Protocol.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(serve)


def main() -> None:
    """Runs a command; what goes wrong in it is one line and an exit status, not a traceback."""
    try:
        app()
    except (MacpError, OSError) as error:
        typer.secho(f"macp-rx: {error}", fg=typer.colors.RED, err=True)
        raise SystemExit(1) from None
