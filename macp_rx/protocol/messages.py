"""What an agent says (`Message`), what the runtime accepted (`Accepted`), and which payload class belongs to which type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Generic, cast

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf
from macp.modes.decision.v1 import decision_pb2
from macp.modes.handoff.v1 import handoff_pb2
from macp.modes.multi_round.v1 import multi_round_pb2
from macp.modes.proposal.v1 import proposal_pb2
from macp.modes.quorum.v1 import quorum_pb2
from macp.modes.task.v1 import task_pb2
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope
from typing_extensions import TypeVar

from macp_rx.errors import MacpSessionError

__all__ = [
    "DECISION",
    "HANDOFF",
    "MACP_VERSION",
    "MULTI_ROUND",
    "PROPOSAL",
    "QUORUM",
    "STANDARD_MODES",
    "TASK",
    "Accepted",
    "Message",
    "message_type_of",
    "payload_type",
]

MACP_VERSION: Final = "1.0"
DECISION: Final = "macp.mode.decision.v1"
PROPOSAL: Final = "macp.mode.proposal.v1"
TASK: Final = "macp.mode.task.v1"
HANDOFF: Final = "macp.mode.handoff.v1"
QUORUM: Final = "macp.mode.quorum.v1"
MULTI_ROUND: Final = "ext.multi_round.v1"
STANDARD_MODES: Final = (DECISION, PROPOSAL, TASK, HANDOFF, QUORUM)

P_co = TypeVar("P_co", bound=Protobuf, covariant=True, default=Protobuf)
S_co = TypeVar("S_co", bound=Protobuf | bytes, covariant=True, default=Protobuf | bytes)

_COMMON: Final[Mapping[str, type[Protobuf]]] = {
    "SessionStart": core_pb2.SessionStartPayload,
    "Commitment": core_pb2.CommitmentPayload,
    "Signal": core_pb2.SignalPayload,
    "Progress": core_pb2.ProgressPayload,
}

_BY_MODE: Final[Mapping[str, Mapping[str, type[Protobuf]]]] = {
    mode: {
        descriptor.name.removesuffix("Payload"): cast("type[Protobuf]", getattr(module, descriptor.name))
        for descriptor in module.DESCRIPTOR.message_types_by_name.values()
    }
    for mode, module in (
        (DECISION, decision_pb2),
        (PROPOSAL, proposal_pb2),
        (TASK, task_pb2),
        (HANDOFF, handoff_pb2),
        (QUORUM, quorum_pb2),
        (MULTI_ROUND, multi_round_pb2),
    )
}


# one look per envelope: with a table per mode, decoding cost a fifth more
_BY_KIND: Final[Mapping[tuple[str, str], type[Protobuf]]] = {
    (mode, message_type): cls for mode, own in _BY_MODE.items() for message_type, cls in {**own, **_COMMON}.items()
}


def payload_type(mode: str, message_type: str) -> type[Protobuf] | None:
    """The payload class of a message type in a mode, or None where MACP defines none (extension modes)."""
    return _BY_KIND.get((mode, message_type)) or _COMMON.get(message_type)


def message_type_of(payload: Protobuf | type[Protobuf]) -> str:
    """The message type that a payload class carries: ``VotePayload`` -> ``Vote``."""
    return payload.DESCRIPTOR.name.removesuffix("Payload")


@dataclass(frozen=True, slots=True)
class Message(Generic[S_co]):
    """Something to say: a value, nothing is sent by making it.

    Versions, ids and time are filled in where it is sent.

    Attributes:
        mode: mode identifier, such as ``macp.mode.decision.v1``; blank for what every mode has, such as a Commitment.
        payload: protobuf payload; its class decides the message type. In an extension mode it may be bytes.
        message_type: message type on the wire, such as ``Vote``; to be named where the payload is bytes.
    """

    mode: str
    payload: S_co
    message_type: str = ""

    def __post_init__(self) -> None:
        if not self.message_type:
            if isinstance(self.payload, bytes):
                raise MacpSessionError(
                    "bytes do not say which message_type they are: Message(mode, payload, message_type)"
                )
            object.__setattr__(self, "message_type", message_type_of(self.payload))

    @property
    def payload_bytes(self) -> bytes:
        """The payload as it goes out: the same bytes for the same payload, also where it holds a map."""
        payload = self.payload
        return payload if isinstance(payload, bytes) else payload.SerializeToString(deterministic=True)


_REPEATED: Final = frozenset({"mode_version", "configuration_version", "policy_version", "commitment_id"})
"""Fields that tell a reader nothing: the same in all of a session, or an id that nobody chose."""


class Accepted(Generic[P_co]):
    """Something that was said, and that the runtime accepted.

    Attributes:
        sequence: 1-based position in the session's accepted history; the SessionStart is 1 (RFC-MACP-0006, 3.2).
        envelope: the wire's own message, as received.
        kind: mode and message type, which decide the payload's class.
        live: it came after the stream had caught up; False for what was accepted before somebody listened, and for what a stream
            catches up on after it was lost.
    """

    # Not a dataclass: one is made per envelope, and a frozen dataclass's __init__ costs three times this one.
    __slots__ = ("_payload", "envelope", "kind", "live", "sequence")

    def __init__(
        self, sequence: int, envelope: Envelope, kind: tuple[str, str] | None = None, live: bool = False
    ) -> None:
        self.sequence: int = sequence
        self.envelope: Envelope = envelope
        self.live: bool = live
        self._payload: Protobuf | None = None
        # kept: each string read from a message costs 60 ns
        self.kind: tuple[str, str] = kind or (envelope.mode, envelope.message_type)

    @property
    def payload(self) -> P_co:
        """The payload, decoded on first use.

        Raises:
            MacpSessionError: MACP defines no payload for this type, or the bytes do not decode; ``envelope.payload``
                has them as received.
        """
        payload = self._payload
        if payload is None:
            envelope = self.envelope
            cls = _BY_KIND.get(self.kind) or _COMMON.get(envelope.message_type)
            if cls is None:
                raise MacpSessionError(
                    f"no payload class is known for {envelope.message_type!r} in mode {envelope.mode!r}; "
                    "envelope.payload has the bytes"
                )
            try:
                payload = self._payload = cls.FromString(envelope.payload)
            except DecodeError as error:
                raise MacpSessionError(
                    f"{envelope.message_type} {envelope.message_id!r} from {envelope.sender!r}: payload is no {cls.__name__}"
                ) from error
        return payload  # type: ignore[return-value]  # pyright: ignore[reportReturnType]  # cast() costs 40 ns a call

    @property
    def fields(self) -> Mapping[str, object]:
        """What the payload says, by name: the fields that are set, without those that a session's messages repeat.

        Raises:
            MacpSessionError: as `payload`.
        """
        set_fields = self.payload.ListFields()
        return {field.name: value for field, value in set_fields if field.name not in _REPEATED}

    @property
    def sender(self) -> str:
        """Who said it, as the runtime bound it."""
        return self.envelope.sender

    @property
    def message_type(self) -> str:
        """Message type, such as ``Vote``."""
        return self.envelope.message_type

    @property
    def message_id(self) -> str:
        """The message's id, unique in its session."""
        return self.envelope.message_id

    @property
    def mode(self) -> str:
        """Mode of the session it belongs to."""
        return self.envelope.mode

    @property
    def session_id(self) -> str:
        """Session it belongs to."""
        return self.envelope.session_id

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Accepted):
            return NotImplemented
        return self.sequence == other.sequence and self.envelope == other.envelope

    def __hash__(self) -> int:
        return hash((self.sequence, self.envelope.session_id, self.envelope.message_id))

    def __repr__(self) -> str:
        return f"Accepted({self.sequence}, {self.message_type} from {self.sender})"

    def __str__(self) -> str:
        """It as a line to read: ``3 alice Vote: proposal_id='p1', vote='APPROVE'``, without what a session's messages repeat."""
        return f"{self.sequence} {self.sender} {self.message_type}: {self._said()}"

    def _said(self) -> str:
        try:
            return ", ".join(f"{name}={value!r}" for name, value in self.fields.items())
        except MacpSessionError:
            return f"{len(self.envelope.payload)} bytes"
