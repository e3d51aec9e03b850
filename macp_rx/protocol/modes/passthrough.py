"""Modes that somebody registered: the runtime passes their messages through and knows nothing of them (`protocol.md` 4.8)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from macp.v1.core_pb2 import ModeDescriptor
from macp.v1.envelope_pb2 import Envelope

from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.commitment import decode_commitment
from macp_rx.protocol.modes.projection import Projection
from macp_rx.protocol.modes.rules import initiator_commits
from macp_rx.protocol.refusals import invalid
from macp_rx.protocol.strict_json import as_json_text

__all__ = ["Passthrough", "Phase", "State"]


class Phase(StrEnum):
    """All that a runtime can say of a mode that it knows nothing of."""

    OPEN = "Open"
    COMMITTED = "Committed"


@dataclass(frozen=True, slots=True)
class State(Projection):
    """What was accepted in a session of a registered mode.

    Attributes:
        last: the last payload before the commitment, as received.
    """

    last: bytes = b""

    @property
    def phase(self) -> Phase:
        """How far it has come."""
        return Phase.COMMITTED if self.is_committed else Phase.OPEN


class Passthrough:
    """A mode by its descriptor alone; the same shape as the modules beside this one.

    Args:
        descriptor: what was registered.
    """

    def __init__(self, descriptor: ModeDescriptor) -> None:
        self.MODE: str = descriptor.mode
        self.TITLE: str = descriptor.title
        self.DESCRIPTION: str = descriptor.description
        self.DETERMINISM_CLASS: str = descriptor.determinism_class
        self.PARTICIPANT_MODEL: str = descriptor.participant_model
        self.MESSAGE_TYPES: tuple[str, ...] = tuple(descriptor.message_types)

    def initial(self, session: Binding) -> State:
        """The state at the start; any roster will do."""
        return State()

    def authorize(self, session: Binding, sender: str, message_type: str) -> None:
        """Participants speak, or anybody where there are none; the initiator commits."""
        initiator_commits(session, sender, message_type)

    def step(self, session: Binding, state: State, envelope: Envelope, at: Instant) -> State:
        """The state after one more message of an authorized sender. Raises INVALID_ENVELOPE for an undeclared type."""
        if envelope.message_type not in self.MESSAGE_TYPES:
            raise invalid(f"mode {self.MODE!r} has no {envelope.message_type!r}")
        if envelope.message_type != "Commitment":
            return State(envelope.payload)
        return replace(state, commitment=decode_commitment(session, envelope.payload))

    def resolution(self, state: State) -> bytes:
        """What a resolved session came to, as the reference runtime stores it."""
        assert state.commitment is not None
        what = {"action": state.commitment.action, "commitment_id": state.commitment.commitment_id}
        return as_json_text(what).encode()

    def as_json(self, state: State) -> dict[str, object]:
        """Nothing: the reference runtime keeps the last payload itself."""
        return {}
