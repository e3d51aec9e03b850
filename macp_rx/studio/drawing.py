"""Draws a transcript that was dropped on the page: a picture for each of its sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from io import BytesIO
from itertools import islice
from typing import Final, cast

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
    why = next((str(event.what.error) for event in timeline.events if isinstance(event.what, Failed)), "")
    sessions = _by_session(event for event in timeline.events if isinstance(event.what, Next))
    if not sessions:
        raise MacpSessionError(why or "there is nothing in this file: a transcript has a line for each message")
    pictures = [_picture(session_id, said) for session_id, said in islice(sessions.items(), PICTURES)]
    return {"pictures": pictures, "more": len(sessions) - len(pictures), "why": why}


def _picture(session_id: str, said: list[Event]) -> dict[str, object]:
    picture = diagrams.svg(Timeline(tuple(said)))
    return {"session": session_id, "mode": _accepted(said[0]).mode, "messages": len(said), "svg": picture.text}


class _Named(BytesIO):
    """What was dropped; its name is not told to the studio."""

    name = "the file"


def _by_session(events: Iterable[Event]) -> Mapping[str, list[Event]]:
    """The events of each session, from its own start on."""
    sessions: dict[str, list[Event]] = {}
    for event in events:
        sessions.setdefault(_accepted(event).session_id, []).append(event)
    return {
        session_id: [replace(event, time=event.time - said[0].time) for event in said]
        for session_id, said in sessions.items()
    }


def _accepted(event: Event) -> Accepted:
    assert isinstance(event.what, Next)
    return cast("Accepted", event.what.value)
