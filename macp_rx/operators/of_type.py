"""of_type: only what carries one of these payloads."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message as Protobuf
from reactivex import Observable, abc
from typing_extensions import TypeVar

from macp_rx.errors import MacpSessionError
from macp_rx.operators.lift import follow, lift
from macp_rx.protocol.messages import Accepted, payload_type

__all__ = ["of_type"]

P = TypeVar("P", bound=Protobuf)


def of_type(*payloads: type[P]) -> Callable[[Observable[Accepted]], Observable[Accepted[P]]]:
    """Passes on the envelopes that carry one of ``payloads``; sender, sequence and payload type survive.

    The class decides, not its name: a decision's ``ProposalPayload`` is not a proposal mode's.

    Args:
        payloads: payload classes of the installed macp-proto, such as ``VotePayload``.

    Marble:
        accepted  -p-v-w-C|
        > mo.of_type(VotePayload)
        votes     ---v-w--|
    """
    wrong = [cls for cls in payloads if not (isinstance(cls, type) and issubclass(cls, Protobuf))]
    if wrong or not payloads:
        given = repr(wrong[0]) if wrong else "nothing"
        raise MacpSessionError(f"of_type takes payload classes, such as VotePayload, not {given}")

    def operator(source: Observable[Accepted]) -> Observable[Accepted[P]]:
        def subscribe(
            observer: abc.ObserverBase[Accepted[P]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            wanted: dict[tuple[str, str], bool] = {}
            pass_on = observer.on_next

            def on_next(accepted: Accepted) -> None:
                kind = accepted.kind
                passes = wanted.get(kind)
                if passes is None:
                    passes = wanted[kind] = payload_type(*kind) in payloads
                if passes:
                    pass_on(accepted)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # as its class says

            return follow(source, on_next, observer, scheduler)

        return lift(source, subscribe)

    return operator
