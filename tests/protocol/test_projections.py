"""Our states beside the official SDK's projections, after each accepted message of random sessions.

A projection may be partial, and knows neither roster nor policy; a State has all three. Where they differ, the test says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from macp.v1.core_pb2 import CommitmentPayload, SessionStartPayload
from macp.v1.envelope_pb2 import Envelope
from macp.v1.policy_pb2 import PolicyDescriptor
from macp_sdk.base_projection import BaseProjection
from macp_sdk.handoff import HandoffProjection
from macp_sdk.policy import effective_quorum_threshold
from macp_sdk.projections import DecisionProjection
from macp_sdk.proposal import ProposalProjection
from macp_sdk.quorum import QuorumProjection
from macp_sdk.task import TaskProjection

from macp_rx import Message
from macp_rx.protocol.binding import Binding
from macp_rx.protocol.messages import DECISION, HANDOFF, MULTI_ROUND, PROPOSAL, QUORUM, TASK
from macp_rx.protocol.modes import decision, handoff, multi_round, proposal, quorum, task
from macp_rx.protocol.policy import DEFAULT, AcceptanceRules, AssignmentRules, build_handoff_policy, build_task_policy
from tests.protocol.plays import ALL_MODES, NOTES, REGISTRY, Moment, Play, Say, perform, plays

IDS = ("p1", "p2", "p3", "no such")
PEOPLE = ("chair", "alice", "bob", "mallory")


class Bare(BaseProjection):
    """What the SDK says of a mode that it has no projection for."""

    def _apply_mode_message(self, envelope: Envelope) -> None:
        pass


class BareMultiRound(Bare):
    MODE: ClassVar[str] = MULTI_ROUND


class BareNotes(Bare):
    MODE: ClassVar[str] = NOTES.mode


PROJECTIONS: dict[str, type[BaseProjection]] = {
    DECISION: DecisionProjection,
    PROPOSAL: ProposalProjection,
    TASK: TaskProjection,
    HANDOFF: HandoffProjection,
    QUORUM: QuorumProjection,
    MULTI_ROUND: BareMultiRound,
    NOTES.mode: BareNotes,
}


def compared(play: Play) -> Iterator[tuple[Moment, Any]]:
    """Each step that something was accepted in, and the SDK's projection of what was accepted so far."""
    theirs: Any = PROJECTIONS[play.opening.mode]()
    theirs.apply_envelope(play.opening)
    for moment in perform(play):
        new = moment.after.accepted - moment.before.accepted
        if new:
            said = [entry.envelope for entry in moment.after.log or () if entry.envelope is not None]
            for envelope in said[-new:]:
                theirs.apply_envelope(envelope)
            yield moment, theirs


