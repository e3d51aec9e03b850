"""Modes: who may say what, which values are taken, and in which order it is checked."""

from __future__ import annotations

import pytest
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ObjectionPayload, ProposalPayload, VotePayload
from macp.modes.handoff.v1.handoff_pb2 import HandoffOfferPayload
from macp.modes.proposal.v1 import proposal_pb2
from macp.modes.quorum.v1.quorum_pb2 import ApprovalRequestPayload
from macp.modes.task.v1.task_pb2 import TaskAcceptPayload, TaskRequestPayload, TaskUpdatePayload
from macp.v1.core_pb2 import ModeDescriptor

from macp_rx import MacpSessionError
from macp_rx.protocol.messages import DECISION, HANDOFF, MULTI_ROUND, PROPOSAL, QUORUM, TASK, Message
from macp_rx.protocol.modes import decision, handoff, multi_round, proposal, quorum, task
from macp_rx.protocol.policy import AcceptanceRules, AssignmentRules, build_proposal_policy, build_task_policy
from tests.conftest import Connect
from tests.runtime.conversation import OK, Conversation, register

UNKNOWN = ["Nonsense", "vote", "SessionCancel", "SessionSuspend", "SessionResume", "TtlExpired"]


@pytest.mark.parametrize("mode", [DECISION, PROPOSAL, TASK, HANDOFF, QUORUM, MULTI_ROUND])
def test_an_unknown_type_is_forbidden_in_decision_mode_and_invalid_elsewhere(connect: Connect, mode: str) -> None:
    """Item 5: outside decision mode only those who may not speak hear FORBIDDEN."""
    talk = Conversation(connect("chair"), mode)
    for unknown in UNKNOWN:
        expected = "FORBIDDEN" if mode == DECISION else "INVALID_ENVELOPE"
        assert talk.say("alice", b"", unknown) == expected, unknown
        assert talk.say("mallory", b"", unknown) == "FORBIDDEN", unknown


def test_an_undeclared_type_of_a_registered_mode_is_invalid(connect: Connect) -> None:
    """Item 5: a mode that somebody registered has the types of its descriptor, and no others."""
    client = connect("chair")
    mode = f"ext.test.{client.clock.new_id()[:8]}.v1"
    client.register_ext_mode(
        ModeDescriptor(
            mode=mode, mode_version="1.0.0", message_types=["Note", "Commitment"], terminal_message_types=["Commitment"]
        )
    )
    talk = Conversation(client, mode)
    assert talk.say("alice", b"x", "Note") == OK
    assert talk.say("alice", b"x", "Nonsense") == "INVALID_ENVELOPE"
    assert talk.say("mallory", b"x", "Nonsense") == "FORBIDDEN"
    inert = Conversation(client, mode, [])
    assert inert.say("mallory", b"x", "Note") == OK  # without participants anybody speaks


@pytest.mark.parametrize(
    ("mode", "first"),
    [
        (DECISION, decision.propose("p1", "one")),
        (PROPOSAL, proposal.propose("p1", "one")),
        (MULTI_ROUND, multi_round.contribute("one")),
    ],
)
def test_an_initiator_is_no_participant_by_itself(connect: Connect, mode: str, first: Message) -> None:
    """Item 6: whoever is not in the roster may start a session and commit it, not take part."""
    talk = Conversation(connect("chair"), mode, ["alice"])
    assert talk.say("chair", first) == "FORBIDDEN"
    assert talk.say("alice", first) == OK
    if mode == PROPOSAL:
        assert talk.say("chair", proposal.accept("p1")) == "FORBIDDEN"
        assert talk.say("alice", proposal.accept("p1")) == OK
    assert talk.commit("alice") == "FORBIDDEN"
    assert talk.commit("chair") == OK


