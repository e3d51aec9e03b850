"""Nobody deletes a customer's data alone: two of three must approve.

The operator asks for approval. Alice approves. Bob knows the customer, so he abstains, which uses up his ballot. Now it is up
to Carol: with her approval two have approved, and the operator commits to that. Had she refused, two could no longer approve,
and the operator would commit to the refusal at once.
"""

import asyncio
from collections.abc import Awaitable, Callable

from macp_rx import Accepted, Agent, MacpClient, Message, Outcome, QuorumSession, SessionStart, agents
from macp_rx.protocol.modes import quorum

APPROVERS = ["alice", "bob", "carol"]
START = SessionStart(mode=quorum.MODE, intent="delete customer 4711", participants=APPROVERS, ttl_ms=60_000)


def after(seconds: float, ballot: str) -> Callable[[Accepted[quorum.ApprovalRequestPayload]], Awaitable[str]]:
    """How somebody decides who first reads the request for so long."""

    async def decide(_request: Accepted[quorum.ApprovalRequestPayload]) -> str:
        await asyncio.sleep(seconds)
        return ballot

    return decide


def conclude(state: quorum.State) -> Message | None:
    """The operator commits when enough have approved, or no longer can."""
    if not state.commitment_ready:
        return None
    return quorum.commit(
        action="deletion.approved" if state.has_quorum else "deletion.rejected",
        authority_scope="customer 4711",
        reason=f"{state.approval_count} of {len(APPROVERS)} approve",
    )


AGENTS: dict[str, Agent] = {
    "operator": agents.merge(
        agents.opening(quorum.request_approval("r1", "delete all data of customer 4711", required_approvals=2)),
        agents.on_state(quorum).say(conclude),
    ),
    "alice": agents.approver(after(0.1, "APPROVE"), reason="the customer has asked for it"),
    "bob": agents.approver(after(0.2, "ABSTAIN"), reason="the customer is a friend"),
    "carol": agents.approver(after(0.3, "APPROVE"), reason="no invoice is open"),
}


def coordinate(client: MacpClient, hear: Callable[[Accepted], None]) -> Outcome:
    """Opens the session, lets everybody take part, and waits for how it ends."""
    session = QuorumSession.open(client, START)
    session.events.subscribe(hear)
    return agents.run(session, AGENTS)


def main() -> None:
    with MacpClient.embedded(agent="operator") as client:
        outcome = coordinate(client, print)
    print(f"{outcome.state}: {outcome.reason}")


if __name__ == "__main__":
    main()
