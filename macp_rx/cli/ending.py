"""How a command ends: an exit status by kind of failure, and one line that says what went wrong."""

from __future__ import annotations

import os
import sys
from enum import IntEnum
from typing import Any, Final

import typer
from typer.core import TyperGroup

from macp_rx.cli.terminal import plain
from macp_rx.errors import (
    MacpError,
    MacpIdentityMismatchError,
    MacpRefusedError,
    MacpSessionError,
    MacpTransportError,
)

__all__ = ["Commands", "End", "end_of"]


class End(IntEnum):
    """The exit statuses of every command."""

    OK = 0
    """It did what it was asked; also where nobody reads its output any more."""
    FAILED = 1
    """It did not come out as it should: not resolved, not genuine, a check that failed; or a file cannot be read or written."""
    USAGE = 2
    """What it was asked is wrong: an option, an argument, the content of a file."""
    REFUSED = 3
    """The runtime said no: its error code stands in the message."""
    UNREACHABLE = 4
    """The runtime was not reached, or did not answer in time."""
    INTERRUPTED = 130
    """Ctrl-C."""


CURES: Final = {
    "UNAUTHENTICATED": "say who you are: --agent NAME to a development runtime, --token (MACP_TOKEN) to any other",
    "UNAVAILABLE": "is a runtime there? `macp-rx serve` starts one; a plaintext port needs --insecure, a TLS port --secure",
}
"""Code of the registry, or gRPC status -> what helps."""


def end_of(error: BaseException) -> End:
    """The exit status of a command that this error ended."""
    match error:
        case KeyboardInterrupt():
            return End.INTERRUPTED
        case MacpSessionError():
            return End.USAGE
        case MacpRefusedError() | MacpIdentityMismatchError():
            return End.REFUSED
        case MacpTransportError(code="", status=status) if status not in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return End.UNREACHABLE
        case MacpTransportError():
            return End.REFUSED
        case _:
            return End.FAILED


def cure_of(error: BaseException) -> str:
    """What helps against an error; blank where nothing is known to."""
    known = (getattr(error, "code", ""), getattr(error, "status", ""))
    return next((CURES[name] for name in known if name in CURES), "")


class Commands(TyperGroup):
    """The commands. What goes wrong in one of them is a line and an exit status, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        try:
            result = super().invoke(ctx)
            _flush()
        except BrokenPipeError:  # such as head, which has seen enough
            _forget_output()
            raise typer.Exit(End.OK) from None
        except KeyboardInterrupt:
            raise typer.Exit(End.INTERRUPTED) from None
        except (MacpError, OSError, ImportError) as error:
            _tell(error)
            raise typer.Exit(end_of(error)) from None
        return result


def _flush() -> None:
    if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]  # it is, where it was closed: >&-
        sys.stdout.flush()


def _forget_output() -> None:
    """Python flushes once more at its end, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(error: Exception) -> None:
    cure = cure_of(error)
    typer.secho(f"macp-rx: {plain(str(error))}", fg=typer.colors.RED, err=True)
    if cure:
        typer.echo(f"  {cure}", err=True)
