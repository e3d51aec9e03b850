"""macp-rx marble: a transcript as marbles."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.text import Text

from macp_rx.cli.record import TranscriptFile
from macp_rx.cli.terminal import console, plain, show

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
    from macp_rx.timeline import Event, Failed, Next, Timeline

    timeline = transcript.timeline(sys.stdin.buffer if str(file) == "-" else file, session)
    words = [
        Event(
            event.time, event.lane, Next(plain(str(event.what.value))) if isinstance(event.what, Next) else event.what
        )
        for event in timeline.events
    ]
    out = console()
    for line in str(Timeline(tuple(words))).splitlines():
        show(out, Text(line))
    broken = next((event.what.error for event in timeline.events if isinstance(event.what, Failed)), None)
    if broken is not None:
        raise broken
