"""Quorum mode: one request, ballots, one commitment (RFC-MACP-0011, `protocol.md` 4.6)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from macp.modes.quorum.v1.quorum_pb2 import AbstainPayload, ApprovalRequestPayload, ApprovePayload, RejectPayload
from macp.v1.envelope_pb2 import Envelope

from macp_rx.errors import Denial, MacpSessionError
from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.commitment import commit, decode_commitment
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import QUORUM, Message
from macp_rx.protocol.modes import rules
from macp_rx.protocol.modes.projection import Projection
from macp_rx.protocol.modes.rules import need_roster
from macp_rx.protocol.policy import Policy, QuorumThreshold, permit
from macp_rx.protocol.refusals import decoded, invalid
from macp_rx.protocol.validation import validate_required_field

__all__ = [
    "AbstainPayload",
    "ApprovalRequestPayload",
    "ApprovePayload",
    "Ballot",
    "Phase",
    "RejectPayload",
    "State",
    "abstain",
    "approve",
    "as_json",
    "authorize",
    "commit",
    "denials",
    "effective_threshold",
    "initial",
    "reject",
    "request_approval",
    "step",
]

MODE: Final = QUORUM
TITLE: Final = "Quorum"
DESCRIPTION: Final = "A request is approved by so many participants, or can no longer be"
DETERMINISM_CLASS: Final = "semantic-deterministic"
PARTICIPANT_MODEL: Final = "quorum"
MESSAGE_TYPES: Final = ("ApprovalRequest", "Approve", "Reject", "Abstain")


# Messages: values, nothing is sent by making one.


def request_approval(
    request_id: str, action: str, *, required_approvals: int, summary: str = "", details: bytes = b""
) -> Message[ApprovalRequestPayload]:
    """Asks for approval by so many participants.

    Args:
        request_id: its id.
        action: what is to be approved.
        required_approvals: how many are enough, 1 to the number of participants; a policy may say otherwise.
        summary: what it comes to.
        details: anything.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("request_id", request_id)
    if required_approvals < 1:
        raise MacpSessionError(f"required_approvals is {required_approvals}; at least one is needed")
    payload = ApprovalRequestPayload(
        request_id=request_id, action=action, summary=summary, details=details, required_approvals=required_approvals
    )
    return Message(MODE, payload)


def approve(request_id: str, *, reason: str = "") -> Message[ApprovePayload]:
    """Approves, once and for all.

    Args:
        request_id: which request.
        reason: why.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("request_id", request_id)
    return Message(MODE, ApprovePayload(request_id=request_id, reason=reason))


def reject(request_id: str, *, reason: str = "") -> Message[RejectPayload]:
    """Rejects, once and for all.

    Args:
        request_id: which request.
        reason: why.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("request_id", request_id)
    return Message(MODE, RejectPayload(request_id=request_id, reason=reason))


