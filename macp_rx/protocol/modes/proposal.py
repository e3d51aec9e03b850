"""Proposal mode: proposals, counter-proposals, acceptance by all (RFC-MACP-0008, `protocol.md` 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from macp.modes.proposal.v1.proposal_pb2 import (
    AcceptPayload,
    CounterProposalPayload,
    ProposalPayload,
    RejectPayload,
    WithdrawPayload,
)
from macp.v1.envelope_pb2 import Envelope

from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.commitment import commit, decode_commitment
from macp_rx.protocol.link import Link
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import PROPOSAL, Message
from macp_rx.protocol.modes import rules
from macp_rx.protocol.modes.projection import Projection
from macp_rx.protocol.modes.rules import need_roster
from macp_rx.protocol.refusals import decoded, forbidden, invalid
from macp_rx.protocol.validation import is_blank, validate_required_field

__all__ = [
    "AcceptPayload",
    "CounterProposalPayload",
    "Phase",
    "Proposal",
    "ProposalPayload",
    "RejectPayload",
    "Rejection",
    "State",
    "WithdrawPayload",
    "accept",
    "as_json",
    "authorize",
    "commit",
    "counter_propose",
    "initial",
    "propose",
    "reject",
    "step",
    "withdraw",
]

MODE: Final = PROPOSAL
TITLE: Final = "Proposal"
DESCRIPTION: Final = "Proposals and counter-proposals, until all who must agree do, or one rejects for good"
DETERMINISM_CLASS: Final = "semantic-deterministic"
PARTICIPANT_MODEL: Final = "peer"
MESSAGE_TYPES: Final = ("Proposal", "CounterProposal", "Accept", "Reject", "Withdraw")


# Messages: values, nothing is sent by making one.


def propose(
    proposal_id: str, title: str, *, summary: str = "", details: bytes = b"", tags: Sequence[str] = ()
) -> Message[ProposalPayload]:
    """Proposes something. That is no acceptance of it.

    Args:
        proposal_id: its id, unique in the session.
        title: what is proposed, in a line.
        summary: what it comes to.
        details: anything.
        tags: labels.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("proposal_id", proposal_id)
    payload = ProposalPayload(proposal_id=proposal_id, title=title, summary=summary, details=details, tags=tags)
    return Message(MODE, payload)


def counter_propose(
    proposal_id: str, supersedes_proposal_id: str, title: str, *, summary: str = "", details: bytes = b""
) -> Message[CounterProposalPayload]:
    """Proposes something else instead; the other proposal stays live.

    Args:
        proposal_id: its id, unique in the session.
        supersedes_proposal_id: instead of which proposal.
        title: what is proposed, in a line.
        summary: what it comes to.
        details: anything.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("proposal_id", proposal_id)
    validate_required_field("supersedes_proposal_id", supersedes_proposal_id)
    payload = CounterProposalPayload(
        proposal_id=proposal_id,
        supersedes_proposal_id=supersedes_proposal_id,
        title=title,
        summary=summary,
        details=details,
    )
    return Message(MODE, payload)


def accept(proposal_id: str, *, reason: str = "") -> Message[AcceptPayload]:
    """Accepts a proposal, instead of whatever was accepted before.

    Args:
        proposal_id: which proposal.
        reason: why.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("proposal_id", proposal_id)
    return Message(MODE, AcceptPayload(proposal_id=proposal_id, reason=reason))


def reject(proposal_id: str, *, terminal: bool = False, reason: str = "") -> Message[RejectPayload]:
    """Rejects a proposal; a terminal rejection ends the negotiation.

    Args:
        proposal_id: which proposal.
        terminal: for good.
        reason: why.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("proposal_id", proposal_id)
    return Message(MODE, RejectPayload(proposal_id=proposal_id, terminal=terminal, reason=reason))


def withdraw(proposal_id: str, *, reason: str = "") -> Message[WithdrawPayload]:
    """Withdraws one's own proposal, and with it its acceptances and terminal rejections.

    Args:
        proposal_id: which proposal; only its proposer may.
        reason: why.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("proposal_id", proposal_id)
    return Message(MODE, WithdrawPayload(proposal_id=proposal_id, reason=reason))


# State.


class Phase(StrEnum):
    """How a negotiation stands. It can go back, as acceptances and proposals do, until the commitment."""

    NEGOTIATING = "Negotiating"
    CONVERGED = "Converged"
    TERMINAL_REJECTED = "TerminalRejected"
    COMMITTED = "Committed"


@dataclass(frozen=True, slots=True)
class Proposal:
    """One proposal.

    Attributes:
        payload: what is proposed.
        proposer: by whom.
        live: it was not withdrawn.
    """

    payload: ProposalPayload | CounterProposalPayload
    proposer: str
    live: bool = True


