"""A buyer and a seller haggle over a price, for so many rounds and no more.

The buyer opens low. Each answers the other's offer with one a step nearer, or accepts it if it is good enough. The policy
allows three counter-offers, so the fourth offer is the last: whoever gets it takes it or leaves it. It is just good enough
for the buyer, who accepts it and commits to the deal.
"""

from collections.abc import Callable

from macp.modes.proposal.v1.proposal_pb2 import AcceptPayload, CounterProposalPayload, ProposalPayload, RejectPayload

from macp_rx import Accepted, Agent, MacpClient, Message, Outcome, ProposalSession, SessionStart, agents
from macp_rx.protocol.commitment import commit
from macp_rx.protocol.modes import proposal
from macp_rx.protocol.policy import AcceptanceRules, CounterProposalRules, build_proposal_policy

COUNTER_OFFERS = 3
POLICY = build_proposal_policy(
    "policy.haggling",
    acceptance=AcceptanceRules(criterion="counterparty"),  # who makes an offer need not accept it as well
    counter_proposal=CounterProposalRules(max_rounds=COUNTER_OFFERS),
)
PARTIES = ["buyer", "seller"]
START = SessionStart(
    mode=proposal.MODE, intent="a used lathe", participants=PARTIES, ttl_ms=60_000, policy_version=POLICY.policy_id
)
Offer = ProposalPayload | CounterProposalPayload


def haggler(me: str, prices: dict[int, int], good_enough: Callable[[int], bool]) -> Agent:
    """An agent with a price of its own for each of its offers, by number, and an idea of which of the other's it takes."""

    def answer(offer: Accepted[Offer]) -> Message | None:
        number, price = int(offer.payload.proposal_id), int(offer.payload.title)
        if offer.sender == me:
            return None
        if good_enough(price):
            return proposal.accept(str(number))
        if number > COUNTER_OFFERS:
            return proposal.reject(str(number), terminal=True, reason="it was the last offer")
        return proposal.counter_propose(str(number + 1), str(number), str(prices[number + 1]))

    return agents.on[Offer](ProposalPayload, CounterProposalPayload).say(answer)


def close(answer: Accepted[AcceptPayload | RejectPayload]) -> Message:
    """The buyer commits to what the two have come to."""
    action = "proposal.accepted" if isinstance(answer.payload, AcceptPayload) else "proposal.rejected"
    return commit(
        action=action, authority_scope="deal", reason=f"{answer.sender} on offer {answer.payload.proposal_id}"
    )


AGENTS: dict[str, Agent] = {
    "buyer": agents.merge(
        agents.opening(proposal.propose("1", "80")),
        haggler("buyer", {3: 95}, lambda price: price <= 105),
        agents.on[AcceptPayload | RejectPayload](AcceptPayload, RejectPayload).say(close),
    ),
    "seller": haggler("seller", {2: 120, 4: 105}, lambda price: price >= 100),
}


def coordinate(client: MacpClient, hear: Callable[[Accepted], None]) -> Outcome:
    """Opens the session under its policy, lets both take part, and waits for how it ends."""
    client.register_policy(POLICY)
    session = ProposalSession.open(client, START)
    session.events.subscribe(hear)
    return agents.run(session, AGENTS)


def main() -> None:
    with MacpClient.embedded(agent="buyer") as client:
        outcome = coordinate(client, print)
    print(f"{outcome.state}: {outcome.reason}")


if __name__ == "__main__":
    main()
