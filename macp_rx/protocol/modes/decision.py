"""Decision mode: proposals, evaluations, objections, votes, one commitment (RFC-MACP-0007, `protocol.md` 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf
from immutables import Map
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ObjectionPayload, ProposalPayload, VotePayload
from macp.v1.core_pb2 import CommitmentPayload, CommitmentRef
from macp.v1.envelope_pb2 import Envelope

from macp_rx.errors import MacpSessionError
from macp_rx.protocol.commitment import Bound, check_authority, decode_commitment, sign_of
from macp_rx.protocol.messages import DECISION, Message
from macp_rx.protocol.modes.rules import Link, forbidden, invalid
from macp_rx.protocol.validation import (
    validate_confidence,
    validate_recommendation,
    validate_required_field,
    validate_severity,
    validate_vote,
)

__all__ = [
    "MODE",
    "Phase",
    "State",
    "as_json",
    "authorize",
    "commit",
    "evaluate",
    "initial",
    "propose",
    "raise_objection",
    "step",
    "vote",
]

MODE: Final = DECISION
DETERMINISM_CLASS: Final = "semantic-deterministic"
PARTICIPANT_MODEL: Final = "declared"
MESSAGE_TYPES: Final = ("Proposal", "Evaluation", "Objection", "Vote")


# Messages: values, nothing is sent by making one.


def propose(
    proposal_id: str, option: str, *, rationale: str = "", supporting_data: bytes = b""
) -> Message[ProposalPayload]:
    """Puts an option up for decision, under an id that is new in the session."""
    payload = ProposalPayload(
        proposal_id=proposal_id, option=option, rationale=rationale, supporting_data=supporting_data
    )
    check_proposal(payload)
    return Message(MODE, payload)


def evaluate(
    proposal_id: str, recommendation: str, *, confidence: float, reason: str = ""
) -> Message[EvaluationPayload]:
    """Evaluates a proposal: APPROVE, REVIEW, BLOCK or REJECT, with a confidence in [0, 1]."""
    payload = EvaluationPayload(
        proposal_id=proposal_id, recommendation=recommendation, confidence=confidence, reason=reason
    )
    check_evaluation(payload)
    return Message(MODE, payload)


def raise_objection(proposal_id: str, *, reason: str, severity: str = "medium") -> Message[ObjectionPayload]:
    """Objects to a proposal: low, medium, high or critical."""
    payload = ObjectionPayload(proposal_id=proposal_id, reason=reason, severity=severity)
    check_objection(payload)
    return Message(MODE, payload)


def vote(proposal_id: str, vote: str, *, reason: str = "") -> Message[VotePayload]:
    """Votes on a proposal: APPROVE, REJECT or ABSTAIN."""
    payload = VotePayload(proposal_id=proposal_id, vote=vote, reason=reason)
    check_vote(payload)
    return Message(MODE, payload)


def commit(
    *,
    action: str,
    authority_scope: str,
    reason: str,
    commitment_id: str = "",
    outcome_positive: bool | None = None,
    supersedes: CommitmentRef | None = None,
) -> Message[CommitmentPayload]:
    """Commits. The sign is what the action's suffix says, or else positive; id and versions are filled in on sending."""
    for name, value in (("action", action), ("authority_scope", authority_scope), ("reason", reason)):
        validate_required_field(name, value)
    sign = sign_of(action)
    if sign is not None and outcome_positive not in (None, sign):
        raise MacpSessionError(f"outcome_positive={outcome_positive} contradicts the action {action!r}")
    positive = outcome_positive if outcome_positive is not None else sign is not False
    payload = CommitmentPayload(
        commitment_id=commitment_id,
        action=action,
        authority_scope=authority_scope,
        reason=reason,
        outcome_positive=positive,
        supersedes=supersedes,
    )
    return Message(MODE, payload)


# The rules about a payload alone, for the constructors above and for `step` below.


def check_proposal(payload: ProposalPayload) -> None:
    """Raises MacpSessionError for a blank id or option."""
    validate_required_field("proposal_id", payload.proposal_id)
    validate_required_field("option", payload.option)


def check_evaluation(payload: EvaluationPayload) -> None:
    """Raises MacpSessionError for an unknown recommendation, or a confidence out of [0, 1]."""
    validate_recommendation(payload.recommendation)
    validate_confidence(payload.confidence)


def check_objection(payload: ObjectionPayload) -> None:
    """Raises MacpSessionError for an unknown severity; an empty one is unknown."""
    validate_severity(payload.severity)


def check_vote(payload: VotePayload) -> None:
    """Raises MacpSessionError for an unknown vote."""
    validate_vote(payload.vote)


# State.


class Phase(Enum):
    """How far a decision has come. Proposals are open until the first vote; the commitment is the end."""

    PROPOSAL = "Proposal"
    EVALUATION = "Evaluation"
    VOTING = "Voting"
    COMMITTED = "Committed"


