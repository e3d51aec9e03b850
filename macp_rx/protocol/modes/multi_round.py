"""Multi-round convergence, ``ext.multi_round.v1``: everybody contributes until all say the same (`protocol.md` 4.7)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, cast

from google.protobuf.message import DecodeError
from macp.modes.multi_round.v1.multi_round_pb2 import ContributePayload
from macp.v1.envelope_pb2 import Envelope

from macp_rx.errors import MacpSessionError
from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.commitment import commit, decode_commitment
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import MULTI_ROUND, Message
from macp_rx.protocol.modes.projection import Projection
from macp_rx.protocol.modes.rules import initiator_commits, need_roster
from macp_rx.protocol.refusals import invalid
from macp_rx.protocol.strict_json import as_json_text, refuse_constant
from macp_rx.protocol.wire import parse

__all__ = [
    "ContributePayload",
    "Phase",
    "State",
    "as_json",
    "authorize",
    "commit",
    "contribute",
    "initial",
    "resolution",
    "step",
]

MODE: Final = MULTI_ROUND
TITLE: Final = "Multi-round"
DESCRIPTION: Final = "Everybody contributes a value, round by round, until all agree"
DETERMINISM_CLASS: Final = "semantic-deterministic"
PARTICIPANT_MODEL: Final = "peer"
MESSAGE_TYPES: Final = ("Contribute",)


def contribute(value: str) -> Message[ContributePayload]:
    """Says what one's value is now. An empty one has no bytes on the wire, which the protocol refuses.

    Args:
        value: what one says now; not empty.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    if not value:
        raise MacpSessionError("value must not be empty")
    return Message(MODE, ContributePayload(value=value))


class Phase(StrEnum):
    """How far the rounds have come."""

    CONTRIBUTING = "Contributing"
    CONVERGED = "Converged"
    COMMITTED = "Committed"


@dataclass(frozen=True, slots=True)
class State(Projection):
    """What was accepted in a multi-round session.

    Attributes:
        participants: who must agree.
        round: how many new or changed values there were.
        contributions: participant -> its latest value.
        converged: everybody has a value, and all are equal; then nothing more is contributed.
    """

    participants: tuple[str, ...]
    round: int = 0
    contributions: Map[str, str] = field(default_factory=Map[str, str])
    converged: bool = False

    @property
    def phase(self) -> Phase:
        """How far it has come."""
        if self.is_committed:
            return Phase.COMMITTED
        return Phase.CONVERGED if self.converged else Phase.CONTRIBUTING


def as_json(state: State) -> dict[str, object]:
    """The state as the reference runtime keeps it."""
    return {
        "round": state.round,
        "participants": list(state.participants),
        "contributions": dict(sorted(state.contributions.items())),
        "convergence_type": "all_equal",
        "converged": state.converged,
    }


def initial(session: Binding) -> State:
    """The state at the start; refuses an empty roster."""
    need_roster(session)
    return State(session.participants)


def authorize(session: Binding, sender: str, message_type: str) -> None:
    """Participants contribute; the initiator commits, whatever the policy says of authority."""
    initiator_commits(session, sender, message_type)


def step(session: Binding, state: State, envelope: Envelope, at: Instant) -> State:
    """The state after one more message of an authorized sender. Raises MacpRefusedError for what it breaks."""
    match envelope.message_type:
        case "Contribute":
            return _contribute(state, envelope)
        case "Commitment":
            if not state.converged:
                raise invalid("the participants have not converged")
            return replace(state, commitment=decode_commitment(session, envelope.payload))
        case other:
            raise invalid(f"multi-round mode has no {other!r}")


def resolution(state: State) -> bytes:
    """What a resolved session came to, as the reference runtime stores it."""
    final = as_json_text(dict(state.contributions))
    agreed = as_json_text(state.contributions[state.participants[0]])
    return f'{{"converged_value":{agreed},"round":{state.round},"final":{final}}}'.encode()


def _contribute(state: State, envelope: Envelope) -> State:
    if state.converged:
        raise invalid("convergence is final")
    value = _value(envelope.payload)
    if state.contributions.get(envelope.sender) == value:
        return state
    contributions = state.contributions.set(envelope.sender, value)
    converged = len(set(contributions.values())) == 1 and all(name in contributions for name in state.participants)
    return replace(state, round=state.round + 1, contributions=contributions, converged=converged)


def _value(payload: bytes) -> str:
    """A contribution is protobuf, or a JSON object with a string ``value``; bytes that are both are protobuf."""
    if not payload:
        raise invalid("a contribution needs a payload")
    try:
        message: ContributePayload | None = parse(ContributePayload, payload)
    except DecodeError:
        message = None
    canonical = message is not None and message.SerializeToString() == payload
    said = _json_value(payload)
    if said is not None and not canonical:
        return said
    if message is None:
        raise invalid("the payload is no ContributePayload")
    return message.value


def _json_value(payload: bytes) -> str | None:
    """The value of a JSON object's one member ``value``, or a list's one item: how the reference runtime reads a struct."""
    try:
        said: object = json.loads(payload.decode(), object_pairs_hook=tuple, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        return None
    if isinstance(said, tuple):
        values = [value for name, value in cast("tuple[tuple[str, object], ...]", said) if name == "value"]
    else:
        values = cast("list[object]", said) if isinstance(said, list) else []
    return values[0] if len(values) == 1 and isinstance(values[0], str) and _is_unicode(values[0]) else None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
