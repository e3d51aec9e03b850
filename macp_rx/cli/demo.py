"""macp-rx demo: a coordination in each mode, live."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from reactivex.disposable import CompositeDisposable
from rich.text import Text

from macp_rx.cli.connection import connected
from macp_rx.cli.ending import End
from macp_rx.cli.marble import draw
from macp_rx.cli.terminal import STYLES, console, plain, show
from macp_rx.client import MacpClient
from macp_rx.errors import MacpSessionError
from macp_rx.protocol.messages import Accepted, Message
from macp_rx.protocol.modes import decision, handoff, multi_round, proposal, quorum, task
from macp_rx.protocol.start import SessionStart
from macp_rx.session import Agent, Outcome, Session

if TYPE_CHECKING:
    from reactivex import Observable

    from macp_rx.agents import Update

__all__ = ["DemoMode", "demo"]

SLOW: Final = 3.0
"""The pace of --slow."""


class DemoMode(StrEnum):
    """The six modes."""

    DECISION = "decision"
    PROPOSAL = "proposal"
    TASK = "task"
    HANDOFF = "handoff"
    QUORUM = "quorum"
    MULTI_ROUND = "multi_round"


@dataclass(frozen=True, slots=True)
class Play:
    """What is shown: who opens it, and who takes part how.

    Attributes:
        start: what the session is opened with.
        agents: name -> what it does; the first opens the session.
        thinking: name -> seconds that it takes at pace 1 before it says something.
    """

    start: SessionStart
    agents: Mapping[str, Agent]
    thinking: Mapping[str, float]


@connected(target=None)
def demo(
    client: MacpClient,
    mode: Annotated[DemoMode, typer.Argument(help="What kind of coordination.")] = DemoMode.DECISION,
    pace: Annotated[float, typer.Option(help="How long the agents think: 1 is natural, 0 not at all.", min=0)] = 1.0,
    slow: Annotated[bool, typer.Option("--slow", help=f"The same as --pace {SLOW:g}: to follow each line.")] = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Draw it, too.", dir_okay=False, show_default=False)
    ] = None,
) -> None:
    """Shows agents that coordinate, live: on a runtime inside the process, or on yours.

    On yours the agents speak under their own names, as on a development runtime anybody may.

    Example: macp-rx demo quorum --target 127.0.0.1:50051
    """
    from macp_rx.cli.lanes import Lanes
    from macp_rx.timeline import Event, Next, Timeline

    if svg is not None and svg.suffix != ".svg":
        raise MacpSessionError(f"--svg writes a .svg, not {str(svg)!r}; for others: record, and marble -o")
    play = PLAYS[mode]()
    pace = SLOW if slow else pace
    out = console()
    session = Session.open(client.acting_as(next(iter(play.agents))), play.start)
    panel = [
        session.acting_as(name).join(_thinking(agent, pace * play.thinking[name]))
        for name, agent in play.agents.items()
    ]
    lanes = Lanes(out)
    events: list[Event] = []
    begun = client.clock.seconds
    with CompositeDisposable(panel):  # who leaves before the connection does is not told that it is closed
        for accepted in session.events:
            lanes.show(accepted)
            events.append(Event(round(1_000_000 * (client.clock.seconds - begun)), accepted.sender, Next(accepted)))
    outcome = session.outcome.run()
    show(out, verdict(outcome))
    if svg is not None:
        draw(Timeline(tuple(events)), svg)
    raise typer.Exit(End.OK if outcome.state == "RESOLVED" else End.FAILED)


def verdict(outcome: Outcome) -> Text:
    """How a session ended, as a line."""
    return Text.assemble((outcome.state, f"bold {STYLES[outcome.state]}"), f" {plain(outcome.reason)}")


def _thinking(agent: Agent, seconds: float) -> Agent:
    """The agent, but each thing that it says takes it so long."""
    import reactivex as rx
    from reactivex import operators as ops

    def later(message: Message) -> Observable[Message]:
        return rx.just(message).pipe(ops.delay(seconds))

    def slow(events: Observable[Accepted]) -> Observable[Message]:
        return agent(events).pipe(ops.map(later), ops.merge(max_concurrent=1))

    return slow


# One coordination a mode.


def _decision() -> Play:
    from macp_rx import agents

    votes = {"alice": "APPROVE", "bob": "REJECT", "carol": "APPROVE"}
    chair = agents.merge(
        agents.opening(decision.propose("canary", "5 % of the traffic first", rationale="an hour tells enough")),
        agents.majority_committer(action="rollout.approved", declined="rollout.declined", electorate=list(votes)),
    )
    panel = {name: agents.voter(_always(vote)) for name, vote in votes.items()}
    start = SessionStart(mode=decision.MODE, intent="pick a rollout", participants=["chair", *votes], ttl_ms=60_000)
    return Play(start, {"chair": chair, **panel}, {"chair": 0.3, "alice": 0.5, "bob": 1.0, "carol": 1.5})


def _proposal() -> Play:
    from macp_rx import agents

    def counter(offer: Accepted[proposal.ProposalPayload]) -> Message:
        return proposal.counter_propose("offer-2", offer.payload.proposal_id, "100 pieces at 11.50")

    def agree(offer: Accepted[proposal.CounterProposalPayload]) -> Message:
        return proposal.accept(offer.payload.proposal_id)

    def conclude(state: proposal.State) -> Message | None:
        if state.accepted_proposal is None:
            return None
        return proposal.commit(
            action="deal.accepted", authority_scope="order", reason=f"both accept {state.accepted_proposal}"
        )

    buyer = agents.merge(
        agents.opening(proposal.propose("offer-1", "100 pieces at 10.00")),
        agents.on(proposal.CounterProposalPayload).say(agree),
        agents.on_state(proposal).say(conclude),
    )
    seller = agents.merge(
        agents.on(proposal.ProposalPayload).say(counter), agents.on(proposal.CounterProposalPayload).say(agree)
    )
    start = SessionStart(mode=proposal.MODE, intent="an order", participants=["buyer", "seller"], ttl_ms=60_000)
    return Play(start, {"buyer": buyer, "seller": seller}, {"buyer": 0.7, "seller": 1.0})


def _task() -> Play:
    from macp_rx import agents

    def work(_request: Accepted[task.TaskRequestPayload], update: Update) -> bytes:
        for progress, message in ((0.3, "collecting"), (0.8, "writing")):
            update(progress, message)
        return b"the report"

    def conclude(state: task.State) -> Message | None:
        if state.report is None:
            return None
        return task.commit(action="task.completed", authority_scope="report", reason=f"reported by {state.reporter}")

    planner = agents.merge(
        agents.opening(task.request_task("report", "the figures of the third quarter")),
        agents.on_state(task).say(conclude),
    )
    start = SessionStart(mode=task.MODE, intent="a report", participants=["planner", "worker"], ttl_ms=60_000)
    return Play(
        start, {"planner": planner, "worker": agents.task_worker("worker", work)}, {"planner": 0.5, "worker": 0.8}
    )


def _handoff() -> Play:
    from macp_rx import agents

    def conclude(accepted: Accepted[handoff.HandoffAcceptPayload]) -> Message:
        return handoff.commit(
            action="handoff.accepted", authority_scope="incident", reason=f"{accepted.sender} has taken it over"
        )

    nora = agents.merge(
        agents.opening(
            handoff.offer("incident-7", "dan", scope="the disk of db-3", reason="end of the shift"),
            handoff.add_context("incident-7", content_type="text/plain", context=b"It fills up by 1 GB an hour."),
        ),
        agents.on(handoff.HandoffAcceptPayload).say(conclude),
    )
    start = SessionStart(mode=handoff.MODE, intent="shift change", participants=["nora", "dan"], ttl_ms=60_000)
    return Play(
        start, {"nora": nora, "dan": agents.handoff_target("dan", lambda _offer: True)}, {"nora": 0.5, "dan": 1.0}
    )


def _quorum() -> Play:
    from macp_rx import agents

    ballots = {"alice": "APPROVE", "bob": "ABSTAIN", "carol": "APPROVE"}

    def conclude(state: quorum.State) -> Message | None:
        if not state.commitment_ready:
            return None
        return quorum.commit(
            action="deletion.approved" if state.has_quorum else "deletion.rejected",
            authority_scope="customer 4711",
            reason=f"{state.approval_count} of {len(ballots)} approve",
        )

    operator = agents.merge(
        agents.opening(quorum.request_approval("r1", "delete all data of customer 4711", required_approvals=2)),
        agents.on_state(quorum).say(conclude),
    )
    panel = {name: agents.approver(_always(ballot)) for name, ballot in ballots.items()}
    start = SessionStart(mode=quorum.MODE, intent="delete customer 4711", participants=list(ballots), ttl_ms=60_000)
    return Play(start, {"operator": operator, **panel}, {"operator": 0.3, "alice": 0.5, "bob": 1.0, "carol": 1.5})


def _multi_round() -> Play:
    from macp_rx import agents

    order: Sequence[tuple[str, str]] = (("ana", "3"), ("ben", "8"), ("cleo", "5"), ("ben", "5"), ("ana", "5"))

    def estimator(me: str) -> Agent:
        def speak(state: multi_round.State) -> Message | None:
            if state.round == len(order) or order[state.round][0] != me:
                return None
            return multi_round.contribute(order[state.round][1])

        return agents.on_state(multi_round).say(speak)

    def conclude(state: multi_round.State) -> Message | None:
        if not state.converged:
            return None
        reason = f"all say {state.contributions['ana']} days"
        return multi_round.commit(action="estimate.accepted", authority_scope="plan", reason=reason)

    ana = agents.merge(estimator("ana"), agents.on_state(multi_round).say(conclude))
    start = SessionStart(
        mode=multi_round.MODE, intent="how many days?", participants=["ana", "ben", "cleo"], ttl_ms=60_000
    )
    return Play(
        start, {"ana": ana, "ben": estimator("ben"), "cleo": estimator("cleo")}, {"ana": 0.6, "ben": 0.6, "cleo": 0.6}
    )


def _always(answer: str) -> Callable[[object], str]:
    def decide(_about: object) -> str:
        return answer

    return decide


PLAYS: Final[Mapping[DemoMode, Callable[[], Play]]] = {
    DemoMode.DECISION: _decision,
    DemoMode.PROPOSAL: _proposal,
    DemoMode.TASK: _task,
    DemoMode.HANDOFF: _handoff,
    DemoMode.QUORUM: _quorum,
    DemoMode.MULTI_ROUND: _multi_round,
}