@dataclass(frozen=True, slots=True)
class State:
    """What was accepted in a decision. A value: a step makes a new one, which shares all that did not change.

    Attributes:
        phase: how far it has come.
        proposals: proposal id -> who proposed what.
        evaluations: (sender, evaluation), as a list that shares structure.
        objections: (sender, objection), likewise.
        votes: proposal id -> sender -> vote; the first vote of a sender on a proposal stands.
        commitment: what was committed to.
    """

    phase: Phase = Phase.PROPOSAL
    proposals: Map[str, tuple[str, ProposalPayload]] = field(default_factory=Map[str, tuple[str, ProposalPayload]])
    evaluations: Link[tuple[str, EvaluationPayload]] | None = None
    objections: Link[tuple[str, ObjectionPayload]] | None = None
    votes: Map[str, Map[str, VotePayload]] = field(default_factory=Map[str, Map[str, VotePayload]])
    commitment: CommitmentPayload | None = None


def as_json(state: State) -> dict[str, object]:
    """The state as the reference runtime keeps it."""
    return {
        "proposals": {
            proposal_id: {
                "proposal_id": proposal_id,
                "option": proposed.option,
                "rationale": proposed.rationale,
                "sender": sender,
            }
            for proposal_id, (sender, proposed) in sorted(state.proposals.items())
        },
        "evaluations": [
            {
                "proposal_id": said.proposal_id,
                "recommendation": said.recommendation,
                "confidence": said.confidence,
                "reason": said.reason,
                "sender": sender,
            }
            for sender, said in state.evaluations or ()
        ],
        "objections": [
            {"proposal_id": said.proposal_id, "reason": said.reason, "severity": said.severity, "sender": sender}
            for sender, said in state.objections or ()
        ],
        "votes": {
            proposal_id: {
                sender: {"proposal_id": proposal_id, "vote": said.vote, "reason": said.reason, "sender": sender}
                for sender, said in sorted(votes.items())
            }
            for proposal_id, votes in sorted(state.votes.items())
        },
        "phase": state.phase.value,
    }


# Rules.


def initial(session: Bound) -> State:
    """The state at the start. A session without participants is legal here, and inert."""
    del session
    return State()


def authorize(session: Bound, sender: str, message_type: str) -> None:
    """Raises MacpRefusedError FORBIDDEN unless ``sender`` may say this; in this mode also for an unknown type."""
    if message_type == "Commitment":
        check_authority(session, sender)
    elif message_type not in _RULES:
        raise forbidden(f"decision mode has no {message_type!r}")
    elif sender not in session.participants:
        raise forbidden(f"{sender!r} is no participant")


def step(session: Bound, state: State, envelope: Envelope) -> State:
    """The state after one more message of an authorized sender.

    Args:
        session: what the session is bound to.
        state: what was accepted before.
        envelope: the message.

    Raises:
        MacpRefusedError: INVALID_ENVELOPE, with the first rule that it breaks; the state stays as it was.
    """
    if envelope.message_type == "Commitment":
        commitment = decode_commitment(session, envelope.payload)
        if not state.proposals:
            raise invalid("there is no proposal to decide on")
        return replace(state, phase=Phase.COMMITTED, commitment=commitment)
    cls, check, apply = _RULES[envelope.message_type]
    try:
        payload = cls.FromString(envelope.payload)
        check(payload)
    except (DecodeError, MacpSessionError) as error:
        raise invalid(str(error)) from None
    return apply(state, envelope.sender, payload)


def _propose(state: State, sender: str, proposal: ProposalPayload) -> State:
    if state.phase is Phase.VOTING:
        raise invalid("voting has begun; no proposal can follow")
    if proposal.proposal_id in state.proposals:
        raise invalid(f"proposal {proposal.proposal_id!r} exists already")
    proposals = state.proposals.set(proposal.proposal_id, (sender, proposal))
    return replace(state, phase=Phase.EVALUATION, proposals=proposals)


def _evaluate(state: State, sender: str, evaluation: EvaluationPayload) -> State:
    _check_open(state, evaluation.proposal_id)
    return replace(state, evaluations=Link((sender, evaluation), state.evaluations))


def _object(state: State, sender: str, objection: ObjectionPayload) -> State:
    _check_open(state, objection.proposal_id)
    return replace(state, objections=Link((sender, objection), state.objections))


def _vote(state: State, sender: str, vote: VotePayload) -> State:
    if state.phase not in (Phase.EVALUATION, Phase.VOTING):
        raise invalid("there is nothing to vote on")
    _check_known(state, vote.proposal_id)
    votes = state.votes.get(vote.proposal_id) or Map[str, VotePayload]()
    if sender in votes:
        raise invalid(f"{sender!r} has voted on {vote.proposal_id!r} already")
    return replace(state, phase=Phase.VOTING, votes=state.votes.set(vote.proposal_id, votes.set(sender, vote)))


def _check_open(state: State, proposal_id: str) -> None:
    if state.phase is not Phase.EVALUATION:
        raise invalid(f"evaluations and objections are not taken in phase {state.phase.value}")
    _check_known(state, proposal_id)


def _check_known(state: State, proposal_id: str) -> None:
    if proposal_id not in state.proposals:
        raise invalid(f"there is no proposal {proposal_id!r}")


_RULES: Final[Mapping[str, tuple[type[Protobuf], Callable[[Any], None], Callable[[State, str, Any], State]]]] = {
    "Proposal": (ProposalPayload, check_proposal, _propose),
    "Evaluation": (EvaluationPayload, check_evaluation, _evaluate),
    "Objection": (ObjectionPayload, check_objection, _object),
    "Vote": (VotePayload, check_vote, _vote),
}
