"""macp-rx record and replay: sessions as a file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from macp_rx.cli.connection import connected
from macp_rx.cli.terminal import console
from macp_rx.cli.watch import All, Mode, SessionId, Wait, events_of, printed
from macp_rx.client import MacpClient
from macp_rx.errors import MacpTranscriptError

if TYPE_CHECKING:
    from macp_rx.transcript import Recording

__all__ = ["TranscriptFile", "record", "replay"]

TranscriptFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="A transcript, a runtime's log.jsonl, or a conformance fixture.",
        exists=True,
        dir_okay=False,
    ),
]


@connected()
def record(
    client: MacpClient,
    session: SessionId = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to; it must not exist yet.", dir_okay=False)
    ] = Path("transcript.jsonl"),
    append: Annotated[bool, typer.Option("--append", help="Write behind what is in the file.")] = False,
    all_sessions: All = False,
    mode: Mode = "",
    wait: Wait = 0,
) -> None:
    """Writes down what a session accepts until it ends; each line is in the file before the next envelope is heard.

    With --all it ends with Ctrl-C.

    Example: macp-rx record 2f1c7f4e-9b0d-4c53-8f0e-1d2c3b4a5968 -o incident.jsonl --agent chair
    """
    from macp_rx import transcript

    events = events_of(client, session, all_sessions=all_sessions, mode=mode, wait=wait)
    try:
        file = output.open("ab" if append else "xb")
    except FileExistsError:
        raise MacpTranscriptError(str(output), None, "exists already: name another, or --append") from None
    err = console(err=True)
    with file, transcript.record(client, events, file) as recording:
        try:
            with err.status(_Count(recording)):
                recording.end.run()
        except Exception:
            if not append and not recording.count:  # an empty file is no transcript
                output.unlink()
            raise
        finally:
            recording.dispose()
            err.print(f"{recording.count} envelopes in {output}", style="dim", soft_wrap=True)


class _Count:
    """How many there are by now, for a line that is drawn again and again."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def __rich__(self) -> Text:
        return Text(f"recording: {self._recording.count} envelopes")


def replay(
    file: TranscriptFile,
    speed: Annotated[
        float, typer.Option(help="How many times as fast as it happened; inf is at once.", min=0.000001)
    ] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="A line of a transcript for each.")] = False,
) -> None:
    """Shows what was recorded as `watch` did, with the time between envelopes as it was.

    It reads from a pipe as /dev/stdin.

    Example: macp-rx replay incident.jsonl --speed 10
    """
    from macp_rx import transcript
    from macp_rx.transport.loop import LoopLease

    lease = LoopLease()
    try:
        events = transcript.replay(file, speed=speed, clock=lease.clock)
        printed(events, as_json=as_json, now_ms=lambda: lease.clock.now_ms)
    finally:
        lease.release()
