"""Decision mode: proposals, evaluations, objections, votes, one commitment (RFC-MACP-0007, `protocol.md` 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import reduce
from operator import add
from sys import intern
from typing import Any, Final

from google.protobuf.message import Message as Protobuf
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ObjectionPayload, ProposalPayload, VotePayload
from macp.v1.envelope_pb2 import Envelope

from macp_rx.errors import Denial, MacpSessionError
from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.commitment import commit, decode_commitment
from macp_rx.protocol.link import Link
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import DECISION, Message
from macp_rx.protocol.modes import rules
from macp_rx.protocol.modes.projection import Projection
from macp_rx.protocol.policy import Policy, permit
from macp_rx.protocol.refusals import decoded, forbidden, invalid
from macp_rx.protocol.validation import (
    validate_confidence,
    validate_recommendation,
    validate_required_field,
    validate_severity,
    validate_vote,
)

__all__ = [
    "MODE",
    "Evaluation",
    "EvaluationPayload",
    "Objection",
    "ObjectionPayload",
    "Phase",
    "Proposal",
    "ProposalPayload",
    "State",
    "Vote",
    "VotePayload",
    "as_json",
    "authorize",
    "commit",
    "denials",
    "evaluate",
    "initial",
    "propose",
    "raise_objection",
    "step",
    "vote",
]

MODE: Final = DECISION
TITLE: Final = "Decision"
DESCRIPTION: Final = "Proposals are evaluated, objected to and voted on, and one commitment ends it"
DETERMINISM_CLASS: Final = "semantic-deterministic"
PARTICIPANT_MODEL: Final = "declared"
MESSAGE_TYPES: Final = ("Proposal", "Evaluation", "Objection", "Vote")


# Messages: values, nothing is sent by making one.


def propose(
    proposal_id: str, option: str, *, rationale: str = "", supporting_data: bytes = b""
) -> Message[ProposalPayload]:
    """Puts an option up for decision, under an id that is new in the session.

    Args:
        proposal_id: its id, unique in the session.
        option: what is proposed.
        rationale: why.
        supporting_data: anything.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    payload = ProposalPayload(
        proposal_id=proposal_id, option=option, rationale=rationale, supporting_data=supporting_data
    )
    check_proposal(payload)
    return Message(MODE, payload)


def evaluate(
    proposal_id: str, recommendation: str, *, confidence: float, reason: str = ""
) -> Message[EvaluationPayload]:
    """Evaluates a proposal: APPROVE, REVIEW, BLOCK or REJECT, with a confidence in [0, 1].

    Args:
        proposal_id: which proposal.
        recommendation: APPROVE, REVIEW, BLOCK or REJECT.
        confidence: in [0, 1].
        reason: why.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    payload = EvaluationPayload(
        proposal_id=proposal_id, recommendation=recommendation, confidence=confidence, reason=reason
    )
    check_evaluation(payload)
    return Message(MODE, payload)


def raise_objection(proposal_id: str, *, reason: str, severity: str = "medium") -> Message[ObjectionPayload]:
    """Objects to a proposal: low, medium, high or critical.

    Args:
        proposal_id: which proposal.
        reason: why.
        severity: low, medium, high or critical; a policy may make critical ones a veto.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    payload = ObjectionPayload(proposal_id=proposal_id, reason=reason, severity=severity)
    check_objection(payload)
    return Message(MODE, payload)


def vote(proposal_id: str, vote: str, *, reason: str = "") -> Message[VotePayload]:
    """Votes on a proposal: APPROVE, REJECT or ABSTAIN.

    Args:
        proposal_id: which proposal.
        vote: APPROVE, REJECT or ABSTAIN.
        reason: why.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    payload = VotePayload(proposal_id=proposal_id, vote=vote, reason=reason)
    check_vote(payload)
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


class Phase(StrEnum):
    """How far a decision has come. Proposals are open until the first vote; the commitment is the end."""

    PROPOSAL = "Proposal"
    EVALUATION = "Evaluation"
    VOTING = "Voting"
    COMMITTED = "Committed"


# Records of our own and not the payloads: a decoded payload takes about 440 bytes that Python does not count (measured), and
# each participant says several.


@dataclass(frozen=True, slots=True)
class Proposal:
    """One option that is up for decision."""

    proposal_id: str
    option: str
    rationale: str
    supporting_data: bytes
    sender: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one participant thinks of a proposal."""

    proposal_id: str
    recommendation: str
    confidence: float
    reason: str
    sender: str


