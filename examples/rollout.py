"""A release is rolled out, unless security vetoes it; and whoever does not vote in time does not hold it up.

The lead proposes to roll out everywhere at once. Security objects critically, which the lead takes for a veto, and proposes a
canary instead. Security clears that, ops approves it, and product is silent. When the deadline has passed, that is escalated
to the director, who votes too. Two of three voters are a majority, and the lead commits to it.
"""

from collections.abc import Callable

from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, Agent, DecisionSession, MacpClient, Message, Outcome, SessionStart, agents
from macp_rx import operators as mo
from macp_rx.protocol.modes import decision

DEADLINE = 0.5  # seconds; where people vote, it would be hours
VOTERS = ["ops", "product", "director"]
PARTICIPANTS = ["lead", "security", *VOTERS]
START = SessionStart(mode=decision.MODE, intent="roll out 2.4", participants=PARTICIPANTS, ttl_ms=60_000)


def review(plan: Accepted[decision.ProposalPayload]) -> Message:
    """Security wants to be able to stop halfway."""
    if plan.payload.proposal_id == "canary":
        return decision.evaluate("canary", "APPROVE", confidence=0.9)
    return decision.raise_objection(plan.payload.proposal_id, severity="critical", reason="there is no way back")


def replan(objection: Accepted[decision.ObjectionPayload]) -> Message | None:
    """The lead has another plan, in case of a veto."""
    if objection.payload.severity != "critical":
        return None
    return decision.propose("canary", "5 % of the traffic first", rationale=objection.payload.reason)


def approve(cleared: Accepted[decision.EvaluationPayload]) -> Message:
    """Ops is in favour of whatever security has cleared."""
    return decision.vote(cleared.payload.proposal_id, "APPROVE")


def step_in(events: Observable[Accepted]) -> Observable[Message]:
    """The director votes if somebody has not when the deadline has passed."""

    def vote(missing: tuple[str, ...]) -> Message:
        return decision.vote("canary", "APPROVE", reason=f"no vote from {', '.join(missing)}")

    return events.pipe(mo.of_type(decision.VotePayload), mo.missing_after(DEADLINE, ["ops", "product"]), ops.map(vote))


AGENTS: dict[str, Agent] = {  # product has none: nobody is there
    "lead": agents.merge(
        agents.opening(decision.propose("everywhere", "all at once")),
        agents.on(decision.ObjectionPayload).say(replan),
        agents.majority_committer(action="rollout.approved", declined="rollout.declined", electorate=VOTERS),
    ),
    "security": agents.on(decision.ProposalPayload).say(review),
    "ops": agents.on(decision.EvaluationPayload).say(approve),
    "director": step_in,
}


def coordinate(client: MacpClient, hear: Callable[[Accepted], None]) -> Outcome:
    """Opens the session, lets everybody take part, and waits for how it ends."""
    session = DecisionSession.open(client, START)
    session.events.subscribe(hear)
    return agents.run(session, AGENTS)


def main() -> None:
    with MacpClient.embedded(agent="lead") as client:
        outcome = coordinate(client, print)
    print(f"{outcome.state}: {outcome.reason}")


if __name__ == "__main__":
    main()