def test_the_opening_message_of_a_mode_is_its_initiators(connect: Connect) -> None:
    """Item 6: only TaskRequest, HandoffOffer and ApprovalRequest ask for the initiator, and not for the roster."""
    client = connect("chair")
    tasks = Conversation(client, TASK, ["alice"])
    assert tasks.say("alice", task.request_task("t1", "dig")) == "FORBIDDEN"
    assert tasks.say("chair", task.request_task("t1", "dig")) == OK
    assert tasks.say("chair", task.accept_task("t1")) == "FORBIDDEN"
    approvals = Conversation(client, QUORUM, ["alice"])
    request = quorum.request_approval("r1", "deploy", required_approvals=1)
    assert approvals.say("alice", request) == "FORBIDDEN"
    assert approvals.say("chair", request) == OK
    assert approvals.say("chair", quorum.approve("r1")) == "FORBIDDEN"
    handoffs = Conversation(client, HANDOFF)
    assert handoffs.say("alice", handoff.offer("h1", "bob")) == "FORBIDDEN"
    assert handoffs.say("chair", handoff.offer("h1", "alice")) == OK


def test_a_handoff_needs_its_initiator_in_the_roster(connect: Connect) -> None:
    """Item 6: the one mode that does; a task needs somebody else besides."""
    client = connect("chair")
    assert Conversation(client, HANDOFF, ["alice", "bob"], start=False).start() == "INVALID_ENVELOPE"
    assert Conversation(client, HANDOFF, ["chair"], start=False).start() == "INVALID_ENVELOPE"
    assert Conversation(client, TASK, ["chair"], start=False).start() == "INVALID_ENVELOPE"
    assert Conversation(client, DECISION, [], start=False).start() == OK
    assert Conversation(client, PROPOSAL, [], start=False).start() == "INVALID_ENVELOPE"


def test_enum_values_are_exact(connect: Connect) -> None:
    """Item 10: votes and recommendations in capitals, severities in small letters, nothing trimmed, nothing by default."""
    talk = Conversation(connect("chair"), DECISION)
    assert talk.say("chair", decision.propose("p1", "one")) == OK
    for wrong in ("approve", "Approve", " APPROVE", "APPROVE ", "YES", ""):
        assert talk.say("alice", VotePayload(proposal_id="p1", vote=wrong)) == "INVALID_ENVELOPE", wrong
        evaluation = EvaluationPayload(proposal_id="p1", recommendation=wrong, confidence=0.5)
        assert talk.say("alice", evaluation) == "INVALID_ENVELOPE", wrong
    for wrong in ("CRITICAL", "Critical", "critical ", "", "none"):
        assert talk.say("alice", ObjectionPayload(proposal_id="p1", severity=wrong)) == "INVALID_ENVELOPE", wrong
    for right in ("APPROVE", "REVIEW", "BLOCK", "REJECT"):
        assert talk.say("alice", decision.evaluate("p1", right, confidence=0.5)) == OK
    for right in ("low", "medium", "high", "critical"):
        assert talk.say("alice", decision.raise_objection("p1", reason="", severity=right)) == OK
    assert talk.say("alice", decision.vote("p1", "ABSTAIN")) == OK


@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u00a0\u3000"])
def test_what_must_not_be_blank_and_what_must_not_be_empty(connect: Connect, blank: str) -> None:
    """Item 33: proposal ids and options must not be blank; task, request and handoff ids only not empty."""
    client = connect("chair")
    expected = OK if blank else "INVALID_ENVELOPE"
    deciding, negotiating = Conversation(client, DECISION), Conversation(client, PROPOSAL)
    assert deciding.say("chair", ProposalPayload(proposal_id=blank, option="one")) == "INVALID_ENVELOPE"
    assert deciding.say("chair", ProposalPayload(proposal_id="p1", option=blank)) == "INVALID_ENVELOPE"
    assert negotiating.say("chair", proposal_pb2.ProposalPayload(proposal_id=blank, title="x")) == "INVALID_ENVELOPE"
    assert negotiating.say("chair", proposal_pb2.ProposalPayload(proposal_id="p1")) == OK
    counter = proposal_pb2.CounterProposalPayload(proposal_id="p2", supersedes_proposal_id=blank)
    assert negotiating.say("chair", counter) == "INVALID_ENVELOPE"
    assert Conversation(client, TASK).say("chair", TaskRequestPayload(task_id=blank)) == expected
    request = ApprovalRequestPayload(request_id=blank, required_approvals=1)
    assert Conversation(client, QUORUM).say("chair", request) == expected
    offer = HandoffOfferPayload(handoff_id=blank, target_participant="alice")
    assert Conversation(client, HANDOFF).say("chair", offer) == expected


