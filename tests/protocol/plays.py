"""Sessions drawn at random: who says what and when, sense and nonsense, and what else happens to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as Protobuf
from hypothesis import strategies as st
from macp.v1.core_pb2 import ModeDescriptor, SessionStartPayload
from macp.v1.envelope_pb2 import Envelope
from macp.v1.policy_pb2 import PolicyDescriptor

from macp_rx import MacpRefusedError
from macp_rx.protocol import lifecycle
from macp_rx.protocol.lifecycle import Session
from macp_rx.protocol.messages import DECISION, HANDOFF, MULTI_ROUND, PROPOSAL, QUORUM, TASK, payload_type
from macp_rx.protocol.modes import MODES, Registered
from macp_rx.protocol.modes.passthrough import Passthrough
from macp_rx.protocol.policy import policy_from
from tests.protocol.policies import descriptors

__all__ = ["ALL_MODES", "CONTROLS", "NOTES", "REGISTRY", "Control", "Moment", "Play", "Say", "perform", "plays"]

SESSION = "a-session-to-play-0001"
BEGIN = 1_000_000

NOTES = ModeDescriptor(
    mode="ext.notes.v1",
    mode_version="1.0.0",
    message_types=["Note", "Commitment"],
    terminal_message_types=["Commitment"],
)
"""A mode that somebody registered."""

ALL_MODES = (DECISION, PROPOSAL, TASK, HANDOFF, QUORUM, MULTI_ROUND, NOTES.mode)
REGISTRY: Mapping[str, Registered] = {**MODES, NOTES.mode: Registered(Passthrough(NOTES), NOTES)}


@dataclass(frozen=True)
class Say:
    """Somebody says something.

    Attributes:
        after_ms: how long after what happened before.
        envelope: what.
    """

    after_ms: int
    envelope: Envelope


@dataclass(frozen=True)
class Control:
    """Something else happens to the session.

    Attributes:
        after_ms: how long after what happened before.
        verb: a key of `CONTROLS`.
    """

    after_ms: int
    verb: str


@dataclass(frozen=True)
class Play:
    """A session, from its start on.

    Attributes:
        opening: its SessionStart.
        policy: what it is bound to.
        steps: what happens then.
    """

    opening: Envelope
    policy: PolicyDescriptor
    steps: tuple[Say | Control, ...]


@dataclass(frozen=True)
class Moment:
    """What one step has led to.

    Attributes:
        step: the step.
        now: when it happened, Unix milliseconds.
        before: the session before it.
        after: the session after it.
        refusal: the code that it was refused with.
    """

    step: Say | Control
    now: int
    before: Session
    after: Session
    refusal: str | None


CONTROLS = {
    "suspend": lifecycle.suspend,
    "resume": lifecycle.resume,
    "cancel": lifecycle.cancel,
    "look": lifecycle.expire_if_due,
}


def perform(play: Play) -> Iterator[Moment]:
    """Plays it on the pure functions, as a runtime would."""
    mode = REGISTRY[play.opening.mode]
    policy = policy_from(play.policy)
    now = BEGIN
    session = lifecycle.start(play.opening, now, mode=mode, policies={policy.policy_id: policy})
    for step in play.steps:
        now += step.after_ms
        before = session
        refusal: MacpRefusedError | None = None
        if isinstance(step, Say):
            session, refusal = lifecycle.receive(before, mode, step.envelope, now)
        else:
            session = lifecycle.expire_if_due(before, now)
            try:
                session = CONTROLS[step.verb](session, now)
            except MacpRefusedError as refused:
                refusal = refused
        yield Moment(step, now, before, session, refusal.code if refusal else None)


# What is said: each field has a few values that are often right and some that never are, so that sessions come somewhere.

IDS = (("p1", "p2", "p3"), ("", " "))
PEOPLE = ("chair", "alice", "bob")
VALUES: Mapping[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "proposal_id": IDS,
    "supersedes_proposal_id": IDS,
    "task_id": (("t1",), ("t2", "")),
    "handoff_id": (("p1", "p2", "p3"), ("",)),
    "request_id": (("r1",), ("r2", "")),
    "option": (("one", "two"), ("",)),
    "recommendation": (("APPROVE", "REVIEW", "REJECT", "BLOCK"), ("approve",)),
    "confidence": ((0.0, 0.5, 1.0), (1.5, float("nan"))),
    "progress": ((0.0, 0.5), (float("inf"),)),
    "severity": (("low", "critical"), ("CRITICAL", "")),
    "vote": (("APPROVE", "REJECT", "ABSTAIN"), ("yes",)),
    "requested_assignee": (("", "alice"), ("mallory",)),
    "assignee": (("",), PEOPLE),
    "accepted_by": (("",), PEOPLE),
    "declined_by": (("",), PEOPLE),
    "target_participant": (("alice", "bob"), ("chair", "mallory", "")),
    "required_approvals": ((1, 2, 3), (0, 9)),
    "implicit": ((False,), (True,)),
    "action": (("settled",), ("decision.approved", "task.failed")),
    "mode_version": (("1.0.0",), ("",)),
    "configuration_version": (("c1",), ("c2",)),
    "policy_version": (("", "policy.test"), ("policy.default",)),
    "value": (("x", "y"), ("",)),
}
DEFAULTS: Mapping[int, tuple[Any, ...]] = {
    FieldDescriptor.TYPE_STRING: ("text",),
    FieldDescriptor.TYPE_BYTES: (b"", b"\x00bytes"),
    FieldDescriptor.TYPE_BOOL: (True, False),
    FieldDescriptor.TYPE_DOUBLE: (0.0, 0.5),
    FieldDescriptor.TYPE_INT64: (0, 1),
    FieldDescriptor.TYPE_UINT32: (1, 2),
}


def _payload(chance: Random, cls: type[Protobuf]) -> bytes:
    payload = cls()
    for field in cls.DESCRIPTOR.fields:
        if field.type != FieldDescriptor.TYPE_MESSAGE and not field.is_repeated:
            right, wrong = VALUES.get(field.name) or (DEFAULTS[field.type], DEFAULTS[field.type])
            setattr(payload, field.name, chance.choice(right if chance.random() < 0.95 else wrong))
    return payload.SerializeToString()


def _word(chance: Random, mode: str) -> tuple[str, bytes]:
    """A message type of a mode with a payload; now and then nonsense."""
    if chance.random() < 0.05:
        return chance.choice(("Nonsense", "Commitment", "SessionStart", "Vote")), chance.randbytes(3)
    own = REGISTRY[mode].mode.MESSAGE_TYPES
    message_type = "Commitment" if chance.random() < 0.04 else chance.choice(own)
    cls = payload_type(mode, message_type)
    return message_type, chance.randbytes(2) if cls is None else _payload(chance, cls)


def _sender(chance: Random, message_type: str) -> str:
    if chance.random() < 0.05:
        return chance.choice(("mallory", "judge"))
    return "chair" if message_type in OPENING and chance.random() < 0.9 else chance.choice(PEOPLE)


OPENING = ("TaskRequest", "HandoffOffer", "ApprovalRequest", "Commitment")


def _step(number: int, seed: int, mode: str) -> Say | Control:
    chance = Random(seed)
    delay = 30_000 if chance.random() < 0.02 else chance.choice((0, 1, 400, 2000))
    if chance.random() < 0.08:
        return Control(
            delay, "cancel" if chance.random() < 0.05 else chance.choice(("suspend", "resume", "resume", "look"))
        )
    message_type, payload = _word(chance, mode)
    again = chance.random() < 0.1
    envelope = Envelope(
        macp_version="1.0",
        mode=mode if chance.random() < 0.97 else "ext.other.v1",
        message_type=message_type,
        message_id=chance.choice(("start", "m1", "m2", "implicit-accept:p1")) if again else f"m{number}",
        session_id=SESSION,
        sender=_sender(chance, message_type),
        payload=payload,
    )
    return Say(delay, envelope)


@st.composite
def plays(draw: st.DrawFn, mode: str, *, length: int = 40) -> Play:
    """Sessions of a mode, of at most so many steps."""
    policy = draw(descriptors(mode))
    payload = SessionStartPayload(
        participants=["chair", "alice", "bob"],
        mode_version="1.0.0",
        configuration_version="c1",
        policy_version=policy.policy_id,
        ttl_ms=draw(st.sampled_from((86_400_000, 60_000))),
        max_suspend_ms=draw(st.sampled_from((0, 40_000))),
    )
    opening = Envelope(
        macp_version="1.0",
        mode=mode,
        message_type="SessionStart",
        message_id="start",
        session_id=SESSION,
        sender="chair",
        payload=payload.SerializeToString(),
    )
    # one draw a step: drawn field by field, the sessions of a test took a hundred times as long
    least = draw(st.sampled_from((0, length // 2)))
    seeds = draw(st.lists(st.integers(0, 2**32), min_size=least, max_size=length))
    return Play(opening, policy, tuple(_step(number, seed, mode) for number, seed in enumerate(seeds, start=1)))
