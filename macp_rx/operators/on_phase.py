"""on_phase: when a session enters a phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from reactivex import Observable, abc

from macp_rx.operators.lift import each

__all__ = ["Phased", "on_phase"]


class Phased(Protocol):
    """A state that has a phase, as that of every mode does."""

    @property
    def phase(self) -> str:
        """How far it has come."""
        ...


S = TypeVar("S", bound=Phased)


def on_phase(*phases: str) -> Callable[[Observable[S]], Observable[S]]:
    """Passes on the state with which a session enters one of these phases; without an argument, any phase.

    A phase that is left and entered again, as in a negotiation, counts again.

    Args:
        phases: members of the mode's ``Phase``, such as ``decision.Phase.VOTING``, or their names, such as ``"Voting"``.

    Marble:
        accepted  -S-p-v-w-C|
        > rx.compose(mo.states(decision), mo.on_phase("Voting", "Committed"))
        entered   -----v---c|
        v: it.phase is decision.Phase.VOTING and it.vote_totals == {"p1": 1}
        c: it.is_committed
    """
    wanted = frozenset(phases)

    def operator(source: Observable[S]) -> Observable[S]:
        def rule(observer: abc.ObserverBase[S]) -> Callable[[S], None]:
            current: str | None = None

            def take(state: S) -> None:
                nonlocal current
                before, current = current, state.phase
                if current != before and (not wanted or current in wanted):
                    observer.on_next(state)

            return take

        return each(source, rule)

    return operator
