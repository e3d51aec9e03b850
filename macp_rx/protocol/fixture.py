"""A conformance fixture of the MACP specification: a session, and what of it a runtime accepts (`protocol.md` 11.1)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeGuard, cast

from google.protobuf import symbol_database
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as Protobuf
from macp.v1.core_pb2 import CommitmentPayload, SessionStartPayload
from macp.v1.envelope_pb2 import Envelope
from macp.v1.policy_pb2 import PolicyDescriptor

from macp_rx.errors import MacpRefusedError, MacpSessionError
from macp_rx.protocol import jcs, lifecycle
from macp_rx.protocol.lifecycle import Entry
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import MACP_VERSION, Message
from macp_rx.protocol.modes import MODES
from macp_rx.protocol.policy import BUILT_IN, policy_from

__all__ = ["STATES", "Fixture", "Step", "payload_members"]

STATES: Final = ("Open", "Suspended", "Resolved", "Expired", "Cancelled")
"""How a fixture names the states of a session."""

INTENT: Final = "conformance"
MAX_PAYLOAD_BYTES: Final = 1_048_576
OVERRIDES: Final = ("session_id", "macp_version", "mode", "timestamp_unix_ms")
EXPECTED: Final = (
    "expect_resolution_present",
    "expected_resolution",
    "expected_mode_state",
    "expected_history",
    "verify_replay_equivalence",
)
UNSAID: Final = ("supersedes", "tags")  # members that the specification's runner leaves out


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One message, and what becomes of it.

    Attributes:
        sender: who says it.
        message: what.
        refused: the code that it is refused with, ``""`` for whichever; None if it is accepted.
        at_ms: when it is accepted or refused, in milliseconds from the start; None where time does not matter.
        envelope: fields of its Envelope that are not as usual: session_id, macp_version, mode, timestamp_unix_ms.
    """

    sender: str
    message: Message
    refused: str | None = None
    at_ms: int | None = None
    envelope: Mapping[str, str | int] = field(default_factory=Map[str, str | int])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixture:
    """A session, message by message, and what a runtime must make of it.

    Reading and writing have the quirks of the specification's runner: of bytes it knows only a handoff's context, which it
    takes for text, and a commitment that does not say whether it is positive is.

    Attributes:
        mode: the session's mode.
        initiator: who opens it.
        start: what it is opened with; the runner knows no intent, context, roots or extensions.
        steps: what is said then.
        final_state: the state at the end, one of `STATES`.
        policy: one to register before.
        expected: what else is expected, as it stands in the file: expected_resolution, expected_mode_state, expected_history …
        description: for people.
    """

    mode: str
    initiator: str
    start: SessionStartPayload = field(hash=False)
    steps: tuple[Step, ...]
    final_state: str
    policy: PolicyDescriptor | None = field(default=None, hash=False)
    expected: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    description: str = ""

    @property
    def clocked(self) -> bool:
        """Whether it says when each message is accepted."""
        return any(step.at_ms is not None for step in self.steps)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads a fixture.

        Raises:
            MacpSessionError: it is none; the text says what is missing, and in which message.
        """
        members = jcs.decode(text)
        if not is_fixture(members):
            raise MacpSessionError(
                'a conformance fixture is a JSON object with "messages", "expected_final_state" … (conformance/schema.json)'
            )
        where = "the fixture"
        try:
            start = SessionStartPayload(
                intent=INTENT,
                participants=members["participants"],
                mode_version=members["mode_version"],
                configuration_version=members["configuration_version"],
                policy_version=members.get("policy_version") or "",
                ttl_ms=members["ttl_ms"],
            )
            steps: list[Step] = []
            for number, message in enumerate(members["messages"], start=1):
                where = f"message {number}"
                steps.append(_step(members["mode"], message))
            where = "the fixture"
            policy = members.get("policy")
            return cls(
                mode=members["mode"],
                initiator=members["initiator"],
                start=start,
                steps=tuple(steps),
                final_state=members["expected_final_state"],
                policy=None if policy is None else _policy(policy),
                expected={name: members[name] for name in EXPECTED if name in members},
                description=members.get("description", ""),
            )
        except KeyError as error:
            raise MacpSessionError(f"{where} has no {error}, which a conformance fixture must have") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise MacpSessionError(f"{where} cannot be read: {error}") from None

    def to_json(self) -> str:
        """It as a file that the specification's runner reads.

        Raises:
            MacpSessionError: it says what a fixture cannot.
        """
        said = {name for name in ("context_id", "extensions", "roots", "max_suspend_ms") if getattr(self.start, name)}
        if not self.steps:
            raise MacpSessionError("a fixture has a message at the least, beside its SessionStart")
        if said:
            raise MacpSessionError(f"a fixture's SessionStart cannot say {', '.join(sorted(said))}: leave it out")
        members: dict[str, object] = {
            "description": self.description,
            "mode": self.mode,
            "initiator": self.initiator,
            "participants": list(self.start.participants),
            "mode_version": self.start.mode_version,
            "configuration_version": self.start.configuration_version,
        }
        if self.policy is not None:
            members["policy"] = {
                "policy_id": self.policy.policy_id,
                "mode": self.policy.mode,
                "description": self.policy.description,
                "schema_version": self.policy.schema_version,
                "rules": json.loads(self.policy.rules),
            }
        if self.start.policy_version:
            members["policy_version"] = self.start.policy_version
        members |= {
            "ttl_ms": self.start.ttl_ms,
            "messages": [_members(number, step) for number, step in enumerate(self.steps, start=1)],
            "expected_final_state": self.final_state,
            **self.expected,
        }
        return f"{json.dumps(members, indent=2, ensure_ascii=False)}\n"

    def envelopes(self, session_id: str) -> Iterator[Envelope]:
        """What is said, the SessionStart first, under the ids ``m0``, ``m1`` …: a refused message uses its number up, too.

        Args:
            session_id: in which session.
        """
        start = Message(self.mode, self.start)
        yield envelope(self.mode, session_id, Step(sender=self.initiator, message=start), 0)
        for number, step in enumerate(self.steps, start=1):
            yield envelope(self.mode, session_id, step, number)

    def history(self, session_id: str) -> tuple[Entry, ...]:
        """What a runtime accepts of it, by the rules, and what the runtime itself says: each with its time.

        Where the fixture says no times, message n comes n milliseconds behind the start.

        Args:
            session_id: in which session.

        Raises:
            MacpSessionError: the rules refuse what the fixture says is accepted, or the other way round.
        """
        policies = dict(BUILT_IN)
        if self.policy is not None:
            policies[self.policy.policy_id] = policy_from(self.policy)
        mode = MODES.get(self.mode)
        if mode is None:
            raise MacpSessionError(f"a fixture of mode {self.mode!r} cannot be judged: its rules are not known here")
        said = self.envelopes(session_id)
        session = lifecycle.start(next(said), 0, mode=mode, policies=policies)
        for number, (step, one) in enumerate(zip(self.steps, said, strict=True), start=1):
            if one.session_id != session_id:  # opens another session
                continue
            try:
                lifecycle.check_shape(one, MAX_PAYLOAD_BYTES)
                session, refusal = lifecycle.receive(session, mode, one, number if step.at_ms is None else step.at_ms)
            except MacpRefusedError as error:
                refusal = error
            code = None if refusal is None else refusal.code
            if (code is None) != (step.refused is None) or (code and step.refused and code != step.refused):
                raise MacpSessionError(
                    f"message {number} is {_told(step.refused)} in the fixture, and by the rules it is {_told(code)}"
                )
        return tuple(entry for entry in session.log or () if entry.envelope is not None)


def is_fixture(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a JSON value has what a fixture cannot be without."""
    return isinstance(value, dict) and {"messages", "expected_final_state"} <= cast("dict[str, object]", value).keys()


