"""Handoff mode: offers, context, acceptance (RFC-MACP-0010, `protocol.md` 4.5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from macp.modes.handoff.v1.handoff_pb2 import (
    HandoffAcceptPayload,
    HandoffContextPayload,
    HandoffDeclinePayload,
    HandoffOfferPayload,
)
from macp.v1.envelope_pb2 import Envelope

from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.commitment import commit, decode_commitment
from macp_rx.protocol.link import Link
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import HANDOFF, MACP_VERSION, Message
from macp_rx.protocol.modes import rules
from macp_rx.protocol.modes.projection import Projection
from macp_rx.protocol.refusals import decoded, forbidden, invalid
from macp_rx.protocol.validation import validate_required_field

__all__ = [
    "RESERVED",
    "HandoffAcceptPayload",
    "HandoffContextPayload",
    "HandoffDeclinePayload",
    "HandoffOfferPayload",
    "Offer",
    "Phase",
    "State",
    "accept_handoff",
    "add_context",
    "as_json",
    "authorize",
    "check_client",
    "commit",
    "decline",
    "implicit_accept",
    "implicit_accept_at",
    "initial",
    "is_implicit",
    "offer",
    "step",
]

MODE: Final = HANDOFF
TITLE: Final = "Handoff"
DESCRIPTION: Final = "A responsibility is offered with its context, and accepted or declined"
DETERMINISM_CLASS: Final = "context-frozen"
PARTICIPANT_MODEL: Final = "delegated"
MESSAGE_TYPES: Final = ("HandoffOffer", "HandoffContext", "HandoffAccept", "HandoffDecline")
RESERVED: Final = "implicit-accept:"
"""Message ids of this form are the runtime's own."""


# Messages: values, nothing is sent by making one.


def offer(
    handoff_id: str, target_participant: str, *, scope: str = "", reason: str = ""
) -> Message[HandoffOfferPayload]:
    """Offers to hand something over to a participant.

    Args:
        handoff_id: its id, unique in the session.
        target_participant: to whom.
        scope: what is handed over.
        reason: why.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("handoff_id", handoff_id)
    validate_required_field("target_participant", target_participant)
    payload = HandoffOfferPayload(
        handoff_id=handoff_id, target_participant=target_participant, scope=scope, reason=reason
    )
    return Message(MODE, payload)


def add_context(
    handoff_id: str, *, content_type: str = "application/octet-stream", context: bytes = b""
) -> Message[HandoffContextPayload]:
    """Adds what the other needs to know; also after it has answered.

    Args:
        handoff_id: which offer.
        content_type: the media type of ``context``.
        context: what there is to know.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("handoff_id", handoff_id)
    return Message(MODE, HandoffContextPayload(handoff_id=handoff_id, content_type=content_type, context=context))


def accept_handoff(handoff_id: str, *, accepted_by: str = "", reason: str = "") -> Message[HandoffAcceptPayload]:
    """Accepts an offer made to the sender.

    Args:
        handoff_id: which offer.
        accepted_by: who accepts; the sender, also if blank.
        reason: why.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("handoff_id", handoff_id)
    return Message(MODE, HandoffAcceptPayload(handoff_id=handoff_id, accepted_by=accepted_by, reason=reason))


def decline(handoff_id: str, *, declined_by: str = "", reason: str = "") -> Message[HandoffDeclinePayload]:
    """Declines an offer made to the sender, for good.

    Args:
        handoff_id: which offer.
        declined_by: who declines; the sender, also if blank.
        reason: why.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("handoff_id", handoff_id)
    return Message(MODE, HandoffDeclinePayload(handoff_id=handoff_id, declined_by=declined_by, reason=reason))


# State.


class Phase(StrEnum):
    """How the latest offer stands, until the commitment."""

    PENDING = "Pending"
    OFFER_PENDING = "OfferPending"
    CONTEXT_SHARING = "ContextSharing"
    ACCEPTED = "Accepted"
    DECLINED = "Declined"
    COMMITTED = "Committed"


@dataclass(frozen=True, slots=True)
class Offer:
    """One offer.

    Attributes:
        payload: what is offered, to whom.
        offered_by: by whom.
        offered_at: when, Unix milliseconds of the runtime's clock.
        suspended_ms: for how long the session had been suspended by then; a pause does not count towards the timeout.
        disposition: ``Offered``, ``Accepted`` or ``Declined``; it settles once.
        settled_by: who accepted or declined.
        outcome_reason: why.
        implicit: nobody answered in time, so the policy accepted.
    """

    payload: HandoffOfferPayload
    offered_by: str
    offered_at: int = 0
    suspended_ms: int = 0
    disposition: str = "Offered"
    settled_by: str | None = None
    outcome_reason: str | None = None
    implicit: bool = False