@dataclass(frozen=True, slots=True)
class Objection:
    """What one participant has against a proposal."""

    proposal_id: str
    reason: str
    severity: str
    sender: str


@dataclass(frozen=True, slots=True)
class Vote:
    """One participant's vote on a proposal."""

    proposal_id: str
    vote: str
    reason: str
    sender: str


@dataclass(frozen=True, slots=True)
class State(Projection):
    """What was accepted in a decision.

    Attributes:
        proposals: proposal id -> proposal.
        evaluations: every evaluation, as a list that shares structure.
        objections: every objection, likewise.
        votes: proposal id -> sender -> vote; the first vote of a sender on a proposal stands.
    """

    proposals: Map[str, Proposal] = field(default_factory=Map[str, Proposal])
    evaluations: Link[Evaluation] | None = None
    objections: Link[Objection] | None = None
    votes: Map[str, Map[str, Vote]] = field(default_factory=Map[str, Map[str, Vote]])

    @property
    def phase(self) -> Phase:
        """How far it has come."""
        if self.is_committed:
            return Phase.COMMITTED
        if self.votes:
            return Phase.VOTING
        return Phase.EVALUATION if self.proposals else Phase.PROPOSAL

    @property
    def vote_totals(self) -> dict[str, int]:
        """Proposal id -> how many approve it, for every proposal."""
        return {proposal_id: self._count(proposal_id, "APPROVE") for proposal_id in sorted(self.proposals)}

    def vote_ratio(self, proposal_id: str) -> float:
        """The share of approvals among the decisive votes on this one proposal; 0 without such votes."""
        approve, reject = self._count(proposal_id, "APPROVE"), self._count(proposal_id, "REJECT")
        return approve / (approve + reject) if approve + reject else 0.0

    @property
    def majority_winner(self) -> str | None:
        """The proposal that more than half of its decisive votes approve, and most approve; None if there is no single one."""
        carried = {one: total for one, total in self.vote_totals.items() if self.vote_ratio(one) > 0.5}
        best = max(carried.values(), default=0)
        winners = [one for one, total in carried.items() if total == best]
        return winners[0] if len(winners) == 1 else None

    def has_blocking_objection(self, proposal_id: str | None = None) -> bool:
        """Whether somebody objects critically: to this proposal, or to any. Only a policy makes that a veto."""
        return any(
            said.severity == "critical" and proposal_id in (None, said.proposal_id) for said in self.objections or ()
        )

    @property
    def review_evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluations that recommend REVIEW, which no policy counts."""
        return tuple(said for said in self.evaluations or () if said.recommendation == "REVIEW")

    @property
    def qualifying_evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluations that a policy counts."""
        return tuple(said for said in self.evaluations or () if said.recommendation != "REVIEW")

    def _count(self, proposal_id: str, vote: str) -> int:
        cast = self.votes.get(proposal_id)
        return sum(said.vote == vote for said in cast.values()) if cast is not None else 0


