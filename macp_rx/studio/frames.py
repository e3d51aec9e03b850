"""Server-sent events as text (HTML Standard, 9.2)."""

from __future__ import annotations

import json

__all__ = ["frame"]


def frame(event: str, data: object, id: int | None = None) -> str:
    """One event.

    Args:
        event: its name.
        data: told as JSON, which has no line breaks.
        id: where a reader that comes back goes on.
    """
    place = "" if id is None else f"id: {id}\n"
    return f"event: {event}\n{place}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