@dataclass(frozen=True, slots=True)
class State(Projection):
    """What was accepted in a handoff session.

    An offer is made only when all before it were declined. So whether one waits, or was accepted, the latest tells.

    Attributes:
        handoffs: handoff id -> offer.
        contexts: handoff id -> (sender, context), as a list that shares structure.
        latest: the id of the offer made last.
        declined: who has declined one.
    """

    handoffs: Map[str, Offer] = field(default_factory=Map[str, Offer])
    contexts: Map[str, Link[tuple[str, HandoffContextPayload]]] = field(
        default_factory=Map[str, Link[tuple[str, HandoffContextPayload]]]
    )
    latest: str = ""
    declined: Map[str, None] = field(default_factory=Map[str, None])

    @property
    def phase(self) -> Phase:
        """How far it has come."""
        if self.is_committed:
            return Phase.COMMITTED
        latest = self.handoffs.get(self.latest)
        if latest is None:
            return Phase.PENDING
        if latest.disposition != "Offered":
            return Phase(latest.disposition)
        return Phase.CONTEXT_SHARING if self.latest in self.contexts else Phase.OFFER_PENDING

    @property
    def active_offer(self) -> Offer | None:
        """The offer that waits for an answer; there is one at most."""
        latest = self.handoffs.get(self.latest)
        return latest if latest is not None and latest.disposition == "Offered" else None

    @property
    def has_accepted_offer(self) -> bool:
        """Whether some offer was accepted."""
        return self.is_accepted(self.latest)

    @property
    def declined_targets(self) -> tuple[str, ...]:
        """Who has declined, by name; they cannot be offered to again."""
        return tuple(sorted(self.declined))

    def is_accepted(self, handoff_id: str) -> bool:
        """Whether this offer was accepted."""
        one = self.handoffs.get(handoff_id)
        return one is not None and one.disposition == "Accepted"

    def is_implicitly_accepted(self, handoff_id: str) -> bool:
        """Whether this offer was accepted because nobody answered."""
        one = self.handoffs.get(handoff_id)
        return one is not None and one.implicit

    def is_declined(self, handoff_id: str) -> bool:
        """Whether this offer was declined."""
        one = self.handoffs.get(handoff_id)
        return one is not None and one.disposition == "Declined"

    def can_offer_to(self, target: str) -> bool:
        """Whether an offer to ``target`` is possible now."""
        return self.active_offer is None and not self.has_accepted_offer and target not in self.declined


def as_json(state: State) -> dict[str, object]:
    """The state as the reference runtime keeps it."""
    return {
        "offers": {
            handoff_id: {
                "handoff_id": handoff_id,
                "target_participant": one.payload.target_participant,
                "scope": one.payload.scope,
                "reason": one.payload.reason,
                "offered_by": one.offered_by,
                "disposition": one.disposition,
                "accepted_by": one.settled_by if one.disposition == "Accepted" else None,
                "declined_by": one.settled_by if one.disposition == "Declined" else None,
                "outcome_reason": one.outcome_reason,
                "offered_at_ms": one.offered_at,
                "suspended_ms_at_offer": one.suspended_ms,
            }
            for handoff_id, one in sorted(state.handoffs.items())
        },
        "contexts": {
            handoff_id: [
                {"content_type": context.content_type, "context": list(context.context), "sender": sender}
                for sender, context in contexts
            ]
            for handoff_id, contexts in sorted(state.contexts.items())
        },
    }


# Rules.


def initial(session: Binding) -> State:
    """The state at the start; there must be two participants, the initiator among them."""
    if len(session.participants) < 2 or session.initiator not in session.participants:
        raise invalid("a handoff needs two participants, and the initiator must be one")
    return State()


def authorize(session: Binding, sender: str, message_type: str) -> None:
    """The initiator offers, participants answer, whoever has authority commits."""
    rules.authorize(session, sender, message_type, initiator_only="HandoffOffer")


def step(session: Binding, state: State, envelope: Envelope, at: Instant) -> State:
    """The state after one more message of an authorized sender. Raises MacpRefusedError for what it breaks."""
    match envelope.message_type:
        case "HandoffOffer":
            return _offer(session, state, envelope, at)
        case "HandoffContext":
            return _context(state, envelope)
        case "HandoffAccept":
            accepted = decoded(envelope.payload, HandoffAcceptPayload)
            return _settle(
                state,
                envelope,
                accepted.handoff_id,
                accepted.accepted_by,
                "Accepted",
                accepted.reason,
                implicit=accepted.implicit,
            )
        case "HandoffDecline":
            declined = decoded(envelope.payload, HandoffDeclinePayload)
            return _settle(state, envelope, declined.handoff_id, declined.declined_by, "Declined", declined.reason)
        case "Commitment":
            commitment = decode_commitment(session, envelope.payload)
            if not state.declined and not state.has_accepted_offer:
                raise invalid("no offer was accepted or declined")
            return replace(state, commitment=commitment)
        case other:
            raise invalid(f"handoff mode has no {other!r}")


