"""of_type: only what carries one of these payloads."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message as Protobuf
from reactivex import Observable, abc
from typing_extensions import TypeVar

from macp_rx.operators.lift import each
from macp_rx.protocol.messages import Accepted, payload_type

__all__ = ["of_type"]

P = TypeVar("P", bound=Protobuf)


def of_type(*payloads: type[P]) -> Callable[[Observable[Accepted]], Observable[Accepted[P]]]:
    """Passes on the envelopes that carry one of ``payloads``; sender, sequence and payload type survive.

    The class decides, not its name: a decision's ``ProposalPayload`` is not a proposal mode's.

    Args:
        payloads: payload classes of the installed macp-proto, such as ``VotePayload``.
    """

    def operator(source: Observable[Accepted]) -> Observable[Accepted[P]]:
        def rule(observer: abc.ObserverBase[Accepted[P]]) -> Callable[[Accepted], None]:
            wanted: dict[tuple[str, str], bool] = {}

            def take(accepted: Accepted) -> None:
                envelope = accepted.envelope
                kind = (envelope.mode, envelope.message_type)
                passes = wanted.get(kind)
                if passes is None:
                    passes = wanted[kind] = payload_type(*kind) in payloads
                if passes:
                    observer.on_next(accepted)  # type: ignore[arg-type]  # narrowed by its payload class

            return take

        return each(source, rule)

    return operator
