"""How often something can happen in a session: read off random histories, without a look at any state's code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from hypothesis import given

from macp_rx.protocol.lifecycle import Session
from macp_rx.protocol.messages import DECISION, HANDOFF, MULTI_ROUND, PROPOSAL, QUORUM, TASK, payload_type
from macp_rx.protocol.modes import decision, handoff, multi_round, proposal, quorum, task
from tests.protocol.plays import Play, perform, plays


class Said(NamedTuple):
    """One accepted message, and the session after it."""

    sender: str
    kind: str
    payload: Any
    after: Session


def accepted(play: Play) -> Iterator[Said]:
    """What was accepted in a play, behind its start."""
    for moment in perform(play):
        new = moment.after.accepted - moment.before.accepted
        entries = [entry.envelope for entry in moment.after.log or () if entry.envelope is not None]
        for envelope in entries[len(entries) - new :]:
            cls = payload_type(envelope.mode, envelope.message_type)
            assert cls is not None
            yield Said(envelope.sender, envelope.message_type, cls.FromString(envelope.payload), moment.after)


@given(plays(DECISION))
def test_the_first_vote_of_a_sender_on_a_proposal_stands(play: Play) -> None:
    """Nothing is said of a proposal that does not exist, none is made when voting has begun, and nobody votes twice."""
    proposals: set[str] = set()
    votes: dict[tuple[str, str], str] = {}
    for sender, kind, payload, after in accepted(play):
        if kind == "Proposal":
            assert payload.proposal_id not in proposals
            assert not votes
            proposals.add(payload.proposal_id)
        elif kind != "Commitment":
            assert payload.proposal_id in proposals
        if kind in ("Evaluation", "Objection"):
            assert not votes
        if kind == "Vote":
            assert (payload.proposal_id, sender) not in votes
            votes[payload.proposal_id, sender] = payload.vote
        state: decision.State = after.mode_state
        assert set(state.proposals) == proposals
        assert {(p, who): said.vote for p, cast in state.votes.items() for who, said in cast.items()} == votes


@given(plays(PROPOSAL))
def test_a_participant_accepts_one_proposal_at_a_time(play: Play) -> None:
    """What is accepted or rejected is live; what is withdrawn is so once, by its proposer, with its acceptances."""
    proposers: dict[str, str] = {}
    withdrawn: set[str] = set()
    accepts: dict[str, str] = {}
    for sender, kind, payload, after in accepted(play):
        match kind:
            case "Proposal" | "CounterProposal":
                assert payload.proposal_id not in proposers
                proposers[payload.proposal_id] = sender
            case "Accept" | "Reject":
                assert payload.proposal_id in proposers.keys() - withdrawn
                if kind == "Accept":
                    accepts[sender] = payload.proposal_id
            case "Withdraw":
                assert payload.proposal_id not in withdrawn
                assert proposers[payload.proposal_id] == sender
                withdrawn.add(payload.proposal_id)
                accepts = {who: which for who, which in accepts.items() if which != payload.proposal_id}
        state: proposal.State = after.mode_state
        assert set(state.live_proposals) == proposers.keys() - withdrawn
        assert dict(state.accepts) == accepts


@given(plays(TASK))
def test_a_task_has_one_assignee_and_one_report(play: Play) -> None:
    """Who takes it has not refused it before; only who has it tells how far it is; nothing follows the report."""
    requests, reports, assignee = 0, 0, None
    refused: Counter[str] = Counter()
    for sender, kind, _payload, after in accepted(play):
        match kind:
            case "TaskRequest":
                requests += 1
            case "TaskAccept":
                assert assignee is None
                assert not refused[sender]
                assignee = sender
            case "TaskReject":
                assert assignee in (None, sender)
                assignee = None
                refused[sender] += 1
            case "TaskUpdate" | "TaskComplete" | "TaskFail":
                assert sender == assignee
                assert not reports
                reports += kind != "TaskUpdate"
        assert requests == 1
        assert max(refused.values(), default=0) <= 1
        state: task.State = after.mode_state
        assert state.current_assignee == assignee
        assert (state.report is not None) == bool(reports)


@given(plays(HANDOFF))
def test_a_handoff_settles_once(play: Play) -> None:
    """One offer waits at a time, none follows an acceptance, nobody is asked again who has declined."""
    offers: dict[str, str] = {}
    settled: dict[str, str] = {}
    for sender, kind, payload, after in accepted(play):
        match kind:
            case "HandoffOffer":
                assert offers.keys() == settled.keys()
                assert "HandoffAccept" not in settled.values()
                declined = {offers[which] for which, how in settled.items() if how == "HandoffDecline"}
                assert payload.target_participant not in declined | {sender}
                offers[payload.handoff_id] = payload.target_participant
            case "HandoffAccept" | "HandoffDecline":
                assert offers[payload.handoff_id] == sender
                assert payload.handoff_id not in settled
                settled[payload.handoff_id] = kind
            case "HandoffContext":
                assert payload.handoff_id in offers
        state: handoff.State = after.mode_state
        assert set(state.handoffs) == set(offers)
        assert (state.active_offer is None) == (offers.keys() == settled.keys())


@given(plays(QUORUM))
def test_a_participant_has_one_ballot(play: Play) -> None:
    """For the one request of the session."""
    requests = 0
    ballots: dict[str, str] = {}
    for sender, kind, _payload, after in accepted(play):
        if kind == "ApprovalRequest":
            requests += 1
        elif kind != "Commitment":
            assert sender not in ballots
            ballots[sender] = kind
        assert requests == 1
        state: quorum.State = after.mode_state
        assert {who: ballot.choice for who, ballot in state.ballots.items()} == ballots
        assert state.approval_count == list(ballots.values()).count("Approve")


@given(plays(MULTI_ROUND))
def test_convergence_is_final(play: Play) -> None:
    """Rounds count what is new; when all say the same, nothing more is said but the commitment."""
    values: dict[str, str] = {}
    rounds, converged = 0, False
    for sender, kind, payload, after in accepted(play):
        if kind == "Contribute":
            assert not converged
            rounds += values.get(sender) != payload.value
            values[sender] = payload.value
            converged = len(values) == 3 and len(set(values.values())) == 1
        else:
            assert converged
        state: multi_round.State = after.mode_state
        assert (state.round, dict(state.contributions), state.converged) == (rounds, values, converged)
