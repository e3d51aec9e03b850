"""A panel of slow models judges a text; each has its own patience, and none can hold up the others.

The editor proposes to publish. Each judge asks a model and votes as that says, with a timeout and a vote to fall back on.
One judge is a plain rule and answers at once. One model breaks, which counts as a no; one never answers, which counts as no
opinion. The last is slow, but worth waiting for: with its vote three of five approve, and the editor commits to that.
"""

import asyncio
import logging
import sys
from collections.abc import Callable

from macp_rx import Accepted, Agent, DecisionSession, MacpClient, Outcome, SessionStart, agents
from macp_rx.protocol.modes import decision

JUDGES = ["rule", "small", "broken", "hanging", "large"]
START = SessionStart(mode=decision.MODE, intent="publish?", participants=["editor", *JUDGES], ttl_ms=60_000)
TEXT = "Agents say what they want; a runtime decides what was said."


def rule(text: Accepted[decision.ProposalPayload]) -> str:
    """A judge that is no model: it likes short texts."""
    return "APPROVE" if len(text.payload.option) < 100 else "REJECT"


async def small_model(_text: Accepted[decision.ProposalPayload]) -> str:
    """Stands for a call of a model, as the next three do."""
    await asyncio.sleep(0.1)
    return "APPROVE"


async def broken_model(_text: Accepted[decision.ProposalPayload]) -> str:
    await asyncio.sleep(0.2)
    raise ConnectionError("the model is overloaded")


async def hanging_model(_text: Accepted[decision.ProposalPayload]) -> str:
    await asyncio.sleep(3600)
    return "REJECT"


async def large_model(_text: Accepted[decision.ProposalPayload]) -> str:
    await asyncio.sleep(0.5)
    return "APPROVE"


AGENTS: dict[str, Agent] = {
    "editor": agents.merge(
        agents.opening(decision.propose("text", TEXT)),
        agents.majority_committer(action="text.approved", declined="text.rejected", electorate=JUDGES),
    ),
    "rule": agents.voter(rule),
    "small": agents.voter(small_model, timeout=0.3, fallback="ABSTAIN"),
    "broken": agents.voter(broken_model, timeout=0.3, fallback="REJECT"),
    "hanging": agents.voter(hanging_model, timeout=0.35, fallback="ABSTAIN"),
    "large": agents.voter(large_model, timeout=2.0, fallback="ABSTAIN"),
}


def coordinate(client: MacpClient, hear: Callable[[Accepted], None]) -> Outcome:
    """Opens the session, lets everybody take part, and waits for how it ends."""
    session = DecisionSession.open(client, START)
    session.events.subscribe(hear)
    return agents.run(session, AGENTS)


def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="  (%(message)s)")  # why a judge falls back
    with MacpClient.embedded(agent="editor") as client:
        outcome = coordinate(client, print)
    print(f"{outcome.state}: {outcome.reason}")


if __name__ == "__main__":
    main()
