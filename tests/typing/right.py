# pyright: strict
"""What users write. Never run: type checkers must accept every line, and see the types that are asserted."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final, assert_type

import grpc
from macp.modes.decision.v1 import decision_pb2
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ProposalPayload, VotePayload
from macp.modes.quorum.v1.quorum_pb2 import ApprovalRequestPayload
from macp.modes.task.v1.task_pb2 import TaskRequestPayload
from macp.v1 import core_pb2, core_pb2_grpc, envelope_pb2, policy_pb2
from reactivex import Observable, abc
from reactivex import operators as ops

from macp_rx import (
    Accepted,
    Agent,
    AuthConfig,
    DecisionSession,
    ExtensionSession,
    HandoffSession,
    MacpClient,
    Message,
    MultiRoundSession,
    Outcome,
    ProposalSession,
    QuorumSession,
    RetryPolicy,
    Session,
    SessionStart,
    SessionStream,
    Stream,
    TaskSession,
    agents,
    rpc_stream,
)
from macp_rx import operators as mo
from macp_rx.agents.ready import Update
from macp_rx.protocol.modes import decision, handoff, multi_round, proposal, quorum, task
from macp_rx.protocol.policy import Policy
from macp_rx.session import RxSession, SessionVerbs, verb


def payloads() -> None:
    vote = decision_pb2.VotePayload(proposal_id="p1", vote="APPROVE")
    assert_type(vote.vote, str)
    assert_type(VotePayload.FromString(vote.SerializeToString()), VotePayload)

    start = core_pb2.SessionStartPayload(participants=["alice"], extensions={"trace": b"1"}, roots=[core_pb2.Root()])
    assert_type(start.extensions["trace"], bytes)
    assert_type(start.roots[0].uri, str)
    assert_type(core_pb2.CommitmentPayload().HasField("supersedes"), bool)

    ack = envelope_pb2.Ack(session_state=envelope_pb2.SESSION_STATE_OPEN)
    assert_type(ack.session_state, envelope_pb2.SessionState.ValueType)
    assert_type(envelope_pb2.SessionState.Name(ack.session_state), str)

    replay = policy_pb2.WhatIfReplayResponse(first_divergence=None)
    assert_type(replay.first_divergence if replay.HasField("first_divergence") else None, int | None)

    frame = core_pb2.StreamSessionResponse(envelope=envelope_pb2.Envelope())
    if frame.WhichOneof("response") == "error":
        assert_type(frame.error, envelope_pb2.MACPError)


def grpc_stub(channel: grpc.Channel, request: core_pb2.SendRequest) -> None:
    stub = core_pb2_grpc.MACPRuntimeServiceStub(channel)
    assert_type(stub.Send(request), core_pb2.SendResponse)
    for signal in stub.WatchSignals(core_pb2.WatchSignalsRequest()):
        assert_type(signal, core_pb2.WatchSignalsResponse)


async def grpc_aio_stub(channel: grpc.aio.Channel, request: core_pb2.SendRequest) -> None:
    stub = core_pb2_grpc.MACPRuntimeServiceStub(channel)
    assert_type(await stub.Send(request), core_pb2.SendResponse)
    async for signal in stub.WatchSignals(core_pb2.WatchSignalsRequest()):
        assert_type(signal, core_pb2.WatchSignalsResponse)


def any_stub(client: MacpClient, stub: core_pb2_grpc.MACPRuntimeServiceAsyncStub) -> None:
    def watch() -> grpc.aio.UnaryStreamCall[core_pb2.WatchRootsRequest, core_pb2.WatchRootsResponse]:
        return stub.WatchRoots(core_pb2.WatchRootsRequest())

    assert_type(rpc_stream(watch, scheduler=client.clock), Stream[core_pb2.WatchRootsResponse])
    assert_type(client.rpc_stream(watch), Stream[core_pb2.WatchRootsResponse])


def part(events: Stream[Accepted]) -> None:
    for accepted in events[:3]:
        assert_type(accepted, Accepted)


def chair(events: Observable[Accepted]) -> Observable[Message]:
    return events.pipe(
        mo.of_type(VotePayload),
        mo.majority(electorate=3),
        mo.within(30, otherwise=mo.UNDECIDED),
        ops.take(1),
        mo.commit_if_decided(action="rollout.approved"),
    )


def selecting(events: Stream[Accepted], plain: Observable[Accepted]) -> None:
    assert_type(events.pipe(mo.payloads(VotePayload)), Stream[VotePayload])
    assert_type(plain.pipe(mo.payloads(VotePayload)), Observable[VotePayload])
    assert_type(events.pipe(mo.in_session("s"), mo.in_mode(decision.MODE)), Stream[Accepted])
    assert_type(events.pipe(mo.sent_by("alice"), mo.of_type(VotePayload)), Stream[Accepted[VotePayload]])
    assert_type(events.pipe(mo.of_type(VotePayload), mo.sent_by("alice")), Stream[Accepted[VotePayload]])
    assert_type(plain.pipe(mo.of_type(VotePayload), mo.after(3), mo.dedupe()), Observable[Accepted[VotePayload]])


def folding(events: Stream[Accepted], policy: Policy, descriptor: policy_pb2.PolicyDescriptor) -> None:
    assert_type(events.pipe(mo.states(decision)), Stream[decision.State])
    assert_type(events.pipe(mo.states(proposal, policy=policy)), Stream[proposal.State])
    assert_type(events.pipe(mo.states(task, policy=descriptor)), Stream[task.State])
    assert_type(events.pipe(mo.states(handoff)), Stream[handoff.State])
    assert_type(events.pipe(mo.states(quorum)), Stream[quorum.State])
    assert_type(events.pipe(mo.states(multi_round)), Stream[multi_round.State])
    assert_type(events.pipe(mo.of_type(VotePayload), mo.tally()), Stream[mo.Tally])
    assert_type(events.pipe(mo.of_type(VotePayload), mo.participation(["alice"])), Stream[mo.Participation])
    assert_type(events.pipe(mo.participation({"alice"})), Stream[mo.Participation])
    assert_type(events.pipe(mo.of_type(EvaluationPayload), mo.confidence()), Stream[mo.Confidence])


def deciding(events: Stream[Accepted], votes: Stream[Accepted[VotePayload]], policy: Policy) -> None:
    assert_type(votes.pipe(mo.supermajority(5, share=0.6)), Stream[mo.Verdict])
    assert_type(votes.pipe(mo.unanimous(["alice", "bob"])), Stream[mo.Verdict])
    assert_type(votes.pipe(mo.plurality(electorate={"alice", "bob"})), Stream[mo.Verdict])
    assert_type(votes.pipe(mo.weighted({"alice": 2, "bob": 0.5})), Stream[mo.Verdict])
    assert_type(votes.pipe(mo.at_least(2, electorate=5)), Stream[mo.Verdict])
    assert_type(votes.pipe(mo.at_least(percent=60, electorate=5)), Stream[mo.Verdict])
    assert_type(events.pipe(mo.vetoed(3, severities=["high"])), Stream[mo.Verdict])
    assert_type(events.pipe(mo.under_policy(policy, ["alice"])), Stream[mo.Permitted])


def why(permitted: mo.Permitted) -> list[str]:
    assert_type(permitted.positive, bool)
    return [denial.code for denial in permitted.denials.negative]


def timing(votes: Stream[Accepted[VotePayload]], session: DecisionSession, nudge: Observable[Message]) -> None:
    verdicts = votes.pipe(mo.majority(3))
    assert_type(verdicts.pipe(mo.within(30)), Stream[mo.Verdict])
    assert_type(verdicts.pipe(mo.within(timedelta(seconds=30), otherwise="late")), Stream[mo.Verdict | str])
    assert_type(verdicts.pipe(mo.deadline(datetime.now(UTC))), Stream[mo.Verdict])
    assert_type(verdicts.pipe(mo.deadline(0.0, otherwise=None)), Stream[mo.Verdict | None])
    committed = votes.pipe(
        mo.majority(3), mo.deadline(0.0, otherwise=mo.UNDECIDED), ops.take(1), mo.commit_if_decided(action="go")
    )
    assert_type(committed, Stream[Message[core_pb2.CommitmentPayload]])
    assert_type(votes.pipe(mo.until_ttl(session.rx.metadata, margin=5)), Stream[Accepted[VotePayload]])
    assert_type(votes.pipe(mo.silence(5)), Stream[Accepted[VotePayload] | None])
    assert_type(votes.pipe(mo.missing_after(5, ["alice"])), Stream[tuple[str, ...]])
    assert_type(votes.pipe(mo.remind_every(5, ["alice"])), Stream[tuple[str, ...]])
    assert_type(verdicts.pipe(mo.escalate(60, nudge)), Stream[mo.Verdict | Message])
    assert_type(votes.pipe(mo.debounce_tally(1)), Stream[mo.Tally])


def living(events: Stream[Accepted], client: MacpClient) -> None:
    assert_type(events.pipe(mo.until_resolved()), Stream[Accepted])
    assert_type(events.pipe(mo.commitment()), Stream[Accepted[core_pb2.CommitmentPayload]])
    assert_type(events.pipe(mo.outcome()), Stream[Outcome])
    assert_type(events.pipe(mo.states(decision), mo.on_phase(decision.Phase.VOTING)), Stream[decision.State])
    assert_type(events.pipe(mo.states(task), mo.on_phase("InProgress"), ops.take(1)), Stream[task.State])
    assert_type(events.pipe(mo.retry_with_backoff(RetryPolicy(0.5, 5)), mo.shared()), Stream[Accepted])
    assert_type(events.pipe(mo.deliver_on(client.clock), mo.of_type(VotePayload)), Stream[Accepted[VotePayload]])
    assert_type(client.rx.get_session("s").pipe(mo.retry_with_backoff()), Stream[core_pb2.GetSessionResponse])


def approve(proposal: Accepted[ProposalPayload]) -> str:
    assert_type(proposal.payload, ProposalPayload)
    assert_type(proposal.sender, str)
    return "APPROVE"


def ballot(accepted: Accepted[VotePayload]) -> str:
    return accepted.payload.vote


def blocking_session() -> None:
    roles: list[Agent] = [chair, agents.voter(approve)]
    with MacpClient(target="localhost:50051", auth=AuthConfig.for_dev_agent("chair")) as client:
        session = DecisionSession(client)
        session.start(intent="pick a rollout", participants=["chair"], ttl_ms=60_000)
        assert_type(session.propose("p1", "canary"), envelope_pb2.Ack)
        assert_type(session.send(decision.vote("p1", "APPROVE")), envelope_pb2.Ack)
        for role in roles:
            assert_type(session.acting_as("alice").join(role), abc.DisposableBase)
        assert_type(session.events.pipe(mo.of_type(VotePayload)), Stream[Accepted[VotePayload]])
        assert_type(session.events.pipe(mo.of_type(VotePayload), ops.map(ballot)), Stream[str])
        for accepted in session.events:
            assert_type(accepted, Accepted)
        with session.open_stream() as stream:
            assert_type(stream.read(timeout=5.0), envelope_pb2.Envelope | None)
        for event in client.watch_roots(timeout=60.0):
            assert_type(event, core_pb2.WatchRootsResponse)


async def reactive_session(session: DecisionSession) -> None:
    vote: Callable[[str, str], Stream[envelope_pb2.Ack]] = session.rx.vote
    assert_type(await vote("p1", "APPROVE"), envelope_pb2.Ack)
    async for accepted in session.events:
        assert_type(accepted, Accepted)


def every_mode(client: MacpClient, start: SessionStart, metadata: core_pb2.SessionMetadata) -> None:
    negotiation, work, shift = ProposalSession(client), TaskSession(client), HandoffSession(client)
    approval, rounds = QuorumSession(client), MultiRoundSession(client)
    assert_type(negotiation.counter_propose("p2", "p1", "90", summary="less"), envelope_pb2.Ack)
    assert_type(negotiation.rx.reject("p1", terminal=True), Stream[envelope_pb2.Ack])
    assert_type(work.update_task("t1", progress=0.5), envelope_pb2.Ack)
    assert_type(work.rx.fail_task("t1", retryable=True), Stream[envelope_pb2.Ack])
    assert_type(shift.offer("h1", "alice"), envelope_pb2.Ack)
    assert_type(shift.rx.add_context("h1", context=b"1"), Stream[envelope_pb2.Ack])
    assert_type(approval.request_approval("r1", "deploy", required_approvals=2), envelope_pb2.Ack)
    assert_type(approval.rx.abstain("r1"), Stream[envelope_pb2.Ack])
    assert_type(rounds.contribute("7"), envelope_pb2.Ack)
    assert_type(rounds.commit(action="go", authority_scope="all", reason="agreed"), envelope_pb2.Ack)
    assert_type(rounds.rx.commit(action="go", authority_scope="all", reason="agreed"), Stream[envelope_pb2.Ack])
    assert_type(negotiation.state(), proposal.State)
    assert_type(work.states, Stream[task.State])
    assert_type(shift.rx.state(), Stream[handoff.State])
    assert_type(approval.state(), quorum.State)
    assert_type(rounds.acting_as("alice").state(), multi_round.State)
    assert_type(Session.open(client, start), Session)
    assert_type(TaskSession.open(client, start), TaskSession)
    assert_type(QuorumSession.of(client, metadata).acting_as(AuthConfig("t")), QuorumSession)
    assert_type(ExtensionSession(client, "ext.notes.v1").say("Note", b"1"), envelope_pb2.Ack)
    assert_type(ExtensionSession(client, "ext.notes.v1").rx.say("Note"), Stream[envelope_pb2.Ack])


def decision_session(session: DecisionSession) -> None:
    assert_type(session.vote("p1", "APPROVE"), envelope_pb2.Ack)
    assert_type(session.rx.vote("p1", "APPROVE"), Stream[envelope_pb2.Ack])
    assert_type(session.state(), decision.State)
    assert_type(session.rx.state(), Stream[decision.State])
    assert_type(session.tally, Stream[mo.Tally])
    assert_type(session.outcome, Stream[Outcome])
    assert_type(session.metadata(), core_pb2.SessionMetadata)
    assert_type(session.events, SessionStream)


def described() -> None:
    start = SessionStart(mode=decision.MODE, intent="choose", participants=["chair"], ttl_ms=60_000)
    assert_type(start.message, Message[core_pb2.SessionStartPayload])
    assert_type(SessionStart.from_json(start.to_json()), SessionStart)


def note(text: str, *, loud: bool = False) -> Message[bytes]:
    return Message("", (text.upper() if loud else text).encode(), "Note")


class NotesVerbs(SessionVerbs):
    note: Final = verb(note)


class RxNotesSession(NotesVerbs, RxSession): ...


class NotesSession(NotesVerbs, Session):
    MODE: ClassVar[str] = "ext.notes.v1"

    @property
    def rx(self) -> RxNotesSession:
        return self.in_form(RxNotesSession)


def notes(client: MacpClient) -> None:
    assert_type(NotesSession(client).note("one", loud=True), envelope_pb2.Ack)
    assert_type(NotesSession(client).rx.note("one"), Stream[envelope_pb2.Ack])


async def ask(proposal: Accepted[ProposalPayload]) -> str:
    return proposal.payload.option


async def compute(request: Accepted[TaskRequestPayload], update: Update) -> bytes:
    update(0.5, "half", status="adding")
    return request.payload.input


def taking(request: Accepted[ApprovalRequestPayload]) -> str | None:
    return "APPROVE" if request.payload.required_approvals > 1 else None


def answer(proposal: Accepted[ProposalPayload]) -> list[Message]:
    return [decision.vote(proposal.payload.proposal_id, "APPROVE")]


async def mind(proposal: Accepted[ProposalPayload]) -> agents.Evaluation:
    return agents.Evaluation("APPROVE", 0.5, proposal.payload.option)


def ready_made(session: DecisionSession, client: MacpClient) -> list[Agent]:
    assert_type(agents.voter(ask, fallback="ABSTAIN", timeout=5), Agent)
    assert_type(agents.on(ProposalPayload).say(answer, concurrency=2), Agent)
    panel = {"alice": agents.voter(approve), "bob": agents.evaluator(mind)}
    assert_type(agents.run(session, panel), Outcome)
    assert_type(agents.outcome_of(session, {AuthConfig("t"): agents.voter(ask)}), Stream[Outcome])
    assert_type(agents.serve(client, agents.merge(*panel.values())), abc.DisposableBase)
    return [
        agents.approver(taking),
        agents.task_worker("alice", compute, takes_over=True),
        agents.handoff_target("alice", lambda offer: offer.payload.scope == "all"),
        agents.majority_committer(action="go", electorate={"alice"}, timeout=timedelta(seconds=5)),
        agents.from_start(lambda start: agents.voter(lambda _: start.payload.intent)),
    ]


def asking(events: Stream[Accepted], client: MacpClient) -> None:
    proposals = events.pipe(mo.of_type(ProposalPayload))
    assert_type(proposals.pipe(mo.map_async(ask)), Stream[str])
    assert_type(proposals.pipe(mo.map_async(approve)), Stream[str])

    def outcomes(metadata: core_pb2.SessionMetadata, events: Stream[Accepted]) -> Stream[Outcome]:
        return events.pipe(mo.outcome())

    assert_type(client.each_session(outcomes), Stream[Outcome])


def remembering(memory: agents.Memory, session: DecisionSession) -> None:
    """`agents.remembered` keeps a function's type; what runs agents takes a memory."""

    @agents.remembered
    async def ask(proposal: Accepted[ProposalPayload]) -> str:
        return proposal.payload.option

    assert_type(agents.remembered(len, name="length")("abc"), int)
    agent = agents.voter(ask)
    assert_type(session.join(agent, memory=memory), abc.DisposableBase)
    assert_type(agents.run(session, {"alice": agent}, memory=memory), Outcome)
    assert_type(session.events.pipe(mo.of_type(ProposalPayload), mo.map_async(ask)), Stream[str])
