"""commitment: what a session was committed to."""

from __future__ import annotations

from collections.abc import Callable

from macp.v1.core_pb2 import CommitmentPayload
from reactivex import Observable
from reactivex import operators as ops

from macp_rx.operators.lift import like
from macp_rx.operators.of_type import of_type
from macp_rx.protocol.messages import Accepted

__all__ = ["commitment"]


def commitment() -> Callable[[Observable[Accepted]], Observable[Accepted[CommitmentPayload]]]:
    """Emits the session's Commitment, with who made it, and completes; a session that ends without one only completes.

    Marble:
        accepted    -p-v-C-p-
        > mo.commitment()
        commitment  -----(C |)
    """

    def operator(source: Observable[Accepted]) -> Observable[Accepted[CommitmentPayload]]:
        return like(source, ops.take(1)(of_type(CommitmentPayload)(source)))

    return operator
