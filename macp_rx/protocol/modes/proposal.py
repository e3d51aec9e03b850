"""Proposal mode: proposals, counter-proposals, acceptance by all (RFC-MACP-0008, `protocol.md` 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from immutables import Map
from macp.modes.proposal.v1.proposal_pb2 import (
    AcceptPayload,
    CounterProposalPayload,
    ProposalPayload,
    RejectPayload,
    WithdrawPayload,
)
from macp.v1.envelope_pb2 import Envelope

from macp_rx.protocol.commitment import Bound, decode_commitment
from macp_rx.protocol.messages import PROPOSAL, Message
from macp_rx.protocol.modes import rules
from macp_rx.protocol.modes.rules import Link, decoded, forbidden, invalid, need_roster
from macp_rx.protocol.validation import validate_required_field

__all__ = [
    "State",
    "accept",
    "as_json",
    "authorize",
    "counter_propose",
    "initial",
    "propose",
    "reject",
    "step",
    "withdraw",
]

MODE: Final = PROPOSAL
DETERMINISM_CLASS: Final = "semantic-deterministic"
PARTICIPANT_MODEL: Final = "peer"
MESSAGE_TYPES: Final = ("Proposal", "CounterProposal", "Accept", "Reject", "Withdraw")


# Messages: values, nothing is sent by making one.


def propose(
    proposal_id: str, title: str, *, summary: str = "", details: bytes = b"", tags: Sequence[str] = ()
) -> Message[ProposalPayload]:
    """Proposes something. That is no acceptance of it."""
    validate_required_field("proposal_id", proposal_id)
    payload = ProposalPayload(proposal_id=proposal_id, title=title, summary=summary, details=details, tags=tags)
    return Message(MODE, payload)


def counter_propose(
    proposal_id: str, supersedes_proposal_id: str, title: str, *, summary: str = "", details: bytes = b""
) -> Message[CounterProposalPayload]:
    """Proposes something else instead; the other proposal stays live."""
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
    """Accepts a proposal, instead of whatever was accepted before."""
    return Message(MODE, AcceptPayload(proposal_id=proposal_id, reason=reason))


def reject(proposal_id: str, *, terminal: bool = False, reason: str = "") -> Message[RejectPayload]:
    """Rejects a proposal; a terminal rejection ends the negotiation."""
    return Message(MODE, RejectPayload(proposal_id=proposal_id, terminal=terminal, reason=reason))


def withdraw(proposal_id: str, *, reason: str = "") -> Message[WithdrawPayload]:
    """Withdraws one's own proposal, and with it its acceptances and terminal rejections."""
    return Message(MODE, WithdrawPayload(proposal_id=proposal_id, reason=reason))


# State.


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
class State:
    """What was accepted in a proposal session.

    Attributes:
        participants: who must agree.
        proposals: proposal id -> proposal.
        accepts: sender -> the proposal it accepts now.
        rejections: (sender, rejection), as a list that shares structure.
        terminal_rejections: (sender, rejection) that end the negotiation.
        committed: a commitment was accepted.
    """

    participants: tuple[str, ...]
    proposals: Map[str, Proposal] = field(default_factory=Map[str, Proposal])
    accepts: Map[str, str] = field(default_factory=Map[str, str])
    rejections: Link[tuple[str, RejectPayload]] | None = None
    terminal_rejections: tuple[tuple[str, RejectPayload], ...] = ()
    committed: bool = False

    @property
    def phase(self) -> str:
        """``Negotiating``, ``Converged``, ``TerminalRejected`` or ``Committed``; it can go back, as acceptances do."""
        if self.committed:
            return "Committed"
        if self.terminal_rejections:
            return "TerminalRejected"
        return "Converged" if self.accepted_proposal() is not None else "Negotiating"

    def accepted_proposal(self) -> str | None:
        """The live proposal that every participant accepts now."""
        agreed = {self.accepts.get(participant) for participant in self.participants}
        found = agreed.pop() if len(agreed) == 1 else None
        return found if found is not None and self.proposals[found].live else None

    def live_proposals(self) -> tuple[str, ...]:
        """The ids of the proposals that were not withdrawn."""
        return tuple(sorted(proposal_id for proposal_id, one in self.proposals.items() if one.live))


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
            {"proposal_id": said.proposal_id, "sender": sender, "reason": said.reason}
            for sender, said in state.terminal_rejections
        ],
        "rejections": [
            {"proposal_id": said.proposal_id, "sender": sender, "reason": said.reason, "terminal": said.terminal}
            for sender, said in state.rejections or ()
        ],
        "phase": state.phase,
    }


# Rules.


def initial(session: Bound) -> State:
    """The state at the start; refuses an empty roster."""
    need_roster(session)
    return State(session.participants)


def authorize(session: Bound, sender: str, message_type: str) -> None:
    """Participants negotiate, whoever has authority commits."""
    rules.authorize(session, sender, message_type)


def step(session: Bound, state: State, envelope: Envelope) -> State:
    """The state after one more message of an authorized sender. Raises MacpRefusedError for what it breaks."""
    match envelope.message_type:
        case "Proposal":
            return _propose(state, envelope.sender, decoded(envelope, ProposalPayload))
        case "CounterProposal":
            return _counter(state, envelope.sender, decoded(envelope, CounterProposalPayload))
        case "Accept":
            accepted = decoded(envelope, AcceptPayload)
            _check_live(state, accepted.proposal_id)
            return replace(state, accepts=state.accepts.set(envelope.sender, accepted.proposal_id))
        case "Reject":
            return _reject(state, envelope.sender, decoded(envelope, RejectPayload))
        case "Withdraw":
            return _withdraw(state, envelope.sender, decoded(envelope, WithdrawPayload))
        case "Commitment":
            decode_commitment(session, envelope.payload)
            if state.phase not in ("Converged", "TerminalRejected"):
                raise invalid("the participants neither agree, nor has one rejected for good")
            return replace(state, committed=True)
        case other:
            raise invalid(f"proposal mode has no {other!r}")


def _propose(state: State, sender: str, proposed: ProposalPayload | CounterProposalPayload) -> State:
    if not proposed.proposal_id.strip():
        raise invalid("proposal_id is blank")
    if proposed.proposal_id in state.proposals:
        raise invalid(f"proposal {proposed.proposal_id!r} exists already")
    return replace(state, proposals=state.proposals.set(proposed.proposal_id, Proposal(proposed, sender)))


def _counter(state: State, sender: str, proposed: CounterProposalPayload) -> State:
    if not proposed.proposal_id.strip() or not proposed.supersedes_proposal_id.strip():
        raise invalid("proposal_id and supersedes_proposal_id must not be blank")
    after = _propose(state, sender, proposed)
    if proposed.supersedes_proposal_id not in state.proposals:  # it may have been withdrawn
        raise invalid(f"there is no proposal {proposed.supersedes_proposal_id!r}")
    return after


def _reject(state: State, sender: str, rejected: RejectPayload) -> State:
    _check_live(state, rejected.proposal_id)
    terminal = (*state.terminal_rejections, (sender, rejected)) if rejected.terminal else state.terminal_rejections
    return replace(state, rejections=Link((sender, rejected), state.rejections), terminal_rejections=terminal)


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
        terminal_rejections=tuple(said for said in state.terminal_rejections if said[1].proposal_id != proposal_id),
    )


def _check_live(state: State, proposal_id: str) -> None:
    one = state.proposals.get(proposal_id)
    if one is None or not one.live:
        raise invalid(f"there is no live proposal {proposal_id!r}")