def test_participants_are_compared_trimmed_and_kept_as_they_are(connect: Connect) -> None:
    """Item 33: " alice " is another name than "alice", but the two cannot be in one session."""
    client = connect("chair")
    assert Conversation(client, DECISION, ["alice", " alice "], start=False).start() == "INVALID_ENVELOPE"
    assert Conversation(client, DECISION, ["alice", " \t"], start=False).start() == "INVALID_ENVELOPE"
    talk = Conversation(client, DECISION, ["alice\u3000"])
    assert list(talk.metadata().participants) == ["alice\u3000"]
    assert talk.say("alice", decision.propose("p1", "one")) == "FORBIDDEN"


def test_task_accept_is_judged_in_the_protocols_order(connect: Connect) -> None:
    """Item 34: active assignee, own rejection, policy, named assignee, eligibility: each has its own code."""
    client = connect("chair")

    def talk(policy: str = "", assignee: str = "") -> Conversation:
        one = Conversation(client, TASK, ["chair", "alice", "bob", "carol"], policy=policy)
        assert one.say("chair", task.request_task("t1", "dig", requested_assignee=assignee)) == OK
        return one

    taken = talk()
    assert taken.say("bob", task.reject_task("t1")) == OK
    assert taken.say("alice", task.accept_task("t1")) == OK
    assert taken.say("chair", TaskAcceptPayload(task_id="t1", assignee="nobody")) == "INVALID_ENVELOPE"  # alice has it
    rejected = talk()
    assert rejected.say("bob", task.reject_task("t1")) == OK
    assert rejected.say("bob", task.accept_task("t1", assignee="nobody")) == "INVALID_ENVELOPE"
    assert rejected.say("chair", task.accept_task("t1", assignee="nobody")) == "INVALID_ENVELOPE"
    assert rejected.say("chair", task.accept_task("t1")) == "FORBIDDEN"
    assert rejected.say("alice", task.accept_task("t1")) == OK  # a rejection before is personal
    named = talk(assignee="alice")
    assert named.say("bob", task.accept_task("t1", assignee="alice")) == "INVALID_ENVELOPE"
    assert named.say("bob", task.accept_task("t1")) == "FORBIDDEN"
    assert named.say("alice", task.accept_task("t1", assignee="alice")) == OK


def test_a_task_is_reassigned_only_where_the_policy_lets_it(connect: Connect) -> None:
    """Item 34: giving a task back is denied by policy, before who would take it is looked at."""
    client = connect("chair")

    def talk(policy: str) -> Conversation:
        one = Conversation(client, TASK, ["chair", "alice", "bob"], policy=policy)
        assert one.say("chair", task.request_task("t1", "dig")) == OK
        assert one.say("alice", task.accept_task("t1")) == OK
        return one

    strict = talk("")
    assert strict.say("alice", task.reject_task("t1", assignee="nobody")) == "POLICY_DENIED"
    assert strict.say("bob", task.reject_task("t1")) == "INVALID_ENVELOPE"  # alice has it
    lax = talk(register(client, build_task_policy, assignment=AssignmentRules(allow_reassignment_on_reject=True)))
    assert lax.say("alice", task.reject_task("t1", assignee="nobody")) == "INVALID_ENVELOPE"
    assert lax.say("alice", task.reject_task("t1")) == OK
    assert lax.say("alice", task.accept_task("t1")) == "INVALID_ENVELOPE"
    assert lax.say("chair", task.accept_task("t1")) == "FORBIDDEN"
    assert lax.say("bob", task.accept_task("t1")) == OK


def test_accepting_another_proposal_withdraws_the_earlier_accept(connect: Connect) -> None:
    """Item 35: each participant accepts one proposal at a time, its own too; the last word counts."""
    talk = Conversation(connect("chair"), PROPOSAL, ["alice", "bob"])
    assert talk.say("alice", proposal.propose("p1", "one")) == OK
    assert talk.say("bob", proposal.counter_propose("p2", "p1", "two")) == OK
    assert talk.say("alice", proposal.accept("p1")) == OK
    assert talk.say("bob", proposal.accept("p2")) == OK
    assert talk.commit() == "INVALID_ENVELOPE"
    assert talk.say("bob", proposal.accept("p1")) == OK  # now they agree
    assert talk.say("alice", proposal.accept("p2")) == OK  # now they do not
    assert talk.commit() == "INVALID_ENVELOPE"
    assert talk.say("alice", proposal.accept("p1")) == OK
    assert talk.commit() == OK


