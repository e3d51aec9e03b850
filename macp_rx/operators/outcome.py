"""outcome: how a session ended, as far as its history tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from macp.v1.core_pb2 import CommitmentPayload
from reactivex import Observable
from reactivex import operators as ops

from macp_rx.operators.commitment import commitment
from macp_rx.operators.lift import like
from macp_rx.protocol.messages import Accepted
from macp_rx.streams.outcome import Outcome

__all__ = ["outcome"]

UNRESOLVED: Final = Outcome(
    "UNRESOLVED", None, "it ended without a commitment: it was cancelled, or its deadline passed"
)


def outcome() -> Callable[[Observable[Accepted]], Observable[Outcome]]:
    """Emits one Outcome when the session has ended: ``RESOLVED``, or ``UNRESOLVED`` where its history ends without a commitment.

    For what was recorded or simulated. Of a session that was cancelled and of one that expired the history looks the same:
    ``session.outcome`` asks the runtime which it was.

    Marble:
        accepted  -p-v-C-p-
        > mo.outcome()
        outcome   -----(R |)
        R: it.state == "RESOLVED" and it.positive

        accepted  -p-v-|
        > mo.outcome()
        outcome   -----(U |)
        U: it.state == "UNRESOLVED" and it.commitment is None
    """

    def resolved(accepted: Accepted[CommitmentPayload]) -> Outcome:
        return Outcome("RESOLVED", accepted.payload, accepted.payload.reason)

    def operator(source: Observable[Accepted]) -> Observable[Outcome]:
        resolutions = ops.map(resolved)(commitment()(source))
        return like(source, ops.default_if_empty(UNRESOLVED)(resolutions))

    return operator