def _offer(session: Binding, state: State, envelope: Envelope, at: Instant) -> State:
    offered = decoded(envelope.payload, HandoffOfferPayload)
    target = offered.target_participant
    if not offered.handoff_id or not target:
        raise invalid("handoff_id and target_participant must not be empty")
    if offered.handoff_id in state.handoffs:
        raise invalid(f"handoff {offered.handoff_id!r} exists already")
    if target not in session.participants or target == envelope.sender:
        raise invalid(f"{target!r} is not another participant")
    if not state.can_offer_to(target):
        raise invalid(f"another offer is open or accepted, or {target!r} has declined before")
    made = Offer(offered, envelope.sender, at.now, at.suspended_ms)
    return replace(state, handoffs=state.handoffs.set(offered.handoff_id, made), latest=offered.handoff_id)


def _context(state: State, envelope: Envelope) -> State:
    context = decoded(envelope.payload, HandoffContextPayload)
    one = _known(state, context.handoff_id)
    if envelope.sender != one.offered_by:
        raise forbidden("only who offers adds context")
    contexts = Link((envelope.sender, context), state.contexts.get(context.handoff_id))
    return replace(state, contexts=state.contexts.set(context.handoff_id, contexts))


def _settle(
    state: State,
    envelope: Envelope,
    handoff_id: str,
    named: str,
    disposition: str,
    reason: str,
    *,
    implicit: bool = False,
) -> State:
    one = _known(state, handoff_id)
    if envelope.sender != one.payload.target_participant:
        raise forbidden("only who was offered to answers")
    if named not in ("", envelope.sender):
        raise invalid(f"{envelope.sender!r} cannot answer in the name of {named!r}")
    if one.disposition != "Offered":
        raise invalid(f"the offer is {one.disposition} already")
    settled = replace(
        one, disposition=disposition, settled_by=envelope.sender, outcome_reason=reason, implicit=implicit
    )
    declined = state.declined.set(envelope.sender, None) if disposition == "Declined" else state.declined
    return replace(state, handoffs=state.handoffs.set(handoff_id, settled), declined=declined)


def _known(state: State, handoff_id: str) -> Offer:
    one = state.handoffs.get(handoff_id)
    if one is None:
        raise invalid(f"there is no offer {handoff_id!r}")
    return one


# The implicit accept: what a policy lets happen when nobody answers (`protocol.md` 4.5).


def check_client(envelope: Envelope) -> None:
    """Raises INVALID_ENVELOPE for what only the runtime says: its own message ids, and an implicit accept."""
    if envelope.message_id.startswith(RESERVED):
        raise invalid(f"message ids that begin with {RESERVED!r} are the runtime's own")
    if envelope.message_type == "HandoffAccept" and decoded(envelope.payload, HandoffAcceptPayload).implicit:
        raise invalid("only the runtime accepts implicitly")


def is_implicit(envelope: Envelope) -> bool:
    """Whether the runtime itself has said this, for somebody who did not answer in time."""
    return envelope.message_id.startswith(RESERVED) and envelope.mode == MODE


def implicit_accept_at(session: Binding, state: State, pauses: Iterable[tuple[int, int]]) -> int | None:
    """When the offer that waits for an answer is accepted by itself, Unix milliseconds; None if it never is.

    Args:
        session: what the session is bound to.
        state: what was accepted.
        pauses: (from, to) of each completed suspension, in order; they stretch the time to answer.
    """
    timeout = session.policy.rules.acceptance.implicit_accept_timeout_ms
    waiting = state.active_offer
    if not timeout or waiting is None:
        return None
    at, left = waiting.offered_at, timeout
    for begin, end in pauses:
        if begin >= waiting.offered_at:
            ran = max(0, begin - at)
            if ran >= left:
                break
            left -= ran
            at = max(at, begin, end)
    return at + left


def implicit_accept(session: Binding, state: State, at: Instant, pauses: Iterable[tuple[int, int]]) -> Envelope | None:
    """The acceptance that the runtime says for whoever was offered to, if it is due; None if not.

    Its time is the deadline, not when somebody looked, so that it is the same whoever finds it.
    """
    waiting = state.active_offer
    deadline = implicit_accept_at(session, state, pauses)
    if waiting is None or deadline is None:
        return None
    elapsed = at.now - waiting.offered_at - (at.suspended_ms - waiting.suspended_ms)
    if elapsed < session.policy.rules.acceptance.implicit_accept_timeout_ms:
        return None
    offered = waiting.payload
    accepted = HandoffAcceptPayload(
        handoff_id=offered.handoff_id,
        accepted_by=offered.target_participant,
        reason="implicit accept (timeout)",
        implicit=True,
    )
    return Envelope(
        macp_version=MACP_VERSION,
        mode=MODE,
        message_type="HandoffAccept",
        message_id=f"{RESERVED}{offered.handoff_id}",
        session_id=session.session_id,
        sender=offered.target_participant,
        timestamp_unix_ms=deadline,
        payload=accepted.SerializeToString(),
    )
