"""in_mode: only what belongs to sessions of these modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message as Protobuf
from reactivex import Observable

from macp_rx.operators.lift import only
from macp_rx.operators.roster import roster
from macp_rx.protocol.messages import Accepted

__all__ = ["in_mode"]

P = TypeVar("P", bound=Protobuf)


def in_mode(*modes: str) -> Callable[[Observable[Accepted[P]]], Observable[Accepted[P]]]:
    """Passes on what was accepted in sessions of one of these modes.

    Args:
        modes: mode identifiers, such as ``decision.MODE``.

    Marble:
        accepted  -p-v-|
        > mo.in_mode(decision.MODE)
        of_it     -p-v-|

        accepted  -p-v-|
        > mo.in_mode("macp.mode.task.v1")
        of_it     -----|
    """
    wanted = frozenset(roster("modes", modes))

    def in_them(accepted: Accepted[P]) -> bool:
        return accepted.kind[0] in wanted

    return lambda source: only(source, in_them)
