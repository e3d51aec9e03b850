"""payloads: only these payloads, without their envelopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message as Protobuf
from reactivex import Observable, abc

from macp_rx.operators.lift import each
from macp_rx.operators.of_type import of_type
from macp_rx.protocol.messages import Accepted

__all__ = ["payloads"]

P = TypeVar("P", bound=Protobuf)


def payloads(*payloads: type[P]) -> Callable[[Observable[Accepted]], Observable[P]]:
    """Passes on what ``of_type`` does, as the payloads alone: who said it, and when, is lost.

    Args:
        payloads: payload classes of the installed macp-proto, such as ``ProposalPayload``.

    Errors:
        MacpSessionError: a payload does not decode.

    Marble:
        accepted  -p-v-w-C|
        > mo.payloads(VotePayload)
        votes     ---a-b--|
        a: it == VotePayload(proposal_id="p1", vote="APPROVE")
        b: it.vote == "REJECT"
    """

    select = of_type(*payloads)

    def operator(source: Observable[Accepted]) -> Observable[P]:
        def rule(observer: abc.ObserverBase[P]) -> Callable[[Accepted[P]], None]:
            def take(accepted: Accepted[P]) -> None:
                observer.on_next(accepted.payload)

            return take

        return each(select(source), rule)

    return operator
