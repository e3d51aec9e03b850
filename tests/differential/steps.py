"""What a scenario does, step by step: every step is bytes that go to both runtimes, and says itself in words."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf import text_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from macp.modes.decision.v1 import decision_pb2
from macp.modes.handoff.v1 import handoff_pb2
from macp.modes.multi_round.v1 import multi_round_pb2
from macp.modes.proposal.v1 import proposal_pb2
from macp.modes.quorum.v1 import quorum_pb2
from macp.modes.task.v1 import task_pb2
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope

__all__ = [
    "METHODS",
    "PAYLOADS",
    "Call",
    "Close",
    "Frame",
    "Metadata",
    "Open",
    "Pause",
    "Scenario",
    "Step",
    "bearer",
    "page_token",
    "path",
    "payload_class",
    "request_class",
    "response_class",
]

Metadata = tuple[tuple[str, str], ...]

METHODS: dict[str, MethodDescriptor] = dict(core_pb2.DESCRIPTOR.services_by_name["MACPRuntimeService"].methods_by_name)

PAYLOADS = {
    "macp.mode.decision.v1": decision_pb2,
    "macp.mode.proposal.v1": proposal_pb2,
    "macp.mode.task.v1": task_pb2,
    "macp.mode.handoff.v1": handoff_pb2,
    "macp.mode.quorum.v1": quorum_pb2,
    "ext.multi_round.v1": multi_round_pb2,
}
"""Mode -> the module of its payloads."""


def bearer(agent: str) -> Metadata:
    """A development credential."""
    return (("authorization", f"Bearer {agent}"),)


def path(method: str) -> str:
    """Where gRPC finds an RPC."""
    return f"/macp.v1.MACPRuntimeService/{method}"


def page_token(cursor: str) -> str:
    """The page token that continues after a session id."""
    return base64.urlsafe_b64encode(f"v1:{cursor}".encode()).decode().rstrip("=")


def request_class(method: str) -> type[Message]:
    """The class of an RPC's request."""
    return GetMessageClass(METHODS[method].input_type)


def response_class(method: str) -> type[Message]:
    """The class of an RPC's response."""
    return GetMessageClass(METHODS[method].output_type)


def payload_class(mode: str, message_type: str) -> type[Message] | None:
    """The class of a payload; None where the protocol has none."""
    name = f"{message_type}Payload"
    return getattr(PAYLOADS.get(mode), name, None) or getattr(core_pb2, name, None)


@dataclass(frozen=True, slots=True)
class Call:
    """A unary RPC.

    Attributes:
        method: its name.
        metadata: who asks.
        request: the bytes.
    """

    method: str
    metadata: Metadata
    request: bytes

    def __str__(self) -> str:
        return f"{self.method} {_who(self.metadata)} {_words(request_class(self.method), self.request)}"


@dataclass(frozen=True, slots=True)
class Open:
    """Opens a StreamSession call, which later steps name by ``stream``."""

    stream: int
    metadata: Metadata

    def __str__(self) -> str:
        return f"opens stream {self.stream} {_who(self.metadata)}"


@dataclass(frozen=True, slots=True)
class Frame:
    """Writes a frame and reads what answers it."""

    stream: int
    request: bytes

    def __str__(self) -> str:
        return f"on stream {self.stream} {_words(core_pb2.StreamSessionRequest, self.request)}"


@dataclass(frozen=True, slots=True)
class Close:
    """Half-closes a stream and reads it to its end."""

    stream: int

    def __str__(self) -> str:
        return f"half-closes stream {self.stream}"


@dataclass(frozen=True, slots=True)
class Pause:
    """Lets a deadline of a few milliseconds pass on both runtimes, whose clocks nobody else can move."""

    seconds: float

    def __str__(self) -> str:
        return f"waits {self.seconds} s"


Step = Call | Open | Frame | Close | Pause


@dataclass(frozen=True, slots=True)
class Scenario:
    """One random session and all that surrounds it.

    Attributes:
        seed: what it was made from, ``mode:number``; the same seed makes the same bytes.
        steps: what happens, in order.
        session_ids: the ids that it may have started sessions with.
        agents: who speaks in it, and in no other scenario.
        names: the policies and modes that are its own.
    """

    seed: str
    steps: tuple[Step, ...]
    session_ids: frozenset[str]
    agents: frozenset[str]
    names: frozenset[str]


def _who(metadata: Metadata) -> str:
    if not metadata:
        return "without a credential"
    (key, value), *more = metadata
    who = f"as {value.removeprefix('Bearer ')!r}" if key == "authorization" else f"with {key}: {value!r}"
    return f"{who} and {more}" if more else who


def _words(cls: type[Message], request: bytes) -> str:
    try:
        message = cls.FromString(request)
    except DecodeError:
        return f"bytes that do not parse: {_shortened(request.hex())}"
    return " ".join(_fields(message)) or "(empty)"


def _fields(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if isinstance(value, Envelope):
            yield from _envelope(value)
        else:
            yield f"{field.name}={_shortened(_text(value))}"


def _text(value: object) -> str:
    if isinstance(value, Message):
        return "{" + text_format.MessageToString(value, as_one_line=True, as_utf8=True) + "}"
    return repr(value)


def _envelope(envelope: Envelope) -> Iterator[str]:
    bare = Envelope()
    bare.CopyFrom(envelope)
    bare.ClearField("payload")
    yield "{" + _shortened(text_format.MessageToString(bare, as_one_line=True, as_utf8=True)) + "}"
    cls = payload_class(envelope.mode, envelope.message_type)
    try:
        decoded = _text(cls.FromString(envelope.payload)) if cls else "?"
    except DecodeError:
        decoded = "does not decode"
    yield f"payload {_shortened(decoded)} (hex {_shortened(envelope.payload.hex())})"


def _shortened(text: str) -> str:
    return text if len(text) <= 600 else f"{text[:300]}… ({len(text)} characters) …{text[-100:]}"
