"""until_resolved: up to the commitment."""

from __future__ import annotations

from collections.abc import Callable

from reactivex import Observable, abc

from macp_rx.operators.lift import each
from macp_rx.protocol.messages import Accepted

__all__ = ["until_resolved"]


def until_resolved() -> Callable[[Observable[Accepted]], Observable[Accepted]]:
    """Passes everything on up to the Commitment, which resolves the session, and completes with it.

    A session's own stream completes by itself. This is for one that goes on, such as a stream of all sessions behind
    ``in_session``, or one that was recorded.

    Marble:
        accepted  -p-v-C-p-
        > mo.until_resolved()
        until     -p-v-(C |)
    """

    def operator(source: Observable[Accepted]) -> Observable[Accepted]:
        def rule(observer: abc.ObserverBase[Accepted]) -> Callable[[Accepted], None]:
            def take(accepted: Accepted) -> None:
                observer.on_next(accepted)
                if accepted.message_type == "Commitment":
                    observer.on_completed()

            return take

        return each(source, rule)

    return operator
