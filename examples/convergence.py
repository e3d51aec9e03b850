"""Three estimate how long a job takes, and go on until all say the same.

First everybody says a number of days. Then, round after round, whoever is furthest from the middle comes a day nearer to it.
Whose turn it is follows from what was said, so all see it alike, and nobody needs to chair. When the three numbers are equal
the runtime takes no more of them, and Ana, who has asked, commits to the number.
"""

from collections.abc import Callable
from statistics import median_low

from macp_rx import Accepted, Agent, MacpClient, Message, MultiRoundSession, Outcome, SessionStart, agents
from macp_rx.protocol.modes import multi_round

FIRST = {"ana": 3, "ben": 8, "cleo": 5}
START = SessionStart(mode=multi_round.MODE, intent="how many days?", participants=list(FIRST), ttl_ms=60_000)


def next_word(state: multi_round.State) -> tuple[str, int] | None:
    """Who speaks next, and says which number: everybody its first, then whoever is furthest from the middle one nearer to it."""
    for name, days in FIRST.items():
        if name not in state.contributions:
            return name, days
    said = {name: int(days) for name, days in state.contributions.items()}
    middle = median_low(said.values())
    furthest = max(FIRST, key=lambda name: abs(said[name] - middle))
    return None if state.converged else (furthest, said[furthest] + (1 if said[furthest] < middle else -1))


def estimator(me: str) -> Agent:
    """An agent that speaks when it is its turn."""

    def speak(state: multi_round.State) -> Message | None:
        word = next_word(state)
        return multi_round.contribute(str(word[1])) if word is not None and word[0] == me else None

    return agents.on_state(multi_round).say(speak)


def conclude(state: multi_round.State) -> Message | None:
    """Ana commits to what all say."""
    if not state.converged:
        return None
    reason = f"all say {state.contributions['ana']} days, after {state.round} rounds"
    return multi_round.commit(action="estimate.accepted", authority_scope="plan", reason=reason)


AGENTS: dict[str, Agent] = {
    "ana": agents.merge(estimator("ana"), agents.on_state(multi_round).say(conclude)),
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
