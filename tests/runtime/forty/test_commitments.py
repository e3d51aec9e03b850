"""Commitments: who may make one, and what it must say."""

from __future__ import annotations

import pytest

from macp_rx.protocol.messages import DECISION, HANDOFF, PROPOSAL, QUORUM, TASK
from macp_rx.protocol.modes import decision, handoff, proposal, quorum, task
from macp_rx.protocol.policy import (
    CommitmentRules,
    build_decision_policy,
    build_handoff_policy,
    build_proposal_policy,
    build_quorum_policy,
    build_task_policy,
)
from tests.conftest import Connect
from tests.runtime.conversation import OK, Conversation, answer, register

POSITIVE = ["selected", "accepted", "completed", "approved"]
NEGATIVE = ["rejected", "failed", "declined"]
BUILDERS = {
    DECISION: build_decision_policy,
    PROPOSAL: build_proposal_policy,
    TASK: build_task_policy,
    HANDOFF: build_handoff_policy,
    QUORUM: build_quorum_policy,
}


def make_ready(talk: Conversation) -> None:
    """Lets a session of any standard mode come so far that it can be committed."""
    said = {
        DECISION: [("chair", decision.propose("p1", "one"))],
        PROPOSAL: [("chair", proposal.propose("p1", "one")), ("alice", proposal.reject("p1", terminal=True))],
        TASK: [
            ("chair", task.request_task("t1", "dig")),
            ("alice", task.accept_task("t1")),
            ("alice", task.complete_task("t1")),
        ],
        HANDOFF: [("chair", handoff.offer("h1", "alice")), ("alice", handoff.accept_handoff("h1"))],
        QUORUM: [
            ("chair", quorum.request_approval("r1", "deploy", required_approvals=1)),
            ("alice", quorum.approve("r1")),
        ],
    }
    for sender, message in said[talk.mode]:
        assert talk.say(sender, message) == OK


@pytest.mark.parametrize("mode", BUILDERS)
def test_under_a_designated_role_the_initiator_cannot_commit(connect: Connect, mode: str) -> None:
    """Item 7: nor can a participant; who is designated need be neither. It is FORBIDDEN, not POLICY_DENIED."""
    client = connect("chair")
    rules = CommitmentRules(authority="designated_role", designated_roles=("judge",))
    talk = Conversation(client, mode, policy=register(client, BUILDERS[mode], commitment=rules))
    make_ready(talk)
    assert talk.commit("chair") == "FORBIDDEN"
    assert talk.commit("alice") == "FORBIDDEN"
    assert talk.commit("judge", positive=False, action="approved") == "INVALID_ENVELOPE"
    assert talk.commit("judge") == OK


@pytest.mark.parametrize("mode", BUILDERS)
def test_any_participant_may_commit_where_the_policy_says_so(connect: Connect, mode: str) -> None:
    """Item 7: then the initiator may too, in the roster or not."""
    client = connect("chair")
    policy = register(client, BUILDERS[mode], commitment=CommitmentRules(authority="any_participant"))
    for committer, expected in (("mallory", "FORBIDDEN"), ("bob", OK), ("chair", OK)):
        talk = Conversation(client, mode, policy=policy)
        make_ready(talk)
        assert talk.commit(committer) == expected


def test_commitment_authority_opens_the_lifecycle_too(connect: Connect) -> None:
    """Item 7: who is designated may suspend, resume and cancel, and still not read; so may the initiator."""
    client = connect("chair")
    rules = CommitmentRules(authority="designated_role", designated_roles=("judge",))
    talk = Conversation(client, DECISION, policy=register(client, build_decision_policy, commitment=rules))
    for who in ("judge", "chair"):
        speaker = client.acting_as(who)
        assert answer(speaker.suspend_session, talk.session_id) == OK
        assert answer(speaker.resume_session, talk.session_id) == OK
    for who in ("alice", "mallory"):
        speaker = client.acting_as(who)
        for control in (speaker.suspend_session, speaker.resume_session, speaker.cancel_session):
            assert answer(control, talk.session_id) == "PERMISSION_DENIED FORBIDDEN"
    judge = client.acting_as("judge")
    assert answer(judge.get_session, talk.session_id) == "PERMISSION_DENIED FORBIDDEN"
    assert answer(judge.cancel_session, talk.session_id) == OK
    assert talk.state() == "CANCELLED"


def test_a_commitment_repeats_the_versions_that_the_session_is_bound_to(connect: Connect) -> None:
    """Item 8: mode and configuration exactly; the policy's id may be left out, and is ``policy.default`` for an empty one."""
    client = connect("chair")
    talk = Conversation(client, DECISION)
    assert talk.metadata().policy_version == "policy.default"
    make_ready(talk)
    for wrong in ("", "1.0", "1.0.0 "):
        assert talk.commit(mode_version=wrong) == "INVALID_ENVELOPE", wrong
    for wrong in ("", "C1", "c1 "):
        assert talk.commit(configuration_version=wrong) == "INVALID_ENVELOPE", wrong
    assert talk.commit(policy_version="policy.std.majority") == "INVALID_ENVELOPE"
    assert talk.commit(policy_version="policy.default") == OK
    silent = Conversation(client, DECISION)
    make_ready(silent)
    assert silent.commit(policy_version="") == OK


def test_an_action_and_its_sign_must_agree_by_the_actions_last_letters_alone(connect: Connect) -> None:
    """Item 9: seven suffixes, case and all; whatever ends otherwise may have either sign."""
    talk = Conversation(connect("chair"), DECISION)
    make_ready(talk)
    for suffix in POSITIVE:
        for action in (suffix, f"decision.{suffix}", f"un{suffix}"):
            assert talk.commit(action=action, positive=False) == "INVALID_ENVELOPE", action
    for suffix in NEGATIVE:
        for action in (suffix, f"decision.{suffix}", f"un{suffix}"):
            assert talk.commit(action=action, positive=True) == "INVALID_ENVELOPE", action
    assert talk.commit(action="decision.REJECTED", positive=True) == OK


@pytest.mark.parametrize("action", ["decision.approved ", "approved.later", "APPROVED", "anything"])
def test_any_other_action_may_have_either_sign(connect: Connect, action: str) -> None:
    """Item 9: the text is not trimmed, and nothing is inferred from it."""
    talk = Conversation(connect("chair"), DECISION)
    make_ready(talk)
    assert talk.commit(action=action, positive=False) == OK


def test_the_sign_of_a_commitment_says_nothing_about_the_modes_state(connect: Connect) -> None:
    """Item 9: under ``policy.default`` an approval is accepted that can no longer be reached, and so on in every mode."""
    client = connect("chair")
    unreachable = Conversation(client, QUORUM)
    assert unreachable.say("chair", quorum.request_approval("r1", "deploy", required_approvals=3)) == OK
    assert unreachable.say("alice", quorum.reject("r1")) == OK
    assert unreachable.commit(action="quorum.approved") == OK
    approved = Conversation(client, QUORUM)
    make_ready(approved)
    assert approved.commit(action="quorum.rejected", positive=False) == OK
    completed = Conversation(client, TASK)
    make_ready(completed)
    assert completed.commit(action="task.failed", positive=False) == OK
    rejected = Conversation(client, PROPOSAL)
    make_ready(rejected)
    assert rejected.commit(action="proposal.accepted") == OK
    taken = Conversation(client, HANDOFF)
    make_ready(taken)
    assert taken.commit(action="handoff.declined", positive=False) == OK
