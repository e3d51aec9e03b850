"""in_session: only what belongs to these sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message as Protobuf
from reactivex import Observable

from macp_rx.operators.lift import only
from macp_rx.operators.roster import roster
from macp_rx.protocol.messages import Accepted

__all__ = ["in_session"]

P = TypeVar("P", bound=Protobuf)


def in_session(*session_ids: str) -> Callable[[Observable[Accepted[P]]], Observable[Accepted[P]]]:
    """Passes on what was accepted in one of these sessions.

    Args:
        session_ids: their ids, exactly.

    Marble:
        accepted  -p-v-|
        > mo.in_session(SESSION_ID)
        of_it     -p-v-|

        accepted  -p-v-|
        > mo.in_session("another")
        of_it     -----|
    """
    wanted = frozenset(roster("session_ids", session_ids))

    def in_them(accepted: Accepted[P]) -> bool:
        return accepted.envelope.session_id in wanted

    return lambda source: only(source, in_them)
