# pyright: strict
"""What users write. Never run: type checkers must accept every line, and see the types that are asserted."""

from collections.abc import Callable
from typing import assert_type

import grpc
from macp.modes.decision.v1 import decision_pb2
from macp.modes.decision.v1.decision_pb2 import ProposalPayload, VotePayload
from macp.v1 import core_pb2, core_pb2_grpc, envelope_pb2, policy_pb2
from reactivex import Observable, abc
from reactivex import operators as ops

from macp_rx import Accepted, Agent, AuthConfig, DecisionSession, MacpClient, Message, Stream, agents, rpc_stream
from macp_rx import operators as mo
from macp_rx.protocol.modes import decision


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


def chair(events: Observable[Accepted]) -> Observable[Message]:
    return events.pipe(
        mo.of_type(VotePayload),
        mo.majority(electorate=3),
        mo.within(30, otherwise=mo.UNDECIDED),
        ops.take(1),
        mo.commit_if_decided(action="rollout.approved"),
    )


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