def envelope(mode: str, session_id: str, step: Step, number: int) -> Envelope:
    """A step as it is sent, under the id that a fixture's message of this number has."""
    made = Envelope(
        macp_version=MACP_VERSION,
        mode=mode,
        message_type=step.message.message_type,
        message_id=f"m{number}",
        session_id=session_id,
        sender=step.sender,
        payload=step.message.payload_bytes,
    )
    for name, value in step.envelope.items():
        setattr(made, name, value)
    return made


def payload_members(payload: Protobuf) -> dict[str, object]:
    """A payload as fixtures write it: what is set, under the names of its fields.

    Raises:
        MacpSessionError: it says what the specification's runner leaves out.
    """
    members: dict[str, object] = {}
    for descriptor, value in payload.ListFields():
        name, where = descriptor.name, f"{payload.DESCRIPTOR.name}.{descriptor.name}"
        if name in UNSAID or (descriptor.message_type is not None):
            raise MacpSessionError(f"a fixture cannot say {where}: leave it out")
        if descriptor.type == FieldDescriptor.TYPE_BYTES:
            members[name] = _text(name, value, where)
        else:
            members[name] = list(value) if descriptor.is_repeated else value
    if isinstance(payload, CommitmentPayload):
        members["outcome_positive"] = payload.outcome_positive
    return members


