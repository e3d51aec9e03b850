from __future__ import annotations

from dataclasses import dataclass

from macp_rx import operators as mo
from macp_rx.protocol.modes import decision
from macp_rx.testing import Marbles, Where
from tests.operators.voices import LEGEND


@dataclass(frozen=True)
class State:
    phase: str
    number: int


PHASES = {
    "n": State("Negotiating", 1),
    "m": State("Negotiating", 2),
    "c": State("Converged", 3),
    "d": State("Converged", 4),
    "t": State("TerminalRejected", 5),
}


def test_the_state_with_which_it_is_entered(marbles: Marbles) -> None:
    source = marbles.hot("-n-m-c-d-t-|", PHASES)
    marbles.expect(source.pipe(mo.on_phase("Converged"))).to_be("-----c-----|", PHASES)
    marbles.expect(source.pipe(mo.on_phase("Converged", "TerminalRejected"))).to_be("-----c---t-|", PHASES)
    marbles.expect_subscriptions(source).to_be("^----------!", "^----------!")


def test_one_that_is_entered_again(marbles: Marbles) -> None:
    source = marbles.hot("-c-n-d-|", PHASES)
    marbles.expect(source.pipe(mo.on_phase("Converged"))).to_be("-c---d-|", PHASES)


def test_any(marbles: Marbles) -> None:
    source = marbles.hot("-n-m-c-d-t-|", PHASES)
    marbles.expect(source.pipe(mo.on_phase())).to_be("-n---c---t-|", PHASES)


def test_a_phase_or_its_name(marbles: Marbles) -> None:
    source = marbles.hot("-S-p-v-w-|", LEGEND)
    states = source.pipe(mo.states(decision))
    voting = Where(lambda state: state.phase is decision.Phase.VOTING)
    for phase in (decision.Phase.VOTING, "Voting"):
        marbles.expect(states.pipe(mo.on_phase(phase), mo.on_phase())).to_be("-----V---|", {"V": voting})
