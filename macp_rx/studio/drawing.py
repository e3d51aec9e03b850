"""Draws a transcript that was dropped on the page: a picture for each of its sessions."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Final

from macp_rx import diagrams, transcript
from macp_rx.errors import MacpSessionError
from macp_rx.protocol.messages import Accepted
from macp_rx.timeline import Event, Failed, Next, Timeline

__all__ = ["drawn"]

PICTURES: Final = 24
"""So many pictures of one file at the most."""


def drawn(file: bytes) -> dict[str, object]:
    """What a file has in it: its pictures, how many more sessions there are, and what is wrong with it.

    Args:
        file: a transcript, a runtime's log, or a fixture.

    Raises:
        MacpSessionError: there is nothing in it that could be drawn, and why.
    """
    timeline = transcript.timeline(_Named(file))
    failed = [event for event in timeline.events if isinstance(event.what, Failed)]
    said = [event for event in timeline.events if not isinstance(event.what, Failed)]
    why = str(failed[0].what.error) if failed and isinstance(failed[0].what, Failed) else ""
    if not said:
        raise MacpSessionError(why or "there is nothing in this file: a transcript has a line for each message")
    sessions = dict(_by_session(said))
    shown = list(sessions.items())[:PICTURES]
    pictures = [
        {
            "session": session_id,
            "mode": first.mode,
            "messages": len(events),
            "svg": diagrams.svg(Timeline((*events, *failed)) if len(sessions) == 1 else Timeline(tuple(events))).text,
        }
        for session_id, (first, events) in shown
    ]
    return {"pictures": pictures, "more": len(sessions) - len(shown), "why": why}


class _Named(BytesIO):
    """What was dropped; its name is not told to the studio."""

    name = "the file"


def _by_session(events: list[Event]) -> Iterator[tuple[str, tuple[Accepted, list[Event]]]]:
    sessions: dict[str, tuple[Accepted, list[Event]]] = {}
    for event in events:
        assert isinstance(event.what, Next)
        assert isinstance(event.what.value, Accepted)
        accepted: Accepted = event.what.value
        sessions.setdefault(accepted.session_id, (accepted, []))[1].append(event)
    for session_id, (first, said) in sessions.items():
        begun = said[0].time
        yield session_id, (first, [Event(event.time - begun, event.lane, event.what) for event in said])