def test_a_proposer_need_not_accept_where_counterparties_decide(connect: Connect) -> None:
    """Item 35: but under ``all_parties`` it must, since proposing is no acceptance."""
    client = connect("chair")
    rules = AcceptanceRules(criterion="counterparty")
    for policy, expected in ((register(client, build_proposal_policy, acceptance=rules), OK), ("", "INVALID_ENVELOPE")):
        talk = Conversation(client, PROPOSAL, ["alice", "bob"], policy=policy)
        assert talk.say("alice", proposal.propose("p1", "one")) == OK
        assert talk.say("bob", proposal.accept("p1")) == OK
        assert talk.commit() == expected


def test_a_terminal_rejection_outweighs_agreement(connect: Connect) -> None:
    """Item 35: a rejection does not take back an accept; what is withdrawn takes only its own rejections along."""
    talk = Conversation(connect("chair"), PROPOSAL, ["alice", "bob"])
    assert talk.say("alice", proposal.propose("p1", "one")) == OK
    assert talk.say("alice", proposal.propose("p2", "two")) == OK
    assert talk.say("bob", proposal.reject("p2", terminal=True)) == OK
    assert talk.say("alice", proposal.accept("p1")) == OK
    assert talk.say("alice", proposal.withdraw("p1")) == OK  # and with it the accept, not the rejection of p2
    assert talk.say("bob", proposal.withdraw("p2")) == "FORBIDDEN"
    assert talk.commit(action="proposal.rejected", positive=False) == OK  # the terminal rejection of p2 stands


def test_withdrawing_a_proposal_takes_its_terminal_rejections_along(connect: Connect) -> None:
    """Item 35: then there is neither agreement nor an end."""
    talk = Conversation(connect("chair"), PROPOSAL, ["alice", "bob"])
    assert talk.say("alice", proposal.propose("p1", "one")) == OK
    assert talk.say("bob", proposal.reject("p1", terminal=True)) == OK
    assert talk.say("alice", proposal.withdraw("p1")) == OK
    assert talk.say("alice", proposal.withdraw("p1")) == "INVALID_ENVELOPE"
    assert talk.commit() == "INVALID_ENVELOPE"
    assert talk.say("bob", proposal.counter_propose("p2", "p1", "two")) == OK  # it may supersede what is withdrawn


def test_a_confidence_that_is_no_number_is_refused(connect: Connect, is_reference: bool) -> None:
    """Item 40: the real server takes it, and then accepts nothing more; ours refuses it and goes on."""
    talk = Conversation(connect("chair"), DECISION)
    assert talk.say("chair", decision.propose("p1", "one")) == OK
    for wrong in (-0.1, 1.1, float("inf")):
        evaluation = EvaluationPayload(proposal_id="p1", recommendation="APPROVE", confidence=wrong)
        assert talk.say("alice", evaluation) == "INVALID_ENVELOPE", wrong
    nan = EvaluationPayload(proposal_id="p1", recommendation="APPROVE", confidence=float("nan"))
    assert talk.say("alice", nan) == (OK if is_reference else "INVALID_ENVELOPE")
    assert talk.say("alice", decision.vote("p1", "APPROVE")) == ("INVALID_ENVELOPE" if is_reference else OK)


@pytest.mark.parametrize("progress", [float("nan"), float("inf"), float("-inf")])
def test_progress_that_is_no_number_is_refused(connect: Connect, is_reference: bool, progress: float) -> None:
    """Item 40: the same with a task's progress, which is in no other way restricted."""
    talk = Conversation(connect("chair"), TASK)
    assert talk.say("chair", task.request_task("t1", "dig")) == OK
    assert talk.say("alice", task.accept_task("t1")) == OK
    assert talk.say("alice", TaskUpdatePayload(task_id="t1", progress=-7)) == OK
    assert talk.say("alice", TaskUpdatePayload(task_id="t1", progress=progress)) == (
        OK if is_reference else "INVALID_ENVELOPE"
    )
    assert talk.say("alice", task.complete_task("t1")) == ("INVALID_ENVELOPE" if is_reference else OK)
    with pytest.raises(MacpSessionError, match="progress"):
        task.update_task("t1", progress=progress)
