"""An incident changes hands at the end of a shift, and silence counts as consent.

Nora offers the incident to Dan, with what he needs to know. Dan reads it and says nothing. The policy gives him half a
second to decline; after that the runtime accepts in his name. Nora waits until nobody has said anything for a little longer
than that, and commits to the handoff: it is Dan's incident now.
"""

from collections.abc import Callable

from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, Agent, HandoffSession, MacpClient, Message, Outcome, SessionStart, agents
from macp_rx import operators as mo
from macp_rx.protocol.modes import handoff
from macp_rx.protocol.policy import AcceptanceRules, build_handoff_policy

TIME_TO_DECLINE = 0.5  # seconds; on call, it would be minutes
POLICY = build_handoff_policy(
    "policy.silence-is-consent",
    acceptance=AcceptanceRules(implicit_accept_timeout_ms=round(1000 * TIME_TO_DECLINE)),
)
SHIFTS = ["nora", "dan"]
START = SessionStart(
    mode=handoff.MODE, intent="shift change", participants=SHIFTS, ttl_ms=60_000, policy_version=POLICY.policy_id
)
NOTES = b"It fills up by 1 GB an hour. The old logs are gone already."


def settle(events: Observable[Accepted]) -> Observable[Message]:
    """Nora takes silence for a yes, as the runtime does."""

    def accepted(_last: Accepted | None) -> Message:
        return handoff.commit(action="handoff.accepted", authority_scope="incident", reason="nobody has declined it")

    return events.pipe(mo.silence(1.5 * TIME_TO_DECLINE), ops.map(accepted), ops.take(1))


def take_back(declined: Accepted[handoff.HandoffDeclinePayload]) -> Message:
    """If Dan had declined, the incident would stay with Nora."""
    return handoff.commit(action="handoff.declined", authority_scope="incident", reason=declined.payload.reason)


def read(_offer: Accepted[handoff.HandoffOfferPayload]) -> None:
    """Dan says neither yes nor no."""


AGENTS: dict[str, Agent] = {
    "nora": agents.merge(
        agents.opening(
            handoff.offer("incident-7", "dan", scope="the disk of db-3"),
            handoff.add_context("incident-7", content_type="text/plain", context=NOTES),
        ),
        agents.on(handoff.HandoffDeclinePayload).say(take_back),
        settle,
    ),
    "dan": agents.handoff_target("dan", read),
}


def coordinate(client: MacpClient, hear: Callable[[Accepted], None]) -> Outcome:
    """Opens the session under its policy, lets both take part, and waits for how it ends."""
    client.register_policy(POLICY)
    session = HandoffSession.open(client, START)
    session.events.subscribe(hear)
    return agents.run(session, AGENTS)


def main() -> None:
    with MacpClient.embedded(agent="nora") as client:
        outcome = coordinate(client, print)
    print(f"{outcome.state}: {outcome.reason}")


if __name__ == "__main__":
    main()
