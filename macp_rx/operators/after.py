"""after: only what was accepted behind a sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message as Protobuf
from reactivex import Observable

from macp_rx.operators.lift import only
from macp_rx.protocol.messages import Accepted

__all__ = ["after"]

P = TypeVar("P", bound=Protobuf)


def after(sequence: int) -> Callable[[Observable[Accepted[P]]], Observable[Accepted[P]]]:
    """Passes on what was accepted behind this position of a session's history.

    The history is still read from its start: where nobody needs it, ``client.session_events(id, after_sequence=)`` saves that.

    Args:
        sequence: the last position that is left out; the SessionStart's is 1.

    Marble:
        accepted  -p-v-w-|
        > mo.after(2)
        behind    -----w-|
    """

    def behind(accepted: Accepted[P]) -> bool:
        return accepted.sequence > sequence

    return lambda source: only(source, behind)
