"""dedupe: each accepted envelope once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message as Protobuf
from reactivex import Observable, abc

from macp_rx.operators.lift import each
from macp_rx.protocol.messages import Accepted

__all__ = ["dedupe"]

P = TypeVar("P", bound=Protobuf)


def dedupe() -> Callable[[Observable[Accepted[P]]], Observable[Accepted[P]]]:
    """Passes on each accepted envelope once, whoever delivers it again: two streams of one session merged, a replay.

    Which one it is, its session and its sequence say. A session's streams never repeat an envelope themselves. RxPY's
    ``distinct`` looks through all that ever came, for each item; this keeps ranges, one for a whole history.

    Marble:
        accepted  -p-v-w-|
        > rx.compose(ops.flat_map(lambda it: rx.of(it, it)), mo.dedupe())
        once      -p-v-w-|
    """

    def operator(source: Observable[Accepted[P]]) -> Observable[Accepted[P]]:
        def rule(observer: abc.ObserverBase[Accepted[P]]) -> Callable[[Accepted[P]], None]:
            sessions: dict[str, _Seen] = {}

            def take(accepted: Accepted[P]) -> None:
                session_id = accepted.session_id
                seen = sessions.get(session_id)
                if seen is None:
                    seen = sessions[session_id] = _Seen()
                if seen.add(accepted.sequence):
                    observer.on_next(accepted)

            return take

        return each(source, rule)

    return operator


class _Seen:
    """Sequences that have come, as ranges in ascending order: two lists, of their first and of their last members."""

    __slots__ = ("_first", "_last")

    def __init__(self) -> None:
        self._first: list[int] = []
        self._last: list[int] = []

    def add(self, sequence: int) -> bool:
        """Whether it is new."""
        first, last = self._first, self._last
        at = bisect_right(first, sequence)  # the range before this place begins no later
        if at and sequence <= last[at - 1]:
            return False
        follows = at > 0 and last[at - 1] == sequence - 1
        precedes = at < len(first) and first[at] == sequence + 1
        if follows and precedes:
            last[at - 1] = last.pop(at)
            first.pop(at)
        elif follows:
            last[at - 1] = sequence
        elif precedes:
            first[at] = sequence
        else:
            first.insert(at, sequence)
            last.insert(at, sequence)
        return True