def abstain(request_id: str, *, reason: str = "") -> Message[AbstainPayload]:
    """Abstains, which uses up the ballot.

    Args:
        request_id: which request.
        reason: why.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("request_id", request_id)
    return Message(MODE, AbstainPayload(request_id=request_id, reason=reason))


# State.


class Phase(StrEnum):
    """How far a request for approval has come."""

    PENDING = "Pending"
    VOTING = "Voting"
    COMMITTED = "Committed"


@dataclass(frozen=True, slots=True)
class Ballot:
    """One participant's ballot.

    Attributes:
        choice: ``Approve``, ``Reject`` or ``Abstain``.
        reason: why.
    """

    choice: str
    reason: str


@dataclass(frozen=True, slots=True)
class State(Projection):
    """What was accepted in a quorum session.

    Attributes:
        participants: who may cast a ballot.
        request: what approval is asked for; one per session.
        requested_by: by whom.
        ballots: sender -> ballot; the first stands.
        threshold: how many approvals are enough: what the policy says, else what was asked for; 0 before the request.
    """

    participants: tuple[str, ...]
    request: ApprovalRequestPayload | None = None
    requested_by: str = ""
    ballots: Map[str, Ballot] = field(default_factory=Map[str, Ballot])
    threshold: int = 0

    @property
    def phase(self) -> Phase:
        """How far it has come."""
        if self.is_committed:
            return Phase.COMMITTED
        return Phase.PENDING if self.request is None else Phase.VOTING

    @property
    def approval_count(self) -> int:
        """How many approve."""
        return self._count("Approve")

    @property
    def rejection_count(self) -> int:
        """How many reject."""
        return self._count("Reject")

    @property
    def abstention_count(self) -> int:
        """How many abstain."""
        return self._count("Abstain")

    @property
    def has_quorum(self) -> bool:
        """Whether enough have approved."""
        return self.request is not None and self.approval_count >= self.threshold

    @property
    def is_threshold_unreachable(self) -> bool:
        """Whether the ballots that are missing can no longer make it enough."""
        missing = len(self.participants) - len(self.ballots)
        return self.request is not None and self.approval_count + missing < self.threshold

    @property
    def commitment_ready(self) -> bool:
        """Whether a commitment is possible: enough have approved, or no longer can, and there is none yet."""
        return not self.is_committed and (self.has_quorum or self.is_threshold_unreachable)

    @property
    def remaining_votes_needed(self) -> int:
        """How many more approvals are needed."""
        return max(0, self.threshold - self.approval_count)

    @property
    def voted_senders(self) -> tuple[str, ...]:
        """Who has cast a ballot, by name."""
        return tuple(sorted(self.ballots))

    def _count(self, choice: str) -> int:
        return sum(1 for ballot in self.ballots.values() if ballot.choice == choice)


def as_json(state: State) -> dict[str, object]:
    """The state as the reference runtime keeps it."""
    request = state.request
    return {
        "request": None
        if request is None
        else {
            "request_id": request.request_id,
            "action": request.action,
            "summary": request.summary,
            "details": list(request.details),
            "required_approvals": request.required_approvals,
            "requested_by": state.requested_by,
        },
        "ballots": {
            sender: {
                "request_id": request.request_id if request else "",
                "choice": ballot.choice,
                "sender": sender,
                "reason": ballot.reason,
            }
            for sender, ballot in sorted(state.ballots.items())
        },
    }


# Rules.


def initial(session: Binding) -> State:
    """The state at the start; refuses an empty roster."""
    need_roster(session)
    return State(session.participants)


def authorize(session: Binding, sender: str, message_type: str) -> None:
    """The initiator asks, participants answer, whoever has authority commits."""
    rules.authorize(session, sender, message_type, initiator_only="ApprovalRequest")


def step(session: Binding, state: State, envelope: Envelope, at: Instant) -> State:
    """The state after one more message of an authorized sender. Raises MacpRefusedError for what it breaks."""
    match envelope.message_type:
        case "ApprovalRequest":
            return _request(session, state, envelope)
        case "Approve":
            return _ballot(state, envelope, decoded(envelope.payload, ApprovePayload))
        case "Reject":
            return _ballot(state, envelope, decoded(envelope.payload, RejectPayload))
        case "Abstain":
            return _ballot(state, envelope, decoded(envelope.payload, AbstainPayload))
        case "Commitment":
            commitment = decode_commitment(session, envelope.payload)
            if not state.commitment_ready:
                raise invalid("enough have neither approved nor become unable to")
            permit(denials(session.policy, state, positive=commitment.outcome_positive))
            return replace(state, commitment=commitment)
        case other:
            raise invalid(f"quorum mode has no {other!r}")


def _request(session: Binding, state: State, envelope: Envelope) -> State:
    request = decoded(envelope.payload, ApprovalRequestPayload)
    if state.request is not None:
        raise invalid("there is a request already")
    if not request.request_id:
        raise invalid("request_id is empty")
    if not 1 <= request.required_approvals <= len(session.participants):
        raise invalid(f"required_approvals {request.required_approvals} is not in 1 to {len(session.participants)}")
    threshold = effective_threshold(
        session.policy.rules.threshold, len(session.participants), request.required_approvals
    )
    return replace(state, request=request, requested_by=envelope.sender, threshold=threshold)


def _ballot(state: State, envelope: Envelope, ballot: ApprovePayload | RejectPayload | AbstainPayload) -> State:
    if state.request is None or ballot.request_id != state.request.request_id:
        raise invalid(f"there is no request {ballot.request_id!r}")
    if envelope.sender in state.ballots:
        raise invalid(f"{envelope.sender!r} has cast a ballot already")
    cast = Ballot(envelope.message_type, ballot.reason)
    return replace(state, ballots=state.ballots.set(envelope.sender, cast))


def effective_threshold(threshold: QuorumThreshold, participants: int, required_approvals: int) -> int:
    """How many approvals are enough (`protocol.md` 5.6).

    Args:
        threshold: the policy's; without a value it is inert.
        participants: how many there are.
        required_approvals: what the request asks for.
    """
    value = threshold.value
    if value is None or value <= 0:
        return required_approvals
    if threshold.type == "percentage":
        # whole numbers: in binary fractions 28 % of 25 would be 8
        return max(1, (int(value) * participants + 99) // 100)
    return max(1, math.ceil(value))  # may exceed the roster: then the request can be declined at once


def denials(policy: Policy, state: State, *, positive: bool) -> Iterator[Denial]:
    """Why a policy denies a commitment of this sign now (`protocol.md` 5.6); nothing if it permits it."""
    if positive and policy.rules.threshold.value and not state.has_quorum:
        message = f"{state.approval_count} have approved, and the policy demands {state.threshold}"
        yield Denial("threshold_not_met", message)
