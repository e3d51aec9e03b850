# pyright: strict
"""What users must not write. Never run: type checkers must refuse the marked lines, and no other."""

import grpc
from macp.modes.decision.v1 import decision_pb2
from macp.modes.decision.v1.decision_pb2 import ProposalPayload, VotePayload
from macp.modes.task.v1.task_pb2 import TaskRequestPayload
from macp.v1 import core_pb2, core_pb2_grpc, envelope_pb2, policy_pb2
from reactivex import Observable

from macp_rx import (
    Accepted,
    DecisionSession,
    MacpClient,
    Message,
    MultiRoundSession,
    ProposalSession,
    QuorumSession,
    SessionStart,
    TaskSession,
    agents,
)
from macp_rx import operators as mo
from macp_rx.agents.ready import Update
from macp_rx.protocol.modes import decision

VotePayload(proposal=1)  # error: there is no such field
VotePayload(proposal_id=1)  # error: the field is a string
VotePayload("p1")  # error: fields go by their names
VotePayload(vote=None)  # error: a plain field is never None
decision_pb2.ContributePayload()  # error: this payload is of another mode
core_pb2.SessionStartPayload(extensions={"trace": "1"})  # error: the map's values are bytes
core_pb2.SessionStartPayload(participants=[1])  # error: the names are strings
envelope_pb2.Ack(session_state="OPEN")  # error: the field is an enum

vote = VotePayload()
vote.proposal = "p1"  # error: there is no such field
vote.vote = True  # error: the field is a string
vote.HasField("vote")  # error: a plain field has no presence
str(vote.ballot)  # error: there is no such field
str(envelope_pb2.SESSION_STATE_CLOSED)  # error: there is no such state
core_pb2.CommitmentPayload().supersedes = core_pb2.CommitmentRef()  # error: a message field is not assigned
core_pb2.StreamSessionResponse().WhichOneof("reply")  # error: there is no such oneof
policy_pb2.PolicyDescriptor(rules={"voting": {}})  # error: the rules are text


def grpc_stub(channel: grpc.Channel, envelope: envelope_pb2.Envelope) -> str:
    stub = core_pb2_grpc.MACPRuntimeServiceStub(channel)
    stub.Vote(envelope)  # error: there is no such call
    stub.Send(envelope)  # error: the call takes a SendRequest
    return stub.Send(core_pb2.SendRequest(envelope=envelope))  # error: the call returns a SendResponse


async def grpc_aio_stub(channel: grpc.aio.Channel, envelope: envelope_pb2.Envelope) -> str:
    stub = core_pb2_grpc.MACPRuntimeServiceStub(channel)
    stub.Send(envelope).cancel()  # error: the call takes a SendRequest
    return await stub.Send(core_pb2.SendRequest(envelope=envelope))  # error: the call returns a SendResponse


def accepted_and_messages(accepted: Accepted[VotePayload], events: Observable[Accepted[VotePayload]]) -> None:
    str(accepted.payload.option)  # error: a vote has no option
    str(accepted.timestamp)  # error: there is no such attribute
    Message("macp.mode.decision.v1", "APPROVE")  # error: a payload is a protobuf message
    events.pipe(mo.of_type(str))  # error: a payload class is a protobuf class


def chair(votes: Observable[VotePayload]) -> Observable[str]:
    return votes.pipe(mo.majority(electorate=3))  # error: a tally takes accepted votes, sender and all


def operators(events: Observable[Accepted], votes: Observable[Accepted[VotePayload]], client: MacpClient) -> None:
    events.pipe(mo.majority(3))  # error: it takes votes, and these may be anything
    votes.pipe(mo.confidence())  # error: it takes evaluations
    votes.pipe(mo.majority(2.5))  # error: an electorate is a whole number, or names
    votes.pipe(mo.weighted(["alice"]))  # error: names without weights
    votes.pipe(mo.at_least(2))  # error: without an electorate
    events.pipe(mo.states(VotePayload))  # error: a payload class is no mode
    events.pipe(mo.on_phase("Voting"))  # error: an envelope has no phase
    events.pipe(mo.under_policy("policy.default", ["alice"]))  # error: the id of a policy is no policy
    votes.pipe(mo.within("30"))  # error: a duration is a number of seconds, or a timedelta
    votes.pipe(mo.retry_with_backoff(3))  # error: a policy, not a number of tries
    events.pipe(mo.in_mode(decision))  # error: a mode's name, decision.MODE
    events.pipe(mo.until_ttl(client.get_session))  # error: it asks for metadata, as session.rx.metadata does
    str(mo.Verdict("p1", True, "", mo.Count()).approved)  # error: a verdict has no such attribute


def blocking_session(client: MacpClient, session: DecisionSession) -> None:
    session.vote("p1")  # error: the vote is missing
    session.vote("p1", vote=True)  # error: a vote is text
    str(session.propose("p1", "canary").sequence)  # error: an Ack has no sequence
    session.rx.propose("p1", option=2)  # error: an option is text
    session.join(chair)  # error: an agent hears what was accepted, and says messages
    client.send("APPROVE")  # error: the call takes an envelope
    client.rx.get_session()  # error: the session's id is missing
    for event in client.watch_roots(timeout=60.0):
        str(event.roots)  # error: the event tells only that they changed


async def reactive_session(session: DecisionSession) -> None:
    str((await session.rx.vote("p1", "APPROVE")).accepted)  # error: an Ack has no such field
    await session.vote("p1", "APPROVE")  # error: without rx the call blocks, and returns the Ack


def every_mode(client: MacpClient, start: SessionStart) -> None:
    ProposalSession(client).counter_propose("p2", "90")  # error: what it supersedes is missing
    TaskSession(client).rx.update_task("t1", 0.5)  # error: progress goes by its name
    QuorumSession(client).request_approval("r1", "deploy")  # error: how many must approve is missing
    MultiRoundSession(client).rx.contribute(7)  # error: a value is text
    MultiRoundSession(client).vote("p1", "APPROVE")  # error: this mode has no votes
    str(TaskSession(client).state().votes)  # error: the state of another mode
    str(DecisionSession(client).rx.state().phase)  # error: a stream of states is no state
    DecisionSession(client).commit("go", "all", "agreed")  # error: what a commitment says goes by name
    SessionStart(mode=decision.MODE, intent="choose", ttl_ms=5)  # error: without participants
    start.ttl_ms = 5  # error: it is frozen


def one(proposal: Accepted[ProposalPayload]) -> int:
    return 1


async def no_update(request: Accepted[TaskRequestPayload]) -> bytes:
    return b""


def half(request: Accepted[TaskRequestPayload], update: Update) -> None:
    update("half")  # error: progress is a number


def ready_made(session: DecisionSession, client: MacpClient) -> None:
    agents.voter(one)  # error: a vote is text
    agents.on(VotePayload).say(one)  # error: it answers proposals, not votes
    agents.on(str)  # error: a payload class is a protobuf class
    agents.task_worker("alice", no_update)  # error: work is handed a function to tell its progress
    agents.run(session, {"alice": agents.on(VotePayload)})  # error: without say it is no agent
    agents.run(session, {1: agents.voter(lambda _: "APPROVE")})  # error: a name or a credential
    agents.serve(client, agents.voter)  # error: what makes an agent is none
    agents.majority_committer(declined="no")  # error: without an action


async def mapped(events: Observable[Accepted[ProposalPayload]]) -> None:
    events.pipe(mo.map_async(half))  # error: it takes another kind of item, and two of them
    events.pipe(mo.map_async(one, concurrency="8"))  # error: how many is a number
