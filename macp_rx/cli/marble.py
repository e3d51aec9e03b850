"""macp-rx marble: a transcript as marbles, or as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from macp_rx.cli.record import TranscriptFile
from macp_rx.cli.terminal import console, plain, show
from macp_rx.errors import MacpSessionError

if TYPE_CHECKING:
    from macp_rx.timeline import Timeline

__all__ = ["draw", "marble"]


def marble(
    file: TranscriptFile,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="A picture: .svg, .png, .html or .mmd (Mermaid).", dir_okay=False
        ),
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", metavar="SESSION", help="Only this one.", show_default=False)
    ] = None,
    title: Annotated[str, typer.Option(metavar="TEXT", help="Stands above the picture.", show_default=False)] = "",
) -> None:
    """Draws what was recorded: a lane for each agent, and what stands on it; in the terminal, or as a picture.

    Example: macp-rx marble incident.jsonl -o incident.svg
    """
    from macp_rx import transcript
    from macp_rx.timeline import Failed

    timeline = transcript.timeline(file, session)
    if output is None:
        _print(timeline)
    else:
        draw(timeline, output, title)
    broken = next((event.what.error for event in timeline.events if isinstance(event.what, Failed)), None)
    if broken is not None:
        raise broken


def draw(timeline: Timeline, output: Path, title: str = "") -> None:
    """Writes a picture, of the kind that the file's name ends in.

    Raises:
        MacpSessionError: no such kind.
    """
    from macp_rx import diagrams

    match output.suffix:
        case ".svg" | ".png":
            diagrams.svg(timeline, title=title).save(output)
            return
        case ".html":
            drawn = diagrams.html(timeline, title=title or "Timeline")
        case ".mmd":
            drawn = diagrams.mermaid(timeline)
        case suffix:
            raise MacpSessionError(f"a picture is .svg, .png, .html or .mmd, not {suffix or 'a name without an end'}")
    output.write_text(drawn, encoding="utf-8", newline="\n")


def _print(timeline: Timeline) -> None:
    """The marbles, and of what they stand for the words: the whole envelopes are too wide for a terminal."""
    from macp_rx.timeline import Event, Next, Timeline

    words = [
        Event(
            event.time, event.lane, Next(plain(str(event.what.value))) if isinstance(event.what, Next) else event.what
        )
        for event in timeline.events
    ]
    out = console()
    for line in str(Timeline(tuple(words))).splitlines():
        show(out, Text(line))
