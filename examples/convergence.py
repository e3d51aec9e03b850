"""Three estimate how long a job takes, and go on until all say the same.

First everybody says a number of days. Then, round after round, whoever is furthest from the middle comes a day nearer to it.
Whose turn it is follows from what was said, so all see it alike, and nobody needs to chair. When the three numbers are equal
the runtime takes no more of them, and Ana, who has asked, commits to the number.
"""

from collections.abc import Callable
from statistics import median_low

from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, Agent, MacpClient, Message, MultiRoundSession, Outcome, SessionStart, agents
from macp_rx import operators as mo
from macp_rx.protocol.commitment import commit
from macp_rx.protocol.modes import multi_round

FIRST = {"ana": 3, "ben": 8, "cleo": 5}
START = SessionStart(mode=multi_round.MODE, intent="how many days?", participants=list(FIRST), ttl_ms=60_000)


def distances(state: multi_round.State) -> dict[str, int]:
    """How many days everybody is away from the middle."""
    days = {name: int(said) for name, said in state.contributions.items()}
    return {name: median_low(days.values()) - days[name] for name in days}


def turn(state: multi_round.State) -> str | None:
    """Who speaks next: everybody once, then whoever is furthest from the middle; nobody, when all are equal."""
    silent = [name for name in FIRST if name not in state.contributions]
    if silent:
        return silent[0]
    away = distances(state)
    return None if state.converged else max(FIRST, key=lambda name: abs(away[name]))


def estimator(me: str) -> Agent:
    """An agent that says a number when it is its turn: its own first, then one nearer to the middle."""

    def is_mine(state: multi_round.State) -> bool:
        return turn(state) == me

    def estimate(state: multi_round.State) -> Message:
        if me not in state.contributions:
            return multi_round.contribute(str(FIRST[me]))
        step = 1 if distances(state)[me] > 0 else -1
        return multi_round.contribute(str(int(state.contributions[me]) + step))

    return lambda events: events.pipe(mo.states(multi_round), ops.filter(is_mine), ops.map(estimate))


def conclude(events: Observable[Accepted]) -> Observable[Message]:
    """Ana commits to what all say."""

    def is_settled(state: multi_round.State) -> bool:
        return state.converged

    def result(state: multi_round.State) -> Message:
        days = state.contributions["ana"]
        return commit(
            action="estimate.accepted", authority_scope="plan", reason=f"{days} days, in {state.round} rounds"
        )

    return events.pipe(mo.states(multi_round), ops.filter(is_settled), ops.take(1), ops.map(result))


AGENTS: dict[str, Agent] = {
    "ana": agents.merge(estimator("ana"), conclude),
    "ben": estimator("ben"),
    "cleo": estimator("cleo"),
}


def coordinate(client: MacpClient, hear: Callable[[Accepted], None]) -> Outcome:
    """Opens the session, lets everybody take part, and waits for how it ends."""
    session = MultiRoundSession.open(client, START)
    session.events.subscribe(hear)
    return agents.run(session, AGENTS)


def main() -> None:
    with MacpClient.embedded(agent="ana") as client:
        outcome = coordinate(client, print)
    print(f"{outcome.state}: {outcome.reason}")


if __name__ == "__main__":
    main()
