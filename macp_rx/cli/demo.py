"""macp-rx demo: a coordinator and three agents decide by majority."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Final

import reactivex as rx
import typer
from macp.modes.decision.v1.decision_pb2 import ProposalPayload, VotePayload
from macp.v1.core_pb2 import CommitmentPayload, SessionStartPayload
from macp.v1.envelope_pb2 import SessionState
from reactivex import Observable
from reactivex import operators as ops
from rich.console import Console
from rich.text import Text

from macp_rx import agents
from macp_rx import operators as mo
from macp_rx.cli.connection import Secure, Target, connect
from macp_rx.protocol.messages import Accepted, Message
from macp_rx.session import Agent, DecisionSession

__all__ = ["demo"]

VOTES: Final[Mapping[str, tuple[str, float]]] = {
    "alice": ("APPROVE", 0.5),
    "bob": ("REJECT", 1.0),
    "carol": ("APPROVE", 1.5),
}
"""Who votes what, and how many seconds after the proposal."""

STYLES: Final = {"APPROVE": "green", "REJECT": "red", "ABSTAIN": "yellow"}


def demo(
    target: Target = None,
    secure: Secure = None,
    pace: Annotated[float, typer.Option(help="How long the agents think: 1 is natural, 0 not at all.", min=0)] = 1.0,
) -> None:
    """A coordinator and three agents decide by majority, live.

    Example: macp-rx demo --target 127.0.0.1:50051
    """
    console = Console(highlight=False)
    with connect(target, "chair", secure) as client:
        session = DecisionSession(client)
        console.print(f"[bold]decision[/] {session.session_id} on [cyan]{client.target}[/]")
        session.start(intent="pick a rollout", participants=["chair", *VOTES], ttl_ms=60_000)
        session.join(chair)
        for name, (vote, seconds) in VOTES.items():
            session.acting_as(name).join(_thinking(agents.voter(_always(vote)), seconds * pace))
        session.propose("p1", "canary", rationale="ten percent of traffic for an hour")
        for line in session.events.pipe(ops.publish(lines)):
            console.print(line)
        state = session.metadata().state
    name = SessionState.Name(state).removeprefix("SESSION_STATE_")
    resolved = state == SessionState.SESSION_STATE_RESOLVED
    console.print(f"[bold {'green' if resolved else 'red'}]{name}[/]")
    raise typer.Exit(0 if resolved else 1)


def chair(events: Observable[Accepted]) -> Observable[Message]:
    """Commits as soon as a majority of the three is certain."""
    return events.pipe(
        mo.of_type(VotePayload),
        mo.majority(electorate=list(VOTES)),
        mo.within(30, otherwise=mo.UNDECIDED),
        ops.take(1),
        mo.commit_if_decided(action="rollout.approved", declined="rollout.declined"),
    )


def lines(events: Observable[Accepted]) -> Observable[Text]:
    """What the terminal shows: each envelope as it comes, and behind a vote the tally and the verdict."""
    votes = events.pipe(mo.of_type(VotePayload))
    return rx.merge(
        events.pipe(ops.map(_said)),
        votes.pipe(mo.tally(), ops.map(_counted)),
        votes.pipe(mo.majority(electorate=list(VOTES)), ops.map(_decided)),
    )


def _always(vote: str) -> Callable[[Accepted[ProposalPayload]], str]:
    def decide(_proposal: Accepted[ProposalPayload]) -> str:
        return vote

    return decide


def _thinking(agent: Agent, seconds: float) -> Agent:
    def slow(events: Observable[Accepted]) -> Observable[Message]:
        return agent(events).pipe(ops.delay(seconds))

    return slow


def _said(accepted: Accepted) -> Text:
    payload = accepted.payload
    line = Text.assemble((f"{accepted.sequence:>3} ", "dim"), (f"{accepted.sender:<6}", "cyan"), " ")
    match payload:
        case SessionStartPayload():
            line.append(f"opens the session: {payload.intent}")
        case ProposalPayload():
            line.append(f"proposes {payload.proposal_id}: {payload.option} ({payload.rationale})")
        case VotePayload():
            line.append(f"{payload.vote:<7}", STYLES[payload.vote])
            line.append(f" {payload.proposal_id}")
        case CommitmentPayload():
            line.append(f"commits to {payload.action}", "bold")
            line.append(f" ({payload.reason})")
        case _:
            line.append(accepted.message_type)
    return line


def _counted(tally: mo.Tally) -> Text:
    count = tally.of("p1")
    bar = Text("    tally ", "dim")
    for vote, how_many in (("APPROVE", count.approve), ("REJECT", count.reject), ("ABSTAIN", count.abstain)):
        bar.append("●" * how_many, STYLES[vote])
    return bar.append(f" {count}", "dim")


def _decided(verdict: mo.Verdict) -> Text:
    sign = "for" if verdict.positive else "against"
    return Text(f"    verdict: {sign} {verdict.proposal_id}: {verdict.reason}", "bold")