@dataclass(frozen=True, slots=True)
class Rejection:
    """One participant's rejection of a proposal.

    Attributes:
        proposal_id: which.
        sender: whose.
        reason: why.
        terminal: it ends the negotiation, by its own word or by the policy's.
    """

    proposal_id: str
    sender: str
    reason: str
    terminal: bool


@dataclass(frozen=True, slots=True)
class State(Projection):
    """What was accepted in a proposal session.

    Attributes:
        initiator: who started the session.
        participants: who negotiate.
        criterion: who must accept a proposal: ``all_parties``, every ``counterparty`` of its proposer, or the ``initiator``.
        proposals: proposal id -> proposal.
        accepts: sender -> the proposal it accepts now.
        rejections: every rejection, as a list that shares structure.
        rejected: the ids of the live proposals that somebody has rejected for good.
        latest: the id of the proposal made last.
        counters: how many counter-proposals there were, withdrawn ones too.
    """

    initiator: str
    participants: tuple[str, ...]
    criterion: str = "all_parties"
    proposals: Map[str, Proposal] = field(default_factory=Map[str, Proposal])
    accepts: Map[str, str] = field(default_factory=Map[str, str])
    rejections: Link[Rejection] | None = None
    rejected: Map[str, None] = field(default_factory=Map[str, None])
    latest: str = ""
    counters: int = 0

    @property
    def phase(self) -> Phase:
        """How the negotiation stands."""
        if self.is_committed:
            return Phase.COMMITTED
        if self.rejected:
            return Phase.TERMINAL_REJECTED
        return Phase.CONVERGED if self.accepted_proposal is not None else Phase.NEGOTIATING

    @property
    def accepted_proposal(self) -> str | None:
        """The live proposal that those accept now who must; the first by id, where a lone proposer needs nobody's consent."""
        # only what somebody accepts can be accepted, except what nobody but its proposer could
        candidates = sorted(set(self.accepts.values())) if len(self.participants) > 1 else self.live_proposals
        return next((one for one in candidates if self.proposals[one].live and self._is_accepted(one)), None)

    def _is_accepted(self, proposal_id: str) -> bool:
        match self.criterion:
            case "initiator":
                needed: tuple[str, ...] = (self.initiator,)
            case "counterparty":
                proposer = self.proposals[proposal_id].proposer
                needed = tuple(name for name in self.participants if name != proposer)
            case _:
                needed = self.participants
        return all(self.accepts.get(name) == proposal_id for name in needed)

    @property
    def live_proposals(self) -> dict[str, Proposal]:
        """The proposals that were not withdrawn, by id."""
        return {proposal_id: one for proposal_id, one in sorted(self.proposals.items()) if one.live}

    @property
    def active_proposals(self) -> tuple[Proposal, ...]:
        """The proposals that were neither withdrawn nor rejected for good, in the order of their ids."""
        return tuple(one for proposal_id, one in self.live_proposals.items() if proposal_id not in self.rejected)

    @property
    def latest_proposal(self) -> Proposal | None:
        """The proposal or counter-proposal made last, withdrawn or not."""
        return self.proposals.get(self.latest)

    def is_accepted(self, proposal_id: str) -> bool:
        """Whether those accept this proposal now who must."""
        one = self.proposals.get(proposal_id)
        return one is not None and one.live and self._is_accepted(proposal_id)

    @property
    def has_terminal_rejection(self) -> bool:
        """Whether somebody's rejection ends the negotiation."""
        return bool(self.rejected)

    @property
    def terminal_rejections(self) -> tuple[Rejection, ...]:
        """The rejections that end the negotiation, oldest first; those of withdrawn proposals do not."""
        return tuple(said for said in self.rejections or () if said.terminal and said.proposal_id in self.rejected)

    def is_terminally_rejected(self, proposal_id: str) -> bool:
        """Whether a rejection of this proposal ends the negotiation."""
        return proposal_id in self.rejected


def as_json(state: State) -> dict[str, object]:
    """The state as the reference runtime keeps it."""
    return {
        "proposals": {
            proposal_id: {
                "proposal_id": proposal_id,
                "title": one.payload.title,
                "summary": one.payload.summary,
                "details": list(one.payload.details),
                "tags": list(one.payload.tags) if isinstance(one.payload, ProposalPayload) else [],
                "proposer": one.proposer,
                "supersedes_proposal_id": None
                if isinstance(one.payload, ProposalPayload)
                else one.payload.supersedes_proposal_id,
                "disposition": "Live" if one.live else "Withdrawn",
            }
            for proposal_id, one in sorted(state.proposals.items())
        },
        "accepts": dict(sorted(state.accepts.items())),
        "terminal_rejections": [
            {"proposal_id": said.proposal_id, "sender": said.sender, "reason": said.reason}
            for said in state.terminal_rejections
        ],
        "rejections": [
            {"proposal_id": said.proposal_id, "sender": said.sender, "reason": said.reason, "terminal": said.terminal}
            for said in state.rejections or ()
        ],
        "phase": state.phase.value,
    }