@pytest.mark.parametrize("mode", ALL_MODES)
@given(st.data())
def test_what_every_mode_answers(mode: str, data: st.DataObject) -> None:
    """The commitment, whether there is one, its sign, and the last phase. What the SDK calls an anomaly is refused here."""
    for moment, theirs in compared(data.draw(plays(mode))):
        ours = moment.after.mode_state
        for name in ("commitment", "is_committed", "is_positive_outcome"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert (ours.phase == "Committed") == theirs.is_committed
        assert not theirs.has_anomalies


def course(mode: str, *words: tuple[str, Message], policy: PolicyDescriptor | None = None, pause_ms: int = 0) -> Play:
    """A session that comes where random ones seldom do; nothing in it is refused."""
    payload = SessionStartPayload(
        participants=["chair", "alice", "bob"],
        mode_version="1.0.0",
        configuration_version="c1",
        policy_version="policy.test",
        ttl_ms=60_000,
    )
    opening, *said = (
        Envelope(
            macp_version="1.0",
            mode=mode,
            message_type=message.message_type,
            message_id=f"m{number}",
            session_id="a-session-to-play-0001",
            sender=sender,
            payload=message.payload.SerializeToString(),
        )
        for number, (sender, message) in enumerate([("chair", Message(mode, payload)), *words])
    )
    default = PolicyDescriptor(policy_id="policy.test", mode=mode, rules=b"{}", schema_version=1)
    play = Play(opening, policy or default, tuple(Say(pause_ms, envelope) for envelope in said))
    assert all(moment.refusal is None for moment in perform(play))
    return play


def commits(mode: str, *, positive: bool) -> tuple[str, Message]:
    payload = CommitmentPayload(
        commitment_id="c",
        action="settled",
        authority_scope="test",
        reason="because",
        mode_version="1.0.0",
        configuration_version="c1",
        outcome_positive=positive,
    )
    return "chair", Message(mode, payload)


def fields(record: Any, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in names)


EVALUATION = ("proposal_id", "recommendation", "confidence", "reason", "sender")
OBJECTION = ("proposal_id", "reason", "severity", "sender")
VOTE = ("proposal_id", "vote", "reason", "sender")


@given(plays(DECISION))
def test_a_decision(play: Play) -> None:
    for moment, theirs in compared(play):
        ours: decision.State = moment.after.mode_state
        assert ours.phase == theirs.phase
        assert {one: fields(said, "option", "rationale", "sender") for one, said in ours.proposals.items()} == {
            one: fields(said, "option", "rationale", "sender") for one, said in theirs.proposals.items()
        }
        for ours_said, theirs_said, names in (
            (ours.evaluations, theirs.evaluations, EVALUATION),
            (ours.objections, theirs.objections, OBJECTION),
            (ours.review_evaluations, theirs.review_evaluations(), EVALUATION),
            (ours.qualifying_evaluations, theirs.qualifying_evaluations(), EVALUATION),
        ):
            assert [fields(said, *names) for said in ours_said or ()] == [fields(said, *names) for said in theirs_said]
        assert {(one, who): fields(said, *VOTE) for one, cast in ours.votes.items() for who, said in cast.items()} == {
            (one, who): fields(said, *VOTE) for one, cast in theirs.votes.items() for who, said in cast.items()
        }
        # the SDK leaves out proposals that nobody has voted on
        assert ours.vote_totals == dict.fromkeys(ours.proposals, 0) | theirs.vote_totals()
        for proposal_id in IDS:
            assert ours.vote_ratio(proposal_id) == theirs.vote_ratio(proposal_id)
            assert ours.has_blocking_objection(proposal_id) == theirs.has_blocking_objection(proposal_id)
        assert ours.has_blocking_objection() == theirs.has_blocking_objection()
        # the SDK divides by the votes on all proposals, so that one which all approve does not win beside another
        if len(ours.votes) < 2:
            assert ours.majority_winner == theirs.majority_winner()


CONVERGING = (
    ("chair", proposal.propose("p1", "one")),
    ("alice", proposal.counter_propose("p2", "p1", "two")),
    *((who, proposal.accept("p1")) for who in ("chair", "alice", "bob")),
    ("chair", proposal.withdraw("p1")),
    *((who, proposal.accept("p2")) for who in ("chair", "alice", "bob")),
)
REJECTING = (
    ("alice", proposal.propose("p1", "one")),
    ("bob", proposal.propose("p2", "two")),
    ("bob", proposal.reject("p1", terminal=True)),
    ("chair", proposal.reject("p1", terminal=True)),
    ("alice", proposal.withdraw("p1")),
    ("alice", proposal.reject("p2", terminal=True)),
)


@example(course(PROPOSAL, *CONVERGING, commits(PROPOSAL, positive=True)))
@example(course(PROPOSAL, *REJECTING, commits(PROPOSAL, positive=False)))
@given(plays(PROPOSAL))
def test_a_proposal(play: Play) -> None:
    for moment, theirs in compared(play):
        ours: proposal.State = moment.after.mode_state
        rules = moment.after.bound.policy.rules
        live = theirs.live_proposals()
        assert list(ours.live_proposals) == sorted(live)
        assert all(ours.live_proposals[one].proposer == live[one].sender for one in live)
        # the SDK leaves a terminal rejection in force when its proposal is withdrawn, and knows of no policy that makes one
        final = {
            said.proposal_id
            for said in theirs.rejections
            if said.proposal_id in live and (said.terminal or rules.rejection.terminal_on_any_reject)
        }
        assert [one.payload.proposal_id for one in ours.active_proposals] == sorted(live.keys() - final)
        assert ours.has_terminal_rejection == bool(final)
        assert {one for one in IDS if ours.is_terminally_rejected(one)} == final
        latest, theirs_latest = ours.latest_proposal, theirs.latest_proposal()
        if latest is None:
            assert theirs_latest is None
        else:
            assert (latest.payload.proposal_id, latest.payload.title) == fields(theirs_latest, "proposal_id", "title")
        # to the SDK what somebody accepts is accepted, or what all do who accept anything, even if it is withdrawn;
        # here it is what those accept who must
        assert all(theirs.is_accepted(one) for one in IDS if ours.is_accepted(one))
        accepted = ours.accepted_proposal
        assert accepted is None or ours.is_accepted(accepted)
        everybody = set(ours.participants) == {
            who for who, which in ours.accepts.items() if which == theirs.accepted_proposal()
        }
        if everybody or (accepted is not None and rules.acceptance.criterion == "all_parties"):
            assert accepted == theirs.accepted_proposal()
        # the SDK's phase never goes back, and there is no Converged
        expected = "TerminalRejected" if final else "Negotiating" if accepted is None else "Converged"
        assert ours.phase == ("Committed" if theirs.is_committed else expected)
        if final and not rules.rejection.terminal_on_any_reject:
            assert ours.phase == theirs.phase


GIVING_BACK = build_task_policy("policy.test", assignment=AssignmentRules(allow_reassignment_on_reject=True))
TAKEN = (("chair", task.request_task("t1", "one")), ("alice", task.accept_task("t1")))
UPDATED = (*TAKEN, ("alice", task.update_task("t1", progress=0.25)))
TAKEN_OVER = (*UPDATED, ("alice", task.reject_task("t1")), ("bob", task.accept_task("t1")))
NAMED = (("chair", task.request_task("t1", "one", requested_assignee="alice")),)
DONE, FAILED = task.complete_task("t1"), task.fail_task("t1", retryable=True)


@example(course(TASK, *UPDATED, ("alice", DONE), commits(TASK, positive=True)))
@example(course(TASK, *TAKEN, ("alice", FAILED), commits(TASK, positive=False)))
@example(course(TASK, *TAKEN_OVER, ("bob", DONE), policy=GIVING_BACK))
@example(course(TASK, *UPDATED, ("alice", DONE), ("alice", task.reject_task("t1")), policy=GIVING_BACK))
@example(course(TASK, *TAKEN[:1], ("bob", task.reject_task("t1")), ("alice", task.reject_task("t1"))))
@example(course(TASK, *NAMED, ("alice", task.reject_task("t1")), commits(TASK, positive=False)))
@example(course(TASK, *NAMED, *TAKEN[1:], ("alice", task.reject_task("t1")), policy=GIVING_BACK))
@given(plays(TASK))
def test_a_task(play: Play) -> None:
    for moment, theirs in compared(play):
        ours: task.State = moment.after.mode_state
        assert ours.task is not None
        task_id = ours.task.task_id
        record = theirs.get_task(task_id)
        assert (ours.task.title, ours.task.instructions) == (record.title, record.instructions)
        assert ours.current_assignee == theirs.current_assignee(task_id)
        assert ours.latest_progress == theirs.latest_progress()
        assert list(ours.declined_participants) == theirs.declined_participants()
        assert [who for who in PEOPLE if ours.has_declined(who)] == [who for who in PEOPLE if theirs.has_declined(who)]
        assert ours.is_retryable == theirs.is_retryable(task_id)
        assert ours.negative_commit_eligible == theirs.negative_commit_eligible(task_id)
        # the SDK does not ask whose the task is to take, nor whether it is done
        assert all(theirs.can_accept(who) for who in PEOPLE if ours.can_accept(who))
        if ours.report is None:
            assert {who for who in PEOPLE if ours.is_eligible(who) and theirs.can_accept(who)} == {
                who for who in PEOPLE if ours.can_accept(who)
            }
        if ours.report is not None and ours.has_declined(ours.reporter):
            # who has reported may give the task back where the policy allows it (`protocol.md` 4.4): the report stands, but the
            # SDK shows what came after it
            assert ours.current_status in ("completed", "failed")
            continue
        assert ours.current_status == theirs.current_status(task_id)
        assert ours.is_accepted == theirs.is_accepted(task_id)
        assert ours.is_completed == theirs.is_completed(task_id)
        assert ours.is_failed == theirs.is_failed(task_id)
        assert ours.progress == theirs.progress_of(task_id)
        # the SDK's phase stays InProgress when the task is given back
        given_back = ours.current_status == "rejected" and not ours.is_committed
        assert ours.phase == ("Requested" if given_back else theirs.phase)


DECLINED = (
    ("chair", handoff.offer("p1", "alice")),
    ("chair", handoff.add_context("p1")),
    ("alice", handoff.decline("p1")),
    ("chair", handoff.offer("p2", "bob")),
)
LATE = ("chair", handoff.add_context("p1"))
SOON = build_handoff_policy("policy.test", acceptance=AcceptanceRules(implicit_accept_timeout_ms=1000))


@example(course(HANDOFF, *DECLINED, LATE, ("bob", handoff.accept_handoff("p2")), commits(HANDOFF, positive=True)))
@example(course(HANDOFF, *DECLINED, commits(HANDOFF, positive=False)))
@example(course(HANDOFF, *DECLINED[:1], LATE, policy=SOON, pause_ms=1000))
@given(plays(HANDOFF))
def test_a_handoff(play: Play) -> None:
    for moment, theirs in compared(play):
        ours: handoff.State = moment.after.mode_state
        assert set(ours.handoffs) == set(theirs.handoffs)
        for handoff_id in IDS:
            one, record = ours.handoffs.get(handoff_id), theirs.get_handoff(handoff_id)
            if one is not None:
                assert fields(one.payload, "target_participant", "scope", "reason") == fields(
                    record, "target_participant", "scope", "reason"
                )
            for name in ("is_accepted", "is_declined", "is_implicitly_accepted"):
                assert getattr(ours, name)(handoff_id) == getattr(theirs, name)(handoff_id), name
        active, theirs_active = ours.active_offer, theirs.active_offer()
        assert (active and active.payload.handoff_id) == (theirs_active and theirs_active.handoff_id)
        assert [active] * (active is not None) == [ours.handoffs[one.handoff_id] for one in theirs.pending_handoffs()]
        assert ours.has_accepted_offer == theirs.has_accepted_offer()
        assert list(ours.declined_targets) == sorted(theirs.declined_targets())
        for who in PEOPLE:
            assert ours.can_offer_to(who) == theirs.can_offer_to(who)
        # context for an offer that was declined is no context for the one that waits; the SDK does not look
        if theirs.phase != "ContextSharing" or ours.latest in ours.contexts:
            assert ours.phase == theirs.phase
        else:
            assert ours.phase == "OfferPending"


REJECTED = (
    ("chair", quorum.request_approval("r1", "deploy", required_approvals=2)),
    ("alice", quorum.approve("r1")),
    ("chair", quorum.reject("r1")),
    ("bob", quorum.abstain("r1")),
)


@example(course(QUORUM, *REJECTED, commits(QUORUM, positive=False)))
@given(plays(QUORUM))
def test_a_quorum(play: Play) -> None:
    for moment, theirs in compared(play):
        ours: quorum.State = moment.after.mode_state
        assert ours.phase == theirs.phase
        assert ours.request is not None
        request_id, size = ours.request.request_id, len(ours.participants)
        assert fields(ours.request, "action", "summary", "required_approvals") == fields(
            theirs.requests[request_id], "action", "summary", "required_approvals"
        )
        assert ours.approval_count == theirs.approval_count(request_id)
        assert ours.rejection_count == theirs.rejection_count(request_id)
        assert ours.abstention_count == theirs.abstention_count(request_id)
        assert list(ours.voted_senders) == sorted(theirs.voted_senders(request_id))
        # the SDK's projection is told the policy's threshold at each question
        bar = effective_quorum_threshold(play.policy, size, ours.request.required_approvals)
        assert ours.threshold == theirs.threshold(request_id, effective_threshold=bar)
        assert ours.has_quorum == theirs.has_quorum(request_id, effective_threshold=bar)
        assert ours.remaining_votes_needed == theirs.remaining_votes_needed(request_id, effective_threshold=bar)
        unreachable = theirs.is_threshold_unreachable(request_id, size, effective_threshold=bar)
        assert ours.is_threshold_unreachable == unreachable
        # the runtime also takes a commitment when the threshold can no longer be reached (`protocol.md` 4.6)
        ready = theirs.commitment_ready(request_id, effective_threshold=bar)
        assert ours.commitment_ready == (ready or (unreachable and not theirs.is_committed))


@given(plays(MULTI_ROUND))
def test_multi_round_and_its_phase(play: Play) -> None:
    """The SDK has no projection of it."""
    for moment, theirs in compared(play):
        ours: multi_round.State = moment.after.mode_state
        agreed = len(ours.contributions) == 3 and len(set(ours.contributions.values())) == 1
        expected = "Converged" if agreed else "Contributing"
        assert ours.phase == ("Committed" if theirs.is_committed else expected)


@pytest.mark.parametrize("mode", ALL_MODES)
def test_the_phase_of_a_session_that_nothing_was_said_in(mode: str) -> None:
    theirs = PROJECTIONS[mode]().phase
    session = Binding("s", mode, "chair", ("chair", "alice"), "1.0.0", "c1", DEFAULT)
    ours = REGISTRY[mode].mode.initial(session).phase
    assert ours == (theirs or {MULTI_ROUND: "Contributing", NOTES.mode: "Open"}[mode])
