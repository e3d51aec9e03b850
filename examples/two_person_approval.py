"""Nobody deletes a customer's data alone: two of three must approve.

The operator asks for approval. Alice approves. Bob knows the customer, so he abstains, which uses up his ballot. Now it is up
to Carol: with her approval two have approved, and the operator commits to that. Had she refused, two could no longer approve,
and the operator would commit to the refusal at once.
"""

import asyncio
from collections.abc import Awaitable, Callable

from macp.modes.quorum.v1.quorum_pb2 import ApprovalRequestPayload
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, Agent, MacpClient, Message, Outcome, QuorumSession, SessionStart, agents
from macp_rx import operators as mo
from macp_rx.protocol.commitment import commit
from macp_rx.protocol.modes import quorum

APPROVERS = ["alice", "bob", "carol"]
START = SessionStart(mode=quorum.MODE, intent="delete customer 4711", participants=APPROVERS, ttl_ms=60_000)


def after(seconds: float, ballot: str) -> Callable[[Accepted[ApprovalRequestPayload]], Awaitable[str]]:
    """How somebody decides who first reads the request for so long."""

    async def decide(_request: Accepted[ApprovalRequestPayload]) -> str:
        await asyncio.sleep(seconds)
        return ballot

    return decide


def conclude(events: Observable[Accepted]) -> Observable[Message]:
    """The operator commits when enough have approved, or no longer can."""

    def is_settled(state: quorum.State) -> bool:
        return state.commitment_ready()

    def result(state: quorum.State) -> Message:
        approved = state.has_quorum()
        return commit(
            action="deletion.approved" if approved else "deletion.rejected",
            authority_scope="customer 4711",
            reason=f"{state.approvals} of the {state.required} approvals that it takes",
        )

    return events.pipe(mo.states(quorum), ops.filter(is_settled), ops.take(1), ops.map(result))


AGENTS: dict[str, Agent] = {
    "operator": agents.merge(
        agents.opening(quorum.request_approval("r1", "delete all data of customer 4711", required_approvals=2)),
        conclude,
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
