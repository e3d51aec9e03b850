"""A hundred refunds are decided at the same time, each in a session of its own, by three agents in one process.

The desk opens a session for each request and says what it is about. Risk looks at the amount. What risk approves, audit has
to countersign, and the desk commits when both have approved, or one has not. An agent is written for one session; served, it
takes part in each that it may read, with a state of its own in each, and one thread does it all.
"""

from collections import Counter
from collections.abc import Callable

from macp.v1.core_pb2 import SessionStartPayload
from reactivex.disposable import CompositeDisposable

from macp_rx import Accepted, Agent, DecisionSession, MacpClient, Message, Outcome, SessionStart, agents
from macp_rx.protocol.modes import decision

AMOUNTS = [10 * number for number in range(1, 101)]  # in EUR
STARTS = [
    SessionStart(mode=decision.MODE, intent=f"refund {amount}", participants=["desk", "risk", "audit"], ttl_ms=60_000)
    for amount in AMOUNTS
]


def request(start: Accepted[SessionStartPayload]) -> Message:
    """The desk says what is to be refunded."""
    return decision.propose("refund", start.payload.intent.removeprefix("refund "))


def assess(refund: Accepted[decision.ProposalPayload]) -> str:
    """Risk looks at the amount."""
    return "APPROVE" if int(refund.payload.option) <= 700 else "REJECT"


def countersign(vote: Accepted[decision.VotePayload]) -> Message | None:
    """Audit signs what risk has approved."""
    if vote.sender != "risk" or vote.payload.vote != "APPROVE":
        return None
    return decision.vote("refund", "APPROVE", reason="countersigned")


AGENTS: dict[str, Agent] = {
    "desk": agents.merge(
        agents.on(SessionStartPayload).say(request),
        agents.majority_committer(action="refund.approved", declined="refund.declined", electorate=["risk", "audit"]),
    ),
    "risk": agents.voter(assess),
    "audit": agents.on(decision.VotePayload).say(countersign),
}


def coordinate(client: MacpClient, hear: Callable[[Accepted], None]) -> list[Outcome]:
    """Serves everybody, opens all sessions, and waits for how each ends."""
    served = [agents.serve(client.acting_as(name), agent, mode=decision.MODE) for name, agent in AGENTS.items()]
    with CompositeDisposable(*served):
        sessions = [DecisionSession.open(client, start) for start in STARTS]
        for session in sessions:
            session.events.subscribe(hear)
        return [session.outcome.run() for session in sessions]


def main() -> None:
    heard: list[Accepted] = []
    with MacpClient.embedded(agent="desk") as client:
        outcomes = coordinate(client, heard.append)
    print("One of them:")
    print(*(accepted for accepted in heard if accepted.session_id == heard[0].session_id), sep="\n")
    print(f"{len(heard)} messages were accepted in {len(outcomes)} sessions.")
    for (state, positive), count in Counter((outcome.state, outcome.positive) for outcome in outcomes).items():
        print(f"{state}: {count} {'approved' if positive else 'declined'}")


if __name__ == "__main__":
    main()
