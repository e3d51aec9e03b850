"""A buyer and a seller haggle over a price, for so many rounds and no more.

The buyer opens low. Each answers the other's offer with one a step nearer, or accepts it if it is good enough. The policy
allows three counter-offers, so the fourth offer is the last: whoever gets it takes it or leaves it. It is just good enough
for the buyer, who accepts it and commits to the deal.
"""

from collections.abc import Callable

from macp_rx import Accepted, Agent, MacpClient, Message, Outcome, ProposalSession, SessionStart, agents
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
    mode=proposal.MODE, intent="a lathe", participants=PARTIES, ttl_ms=60_000, policy_version=POLICY.policy_id
)


def haggler(me: str, prices: dict[int, int], good_enough: Callable[[int], bool]) -> Agent:
    """An agent with a price for each of its offers, by number, and an idea of which of the other's it takes."""

    def answer(state: proposal.State) -> Message | None:
        offer = state.latest_proposal
        if offer is None or offer.proposer == me or state.phase is not proposal.Phase.NEGOTIATING:
            return None
        number, price = int(offer.payload.proposal_id), int(offer.payload.title)
        if good_enough(price):
            return proposal.accept(str(number))
        if number > COUNTER_OFFERS:
            return proposal.reject(str(number), terminal=True, reason="it was the last offer")
        return proposal.counter_propose(str(number + 1), str(number), str(prices[number + 1]))

    return agents.on_state(proposal, policy=POLICY).say(answer)


def conclude(state: proposal.State) -> Message | None:
    """The buyer commits to what the two have come to."""
    if state.has_terminal_rejection:
        return proposal.commit(action="deal.rejected", authority_scope="lathe", reason="no price suits both")
    if state.accepted_proposal is None:
        return None
    return proposal.commit(action="deal.accepted", authority_scope="lathe", reason=f"offer {state.accepted_proposal}")


AGENTS: dict[str, Agent] = {
    "buyer": agents.merge(
        agents.opening(proposal.propose("1", "80")),
        haggler("buyer", {3: 95}, lambda price: price <= 105),
        agents.on_state(proposal, policy=POLICY).say(conclude),
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