# Rules.


def initial(session: Binding) -> State:
    """The state at the start; refuses an empty roster."""
    need_roster(session)
    return State(session.initiator, session.participants, session.policy.rules.acceptance.criterion)


def authorize(session: Binding, sender: str, message_type: str) -> None:
    """Participants negotiate, whoever has authority commits."""
    rules.authorize(session, sender, message_type)


def step(session: Binding, state: State, envelope: Envelope, at: Instant) -> State:
    """The state after one more message of an authorized sender. Raises MacpRefusedError for what it breaks."""
    match envelope.message_type:
        case "Proposal":
            return _propose(state, envelope.sender, decoded(envelope.payload, ProposalPayload))
        case "CounterProposal":
            return _counter(session, state, envelope.sender, decoded(envelope.payload, CounterProposalPayload))
        case "Accept":
            accepted = decoded(envelope.payload, AcceptPayload)
            _check_live(state, accepted.proposal_id)
            return replace(state, accepts=state.accepts.set(envelope.sender, accepted.proposal_id))
        case "Reject":
            return _reject(session, state, envelope.sender, decoded(envelope.payload, RejectPayload))
        case "Withdraw":
            return _withdraw(state, envelope.sender, decoded(envelope.payload, WithdrawPayload))
        case "Commitment":
            commitment = decode_commitment(session, envelope.payload)
            if state.phase not in (Phase.CONVERGED, Phase.TERMINAL_REJECTED):
                raise invalid("the participants neither agree, nor has one rejected for good")
            return replace(state, commitment=commitment)
        case other:
            raise invalid(f"proposal mode has no {other!r}")


def _propose(state: State, sender: str, proposed: ProposalPayload | CounterProposalPayload) -> State:
    if is_blank(proposed.proposal_id):
        raise invalid("proposal_id is blank")
    if proposed.proposal_id in state.proposals:
        raise invalid(f"proposal {proposed.proposal_id!r} exists already")
    proposals = state.proposals.set(proposed.proposal_id, Proposal(proposed, sender))
    return replace(state, proposals=proposals, latest=proposed.proposal_id)


def _counter(session: Binding, state: State, sender: str, proposed: CounterProposalPayload) -> State:
    if is_blank(proposed.proposal_id) or is_blank(proposed.supersedes_proposal_id):
        raise invalid("proposal_id and supersedes_proposal_id must not be blank")
    after = _propose(state, sender, proposed)
    if proposed.supersedes_proposal_id not in state.proposals:  # it may have been withdrawn
        raise invalid(f"there is no proposal {proposed.supersedes_proposal_id!r}")
    most = session.policy.rules.counter_proposal.max_rounds
    if 0 < most <= state.counters:
        raise invalid(f"the policy allows {most} counter-proposals, and there were as many")
    return replace(after, counters=state.counters + 1)


def _reject(session: Binding, state: State, sender: str, rejected: RejectPayload) -> State:
    _check_live(state, rejected.proposal_id)
    ends = rejected.terminal or session.policy.rules.rejection.terminal_on_any_reject
    said = Rejection(rejected.proposal_id, sender, rejected.reason, ends)
    return replace(
        state,
        rejections=Link(said, state.rejections),
        rejected=state.rejected.set(rejected.proposal_id, None) if ends else state.rejected,
    )


def _withdraw(state: State, sender: str, withdrawn: WithdrawPayload) -> State:
    proposal_id = withdrawn.proposal_id
    one = state.proposals.get(proposal_id)
    if one is None:
        raise invalid(f"there is no proposal {proposal_id!r}")
    if one.proposer != sender:
        raise forbidden("only who has proposed it withdraws it")
    if not one.live:
        raise invalid(f"proposal {proposal_id!r} was withdrawn already")
    return replace(
        state,
        proposals=state.proposals.set(proposal_id, replace(one, live=False)),
        accepts=Map({who: accepted for who, accepted in state.accepts.items() if accepted != proposal_id}),
        rejected=state.rejected.delete(proposal_id) if proposal_id in state.rejected else state.rejected,
    )


def _check_live(state: State, proposal_id: str) -> None:
    one = state.proposals.get(proposal_id)
    if one is None or not one.live:
        raise invalid(f"there is no live proposal {proposal_id!r}")
