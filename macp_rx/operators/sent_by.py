"""sent_by: only what these have said."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message as Protobuf
from reactivex import Observable

from macp_rx.operators.lift import only
from macp_rx.operators.roster import roster
from macp_rx.protocol.messages import Accepted

__all__ = ["sent_by"]

P = TypeVar("P", bound=Protobuf)


def sent_by(*senders: str) -> Callable[[Observable[Accepted[P]]], Observable[Accepted[P]]]:
    """Passes on what one of ``senders`` has said.

    Args:
        senders: agents' ids, exactly.

    Marble:
        accepted  -p-v-w-y|
        > mo.sent_by("alice", "carol")
        theirs    ---v---y|
    """
    wanted = frozenset(roster("senders", senders))

    def said_by_them(accepted: Accepted[P]) -> bool:
        return accepted.envelope.sender in wanted

    return lambda source: only(source, said_by_them)