def as_json(state: State) -> dict[str, object]:
    """The state as the reference runtime keeps it."""
    return {
        "proposals": {
            proposal_id: {
                "proposal_id": proposal_id,
                "option": proposed.option,
                "rationale": proposed.rationale,
                "sender": proposed.sender,
            }
            for proposal_id, proposed in sorted(state.proposals.items())
        },
        "evaluations": [
            {
                "proposal_id": said.proposal_id,
                "recommendation": said.recommendation,
                "confidence": said.confidence,
                "reason": said.reason,
                "sender": said.sender,
            }
            for said in state.evaluations or ()
        ],
        "objections": [
            {"proposal_id": said.proposal_id, "reason": said.reason, "severity": said.severity, "sender": said.sender}
            for said in state.objections or ()
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


def initial(session: Binding) -> State:
    """The state at the start. A session without participants is legal here, and inert."""
    del session
    return State()


def authorize(session: Binding, sender: str, message_type: str) -> None:
    """Raises MacpRefusedError FORBIDDEN unless ``sender`` may say this; in this mode also for an unknown type."""
    if message_type != "Commitment" and message_type not in _RULES:
        raise forbidden(f"decision mode has no {message_type!r}")
    rules.authorize(session, sender, message_type)


def step(session: Binding, state: State, envelope: Envelope, at: Instant) -> State:
    """The state after one more message of an authorized sender.

    Args:
        session: what the session is bound to.
        state: what was accepted before.
        envelope: the message.
        at: when.

    Raises:
        MacpRefusedError: INVALID_ENVELOPE, with the first rule that it breaks; POLICY_DENIED. The state stays as it was.
    """
    if envelope.message_type == "Commitment":
        commitment = decode_commitment(session, envelope.payload)
        if not state.proposals:
            raise invalid("there is no proposal to decide on")
        permit(denials(session.policy, state, session.participants, positive=commitment.outcome_positive))
        return replace(state, commitment=commitment)
    cls, check, apply = _RULES[envelope.message_type]
    payload = decoded(envelope.payload, cls)
    try:
        check(payload)
    except MacpSessionError as error:
        raise invalid(str(error)) from None
    return apply(state, intern(envelope.sender), payload)


def _propose(state: State, sender: str, proposal: ProposalPayload) -> State:
    if state.phase is Phase.VOTING:
        raise invalid("voting has begun; no proposal can follow")
    if proposal.proposal_id in state.proposals:
        raise invalid(f"proposal {proposal.proposal_id!r} exists already")
    proposed = Proposal(
        intern(proposal.proposal_id), proposal.option, proposal.rationale, proposal.supporting_data, sender
    )
    return replace(state, proposals=state.proposals.set(proposed.proposal_id, proposed))


def _evaluate(state: State, sender: str, evaluation: EvaluationPayload) -> State:
    _check_open(state, evaluation.proposal_id)
    said = Evaluation(
        intern(evaluation.proposal_id),
        intern(evaluation.recommendation),
        evaluation.confidence,
        evaluation.reason,
        sender,
    )
    return replace(state, evaluations=Link(said, state.evaluations))


def _object(state: State, sender: str, objection: ObjectionPayload) -> State:
    _check_open(state, objection.proposal_id)
    said = Objection(intern(objection.proposal_id), objection.reason, intern(objection.severity), sender)
    return replace(state, objections=Link(said, state.objections))


def _vote(state: State, sender: str, vote: VotePayload) -> State:
    if state.phase not in (Phase.EVALUATION, Phase.VOTING):
        raise invalid("there is nothing to vote on")
    _check_known(state, vote.proposal_id)
    votes = state.votes.get(vote.proposal_id) or Map[str, Vote]()
    if sender in votes:
        raise invalid(f"{sender!r} has voted on {vote.proposal_id!r} already")
    said = Vote(intern(vote.proposal_id), intern(vote.vote), vote.reason, sender)
    return replace(state, votes=state.votes.set(said.proposal_id, votes.set(sender, said)))


def _check_open(state: State, proposal_id: str) -> None:
    if state.phase is not Phase.EVALUATION:
        raise invalid(f"evaluations and objections are not taken in phase {state.phase}")
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


# The policy: when it denies a commitment (RFC-MACP-0012, `protocol.md` 5.6).


def denials(policy: Policy, state: State, participants: Sequence[str], *, positive: bool) -> Iterator[Denial]:
    """Why a policy denies a commitment of this sign now, in the order of its checks; nothing if it permits it.

    Args:
        policy: the session's.
        state: what was accepted.
        participants: the session's.
        positive: the commitment's sign.
    """
    objections = policy.rules.objection_handling
    critical = [said.sender for said in state.objections or () if said.severity == "critical"]
    vetoed = objections.critical_severity_vetoes and len(critical) >= objections.veto_threshold
    # a decline that the objections themselves authorise needs neither evaluations nor votes
    if vetoed and not positive and objections.critical_objection_action == "finalize_decline":
        return
    yield from _lacking_evaluations(policy, state)
    if vetoed:
        holds = objections.critical_objection_action == "hold"
        message = (
            f"{len(critical)} critical objections {'hold the commitment back' if holds else 'veto the commitment'}"
        )
        yield Denial("veto_hold" if holds else "veto", message, tuple(sorted(set(critical))))
    votes = [
        (sender, vote.vote) for _, cast in sorted(state.votes.items()) for sender, vote in sorted(cast.items())
    ]  # sorted, so that a sum of weights is the same in every process
    yield from _lacking_voters(policy, len({sender for sender, _ in votes}), len(participants))
    if policy.rules.voting.algorithm != "none":
        yield from _outvoted(policy, votes, participants, positive=positive)


def _lacking_evaluations(policy: Policy, state: State) -> Iterator[Denial]:
    rules = policy.rules.evaluation
    if not rules.required_before_voting:
        return
    confidences = [said.confidence for said in state.qualifying_evaluations]
    least = rules.minimum_confidence
    if least > 0 and not any(confidence >= least for confidence in confidences):
        yield Denial("confidence_below_minimum", f"no evaluation has a confidence of {least:g} or more")
    elif not confidences:
        yield Denial("evaluation_required", "no evaluation recommends anything but REVIEW")


def _lacking_voters(policy: Policy, voters: int, participants: int) -> Iterator[Denial]:
    voting = policy.rules.voting
    if not policy.rules.commitment.require_vote_quorum:
        return
    if voting.quorum_type == "count":
        met = voters >= voting.quorum_value
    elif participants:
        met = voters / participants * 100 >= voting.quorum_value
    else:
        met = voting.quorum_value <= 0
    if not met:
        unit = " %" if voting.quorum_type == "percentage" else ""
        yield Denial("quorum_not_met", f"{voters} have voted, and the quorum is {voting.quorum_value:g}{unit}")


def _outvoted(
    policy: Policy, votes: Sequence[tuple[str, str]], participants: Sequence[str], *, positive: bool
) -> Iterator[Denial]:
    """The votes of all proposals are pooled; abstentions do not count (`protocol.md` 5.6, 5)."""
    voting, rules = policy.rules.voting, policy.rules.commitment
    weights = voting.weights if voting.algorithm == "weighted" else {sender: 1 for sender, _ in votes}
    approve = _added(weights.get(sender, 0) for sender, vote in votes if vote == "APPROVE")
    reject = _added(weights.get(sender, 0) for sender, vote in votes if vote == "REJECT")
    passed = _passes(policy, votes, participants, approve, reject) if approve + reject else None
    tally = f"{voting.algorithm}: {approve:g} for, {reject:g} against"
    if positive:
        if passed is False:
            yield Denial("threshold_not_met", f"the votes do not carry it ({tally})")
        elif passed is None and (policy.schema_version >= 3 or rules.require_vote_quorum):
            yield Denial("no_votes", "nobody whose vote counts has voted APPROVE or REJECT")
    elif passed and not rules.allow_decline_over_approval:
        yield Denial("decline_over_approval", f"the votes carry it, so it cannot be declined ({tally})")
    elif not reject:
        yield Denial("decline_not_backed", f"no vote that counts is against it ({tally})")


def _added(weights: Iterable[float]) -> float:
    """Rounded at each step, as the reference runtime adds; since Python 3.12 ``sum`` is nearer, and could judge otherwise."""
    return reduce(add, weights, 0)


def _passes(
    policy: Policy, votes: Sequence[tuple[str, str]], participants: Sequence[str], approve: float, reject: float
) -> bool:
    voting = policy.rules.voting
    match voting.algorithm:
        case "plurality":
            return approve > reject
        case "unanimous":
            return not reject and {sender for sender, vote in votes if vote == "APPROVE"}.issuperset(participants)
        case _:  # majority, supermajority, weighted: reached is passed, so an even split passes at 0.5
            return approve / (approve + reject) >= voting.threshold
