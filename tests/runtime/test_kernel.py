"""The kernel is a function: what it answers depends on nothing but what it is given."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message as Protobuf
from hypothesis import given
from hypothesis import strategies as st
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Envelope

from macp_rx import MacpRefusedError
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import MODES
from macp_rx.runtime import Settings, dev_identity, kernel
from macp_rx.runtime.state import Result, State
from tests.protocol.plays import BEGIN, Control, Play, Say, plays

ID = "a-session-of-the-kernel"
START = Envelope(
    macp_version="1.0",
    mode=DECISION,
    message_type="SessionStart",
    message_id="start",
    session_id=ID,
    sender="chair",
    payload=core_pb2.SessionStartPayload(
        participants=["chair", "alice"], mode_version="1.0.0", configuration_version="c1", ttl_ms=60_000
    ).SerializeToString(),
)
VERBS = {
    "suspend": core_pb2.SuspendSessionRequest,
    "resume": core_pb2.ResumeSessionRequest,
    "cancel": core_pb2.CancelSessionRequest,
    "look": core_pb2.GetSessionRequest,
}


def request(step: Say | Control, session_id: str) -> tuple[str, str, Protobuf]:
    """The RPC that a step is, who calls it, and its request."""
    if isinstance(step, Say):
        return "Send", step.envelope.sender or "chair", core_pb2.SendRequest(envelope=step.envelope)
    made = VERBS[step.verb](session_id=session_id)
    return made.DESCRIPTOR.name.removesuffix("Request"), "chair", made


def answered(state: State, name: str, agent: str, request: Protobuf, now: int) -> Result:
    """What the kernel answers, once and again."""
    first = kernel.answer(state, name, dev_identity(agent), request, now)
    again = kernel.answer(state, name, dev_identity(agent), request, now)
    assert (first.state, first.events) == (again.state, again.events)
    assert str(first.reply) == str(again.reply)
    return first


@given(play=st.sampled_from(sorted(MODES)).flatmap(lambda mode: plays(mode, length=10)))
def test_the_same_state_and_request_have_the_same_answer(play: Play) -> None:
    """Limits among it: they are counted in the state."""
    now, session_id = BEGIN, play.opening.session_id
    state = State(Settings(starts_per_minute=1, messages_per_minute=8))
    registration = policy_pb2.RegisterPolicyRequest(policy_descriptor=play.policy)
    state = answered(state, "RegisterPolicy", "chair", registration, now).state
    for step in (Say(0, play.opening), *play.steps):
        now += step.after_ms
        for name, agent, asked in (
            request(step, session_id),
            ("WhatIfReplay", "chair", policy_pb2.WhatIfReplayRequest(session_id=session_id, candidate=play.policy)),
            ("GetDecisionReceipt", "alice", core_pb2.GetDecisionReceiptRequest(session_id=session_id)),
        ):
            state = answered(state, name, agent, asked, now).state


@pytest.mark.parametrize(
    ("name", "asked", "refused"),
    [
        ("WhatIfReplay", policy_pb2.WhatIfReplayRequest(session_id=ID), "INVALID_REQUEST"),
        ("GetDecisionReceipt", core_pb2.GetDecisionReceiptRequest(session_id=ID), "RECEIPT_UNAVAILABLE"),
    ],
)
def test_what_is_refused_has_counted_once_its_caller_may_read_the_session(
    name: str, asked: Protobuf, refused: str
) -> None:
    """In this order (`protocol.md` 5.7): is there such a session, may the caller read it, how often has it asked, the rest."""

    def code(agent: str) -> str:
        nonlocal state
        state, reply, _ = answered(state, name, agent, asked, BEGIN)
        assert isinstance(reply, MacpRefusedError)
        return reply.code

    state = State(Settings(messages_per_minute=1))
    assert [code("chair"), code("chair")] == ["SESSION_NOT_FOUND"] * 2
    state = answered(state, "Send", "chair", core_pb2.SendRequest(envelope=START), BEGIN).state
    assert [code("mallory"), code("mallory")] == ["FORBIDDEN"] * 2
    assert [code("chair"), code("chair")] == [refused, "RATE_LIMITED"]
    assert code("alice") == refused
