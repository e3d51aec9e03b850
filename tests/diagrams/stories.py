"""What the pictures of the gallery and of these tests are drawn of: runs that happened, under virtual time."""

from __future__ import annotations

from pathlib import Path
from random import Random

from macp.modes.decision.v1.decision_pb2 import ProposalPayload, VotePayload
from reactivex import operators as ops

from macp_rx import Accepted, Agent, DecisionSession, MacpAckError, MacpClient, Runtime, SessionStart, agents, diagrams
from macp_rx import operators as mo
from macp_rx.agents import Evaluation
from macp_rx.clock import VirtualClock
from macp_rx.diagrams.cards import card_of
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision
from macp_rx.simulation import Conditions, LogNormal, Refusal, Simulation, simulate
from macp_rx.simulation.conditions import Link
from macp_rx.testing import Marbles
from macp_rx.timeline import Event, Next, Recorder, Timeline
from macp_rx.transport.auth import AuthConfig
from tests.conformance.fixtures import Fixture
from tests.operators.voices import LEGEND

__all__ = ["FIXTURES", "PICTURES", "explained", "fixture", "long", "reconnected", "rollout", "tallied", "too_late"]

SESSION_ID = "00000000-0000-4000-8000-000000000000"
CONFORMANCE = Path(__file__).parents[1] / "conformance" / "data"

FIXTURES = (
    "decision_reject_paths",
    "proposal_happy_path",
    "task_happy_path",
    "handoff_happy_path",
    "quorum_happy_path",
    "multi_round_happy_path",
)


def rollout() -> Simulation:
    """Four vote on a rollout; one objects first, and one commits without being asked."""

    def voting(vote: str) -> Agent:
        return agents.voter(lambda _proposal: vote)

    def objects(proposal: Accepted[ProposalPayload]) -> object:
        return decision.raise_objection(proposal.payload.proposal_id, reason="no way back", severity="high")

    def hurries(_proposal: object) -> object:
        return decision.commit(action="rollout.approved", authority_scope="session", reason="sure")

    return simulate(
        {
            "chair": agents.majority_committer(action="rollout.approved", electorate=["alice", "bob", "carol", "dave"]),
            "alice": agents.merge(agents.evaluator(lambda _proposal: Evaluation("APPROVE", 0.9)), voting("APPROVE")),
            "bob": agents.merge(agents.on(ProposalPayload).say(objects), voting("REJECT")),
            "carol": voting("APPROVE"),
            "dave": agents.merge(agents.on(ProposalPayload).say(hurries), voting("APPROVE")),
        },
        SessionStart(
            mode=DECISION,
            intent="pick a rollout",
            participants=("chair", "alice", "bob", "carol", "dave"),
            ttl_ms=60_000,
        ),
        opening=[decision.propose("p1", "canary")],
        conditions={name: Conditions(thinking=LogNormal(2)) for name in ("alice", "bob", "carol", "dave")},
        seed=1,
    )


def fixture(name: str) -> Timeline:
    """A story of the conformance suite, a message every 100 ms."""
    read = Fixture(name, (CONFORMANCE / f"{name}.json").read_text())
    clock = VirtualClock()
    events: list[Event] = []
    with Runtime(clock=clock) as runtime:
        client = MacpClient.embedded(agent=read.start(SESSION_ID).sender, runtime=runtime)
        client.send(read.start(SESSION_ID))
        client.session_events(SESSION_ID).subscribe(
            lambda accepted: events.append(Event(clock.time, accepted.sender, Next(accepted))), lambda _error: None
        )
        for step in read.steps(SESSION_ID):
            clock.advance_by(0.1)
            sender = step.envelope.sender
            try:
                client.acting_as(sender).send(step.envelope)
            except MacpAckError as error:
                refusal = Refusal(sender, step.envelope.message_type, error.code, tuple(error.denials))
                events.append(Event(clock.time, sender, Next(refusal)))
        clock.advance_by(0)
        client.close()
    return Timeline(tuple(events))


def reconnected() -> Timeline:
    """A reader whose connection breaks every now and then: nothing is lost, and what happened is told beside it."""
    clock = VirtualClock()
    recorder = Recorder(clock)
    with Runtime(clock=clock) as runtime:
        chair = DecisionSession(MacpClient.embedded(agent="chair", runtime=runtime), SESSION_ID)
        chair.start(intent="pick a rollout", participants=["chair", "alice", "bob"], ttl_ms=30_000)
        link = Link(runtime.connect(), Conditions(latency=0.02, cut_every=2.5, outage=0.8), Random(3))
        reader = MacpClient.over(link, auth=AuthConfig.for_dev_agent("alice"))
        events = reader.session_events(SESSION_ID)
        recorder.record(events.status, "connection")
        recorder.record(events, "events")
        for act in (
            lambda: chair.propose("p1", "canary"),
            lambda: chair.acting_as("alice").vote("p1", "APPROVE"),
            lambda: chair.acting_as("bob").vote("p1", "APPROVE"),
            lambda: chair.commit(action="rollout.approved", authority_scope="session", reason="both"),
        ):
            clock.advance_by(1.5)
            act()
        clock.advance_by(1)
        reader.close()
        chair.client.close()
    return recorder.timeline


def long(events: int) -> Timeline:
    """Many votes, a proposal now and then, and two that stand out."""
    random = Random(1)
    names = ("alice", "bob", "carol")
    found: list[Event] = []
    time = 0
    for number in range(events):
        time += random.choice((1_000, 5_000, 40_000))
        lane = random.choice(names)
        what: object = LEGEND[random.choice("ppvvvwwx")].accepted(number + 1)
        if number in (events // 3, events // 2):
            what = Refusal(lane, "Vote", "RATE_LIMITED")
        found.append(Event(time, lane, Next(what)))
    return Timeline(tuple(found))


def explained() -> diagrams.Svg:
    """What a chair makes of the rollout."""
    pipeline = [
        mo.of_type(VotePayload),
        mo.majority(electorate=4),
        mo.within(30, otherwise=mo.UNDECIDED),
        ops.take(1),
        mo.commit_if_decided(action="rollout.approved"),
    ]
    return diagrams.explain(pipeline, rollout().timeline or Timeline())


def too_late() -> diagrams.Svg:
    """Votes that come when nobody waits for them any more."""
    return diagrams.explain(
        [mo.of_type(VotePayload), mo.within(60, otherwise=mo.UNDECIDED)], Marbles().cold("-p 1m v-w-|", LEGEND)
    )


def tallied() -> diagrams.Svg:
    """A tally, as a notebook shows it."""
    votes = ("p1", "APPROVE"), ("p1", "REJECT"), ("p1", "APPROVE"), ("p2", "ABSTAIN"), ("p2", "REJECT")
    tally = mo.Tally()
    for proposal, vote in votes:
        tally = tally.plus(proposal, vote)
    return card_of(tally).svg()


def _rollout() -> diagrams.Svg:
    run = rollout()
    return diagrams.svg(run.timeline or Timeline(), title=f"pick a rollout: {run}")


PICTURES = {
    "rollout": _rollout,
    "explain": explained,
    "too_late": too_late,
    "reconnected": lambda: diagrams.svg(reconnected()),
    "long": lambda: diagrams.svg(long(1_000), title="a thousand events"),
    "tally": tallied,
    **{name: (lambda name=name: diagrams.svg(fixture(name))) for name in FIXTURES},
}
"""Every picture of the gallery, by the name of its file."""
