"""macp-rx marble: a transcript as marbles."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from macp_rx.cli.record import TranscriptFile

__all__ = ["marble"]


def marble(
    file: TranscriptFile,
    session: Annotated[
        str | None, typer.Option("--session", metavar="SESSION", help="Only this one.", show_default=False)
    ] = None,
) -> None:
    """Draws what was recorded as marbles: a lane for each agent, and what the letters on it stand for.

    Example: macp-rx marble incident.jsonl
    """
    from macp_rx import transcript
    from macp_rx.timeline import Failed

    timeline = transcript.timeline(sys.stdin.buffer if str(file) == "-" else file, session)
    typer.echo(str(timeline))
    broken = next((event.what.error for event in timeline.events if isinstance(event.what, Failed)), None)
    if broken is not None:
        raise broken