def _text(name: str, value: object, where: str) -> str:
    if name == "context" and isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    raise MacpSessionError(
        f"a fixture cannot say the bytes of {where}, only a handoff's context that is text: leave it out"
    )


def _step(mode: str, message: Mapping[str, Any]) -> Step:
    overrides = {name: value for name, value in message.get("envelope", {}).items() if name in OVERRIDES}
    return Step(
        sender=message["sender"],
        message=Message(mode, _payload(message["payload_type"], message["payload"]), message["message_type"]),
        refused=None if message["expect"] == "accept" else message.get("expected_error_code", ""),
        at_ms=message.get("accepted_at_ms"),
        envelope=Map[str, str | int](overrides),
    )


def _members(number: int, step: Step) -> dict[str, object]:
    payload = step.message.payload
    if isinstance(payload, bytes):
        raise MacpSessionError(f"message {number} has bytes for a payload, which a fixture cannot say")
    members: dict[str, object] = {
        "sender": step.sender,
        "message_type": step.message.message_type,
        "payload_type": payload.DESCRIPTOR.full_name,
        "payload": payload_members(payload),
        "expect": "accept" if step.refused is None else "reject",
    }
    if step.refused:
        members["expected_error_code"] = step.refused
    if step.at_ms is not None:
        members["accepted_at_ms"] = step.at_ms
    if step.envelope:
        members["envelope"] = dict(step.envelope)
    elif step.message.message_type == "SessionStart":
        raise MacpSessionError(
            f"message {number} is a SessionStart, which must name another session than the fixture's"
        )
    return members


def _payload(type_name: str, values: Mapping[str, Any]) -> Protobuf:
    payload: Any = symbol_database.Default().GetSymbol(type_name)()
    if type_name == CommitmentPayload.DESCRIPTOR.full_name:
        payload.outcome_positive = True  # what the runner assumes where a fixture says nothing
    for descriptor in payload.DESCRIPTOR.fields:
        if descriptor.name not in values or descriptor.name in UNSAID:
            continue
        value = values[descriptor.name]
        if descriptor.type == FieldDescriptor.TYPE_BYTES:
            if descriptor.name == "context" and isinstance(value, str):  # the runner drops all other bytes
                payload.context = value.encode()
        elif descriptor.is_repeated:
            getattr(payload, descriptor.name).extend(value)
        else:
            setattr(payload, descriptor.name, value)
    return cast("Protobuf", payload)


def _policy(policy: Mapping[str, Any]) -> PolicyDescriptor:
    return PolicyDescriptor(
        policy_id=policy["policy_id"],
        mode=policy["mode"],
        description=policy.get("description", ""),
        rules=json.dumps(policy["rules"], separators=(",", ":")),
        schema_version=policy["schema_version"],
    )


def _told(refused: str | None) -> str:
    return "accepted" if refused is None else f"refused with {refused or 'any code'}"
