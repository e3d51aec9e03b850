"""Policies against an oracle that is written from `protocol.md` 5.6 alone: on JSON, without one rule of ours."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ObjectionPayload, ProposalPayload, VotePayload
from macp.modes.quorum.v1.quorum_pb2 import ApprovalRequestPayload
from macp.v1.core_pb2 import CommitmentPayload
from macp.v1.envelope_pb2 import Envelope
from macp.v1.policy_pb2 import PolicyDescriptor

from macp_rx import MacpRefusedError
from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.messages import DECISION, QUORUM, message_type_of
from macp_rx.protocol.modes import decision, quorum
from macp_rx.protocol.policy import QuorumThreshold, policy_from
from tests.protocol.policies import descriptors

ROSTERS = st.sampled_from(
    ((), ("alice",), ("alice", "bob"), ("alice", "bob", "carol"), ("chair", "alice", "bob", "carol"))
)
CHOICES = ("APPROVE", "APPROVE", "REJECT", "ABSTAIN")


def binding(mode: str, policy: PolicyDescriptor, participants: tuple[str, ...]) -> Binding:
    return Binding("s", mode, "chair", participants, "1.0.0", "c1", policy_from(policy))


def said(sender: str, payload: Any) -> Envelope:
    message_type = message_type_of(payload)
    return Envelope(sender=sender, message_type=message_type, payload=payload.SerializeToString())


def codes(mode: Any, bound: Binding, state: object, *, positive: bool) -> list[str]:
    """What a commitment is denied with; nothing if it is accepted."""
    commitment = CommitmentPayload(
        commitment_id="c",
        action="settled",
        authority_scope="test",
        reason="because",
        mode_version="1.0.0",
        configuration_version="c1",
        outcome_positive=positive,
    )
    try:
        mode.step(bound, state, said("chair", commitment), Instant(0))
    except MacpRefusedError as refused:
        return [denial.code for denial in refused.denials] or [refused.code]
    return []


@st.composite
def decisions(draw: st.DrawFn, bound: Binding) -> decision.State:
    """A decision on two proposals, evaluated, objected to, and voted on."""
    state = decision.initial(bound)

    def say(sender: str, payload: Any) -> None:
        nonlocal state
        state = decision.step(bound, state, said(sender, payload), Instant(0))

    ids, voters = ("p1", "p2"), ("alice", "bob", "carol", "dave")
    for proposal_id in ids:
        say("alice", ProposalPayload(proposal_id=proposal_id, option="x"))
    some = st.tuples(st.sampled_from(voters), st.sampled_from(ids))
    for sender, proposal_id in draw(st.lists(some, max_size=3)):
        recommendation = draw(st.sampled_from(("APPROVE", "REVIEW", "BLOCK", "REJECT")))
        confidence = draw(st.sampled_from((0.0, 0.25, 0.5, 1.0)))
        say(sender, EvaluationPayload(proposal_id=proposal_id, recommendation=recommendation, confidence=confidence))
    for sender, proposal_id in draw(st.lists(some, max_size=3)):
        severity = draw(st.sampled_from(("high", "critical", "critical")))
        say(sender, ObjectionPayload(proposal_id=proposal_id, severity=severity))
    for sender, proposal_id in draw(st.lists(some, max_size=6, unique=True)):
        say(sender, VotePayload(proposal_id=proposal_id, vote=draw(st.sampled_from(CHOICES))))
    return state


def decided(
    policy: PolicyDescriptor, state: dict[str, Any], participants: tuple[str, ...], positive: bool
) -> list[str]:
    """The denials of a decision's commitment, in their order."""
    rules = json.loads(policy.rules)
    voting, commitment = rules.get("voting", {}), rules.get("commitment", {})
    objecting, evaluating = rules.get("objection_handling", {}), rules.get("evaluation", {})
    votes = [vote for cast in state["votes"].values() for vote in cast.values()]
    denials = []

    critical = [objection for objection in state["objections"] if objection["severity"] == "critical"]
    veto = objecting.get("critical_severity_vetoes", False) and len(critical) >= objecting.get("veto_threshold", 1)
    action = objecting.get("critical_objection_action", "deny")
    authorised = veto and not positive and action == "finalize_decline"

    if not authorised and evaluating.get("required_before_voting", False):
        confidences = [one["confidence"] for one in state["evaluations"] if one["recommendation"] != "REVIEW"]
        minimum = evaluating.get("minimum_confidence", 0)
        if minimum > 0:
            if not any(confidence >= minimum for confidence in confidences):
                denials.append("confidence_below_minimum")
        elif not confidences:
            denials.append("evaluation_required")
    if veto and not authorised:
        denials.append("veto_hold" if action == "hold" else "veto")

    if commitment.get("require_vote_quorum", False) and not authorised:
        voters, quorum_rule = len({vote["sender"] for vote in votes}), voting.get("quorum", {})
        value = quorum_rule.get("value", 0)
        if quorum_rule.get("type", "count") == "count":
            met = voters >= value
        elif participants:
            met = voters / len(participants) * 100 >= value
        else:
            met = value <= 0
        if not met:
            denials.append("quorum_not_met")

    algorithm = voting.get("algorithm", "none")
    if algorithm == "none" or authorised:
        return denials
    weights = voting.get("weights", {})

    def weigh(choice: str) -> float:
        chosen = [vote["sender"] for vote in votes if vote["vote"] == choice]
        return sum(weights.get(sender, 0) for sender in chosen) if algorithm == "weighted" else len(chosen)

    approve, reject = weigh("APPROVE"), weigh("REJECT")
    if approve + reject == 0:
        result = "NoVotes"
    elif algorithm == "plurality":
        result = "Passed" if approve > reject else "Failed"
    elif algorithm == "unanimous":
        approving = {vote["sender"] for vote in votes if vote["vote"] == "APPROVE"}
        result = "Passed" if reject == 0 and all(name in approving for name in participants) else "Failed"
    else:
        result = "Passed" if approve / (approve + reject) >= voting.get("threshold", 0.5) else "Failed"

    if positive and result == "Failed":
        denials.append("threshold_not_met")
    binding_on_nothing = policy.schema_version >= 3 or commitment.get("require_vote_quorum", False)
    if positive and result == "NoVotes" and binding_on_nothing:
        denials.append("no_votes")
    if not positive:
        if result == "Passed" and not commitment.get("allow_decline_over_approval", False):
            denials.append("decline_over_approval")
        elif reject == 0:
            denials.append("decline_not_backed")
    return denials


@settings(max_examples=400)
@given(st.data())
def test_a_decision_is_denied_as_the_protocol_says(data: st.DataObject) -> None:
    """Every code, in the order of the checks, for either sign."""
    policy, participants = data.draw(descriptors(DECISION)), data.draw(ROSTERS)
    bound = binding(DECISION, policy, participants)
    state = data.draw(decisions(bound))
    for positive in (True, False):
        expected = decided(policy, decision.as_json(state), participants, positive)  # type: ignore[arg-type]
        assert codes(decision, bound, state, positive=positive) == expected


@settings(max_examples=400)
@given(st.data())
def test_a_quorum_is_counted_as_the_protocol_says(data: st.DataObject) -> None:
    """Ready when enough approve, or when enough no longer can; the policy's bar is for positive commitments alone."""
    names = [f"agent-{number}" for number in range(data.draw(st.integers(1, 8)))]
    policy = data.draw(descriptors(QUORUM))
    bound = binding(QUORUM, policy, tuple(names))
    asked = data.draw(st.integers(1, len(names)))
    state = quorum.initial(bound)
    state = quorum.step(
        bound, state, said("chair", ApprovalRequestPayload(request_id="r", required_approvals=asked)), Instant(0)
    )
    ballots = data.draw(st.lists(st.sampled_from(("Approve", "Reject", "Abstain")), max_size=len(names)))
    for name, choice in zip(names, ballots, strict=False):
        state = quorum.step(bound, state, Envelope(sender=name, message_type=choice, payload=b"\n\x01r"), Instant(0))

    threshold = json.loads(policy.rules).get("threshold", {})
    value = threshold.get("value")
    if value is None:
        required = asked
    elif threshold.get("type") == "percentage":
        share = Fraction(value, 100) * len(names)
        required = max(1, -(-share.numerator // share.denominator))
    else:
        required = value
    approvals = ballots.count("Approve")
    ready = approvals >= required or approvals + len(names) - len(ballots) < required
    met = approvals >= required or value is None
    for positive in (True, False):
        expected = ["INVALID_ENVELOPE"] if not ready else [] if met or not positive else ["threshold_not_met"]
        assert codes(quorum, bound, state, positive=positive) == expected


@given(st.integers(1, 100), st.integers(1, 100_000))
def test_a_percentage_is_rounded_up_in_whole_numbers(percent: int, participants: int) -> None:
    """The least number of approvals that is that share of the roster, or more."""
    needed = quorum.effective_threshold(QuorumThreshold("percentage", percent), participants, 1)
    assert needed * 100 >= percent * participants
    assert needed == 1 or (needed - 1) * 100 < percent * participants


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 1000))
def test_a_number_is_itself(value: int, participants: int, asked: int) -> None:
    """Beyond the roster too; and without a value what was asked for counts."""
    for kind in ("n_of_m", "count"):
        assert quorum.effective_threshold(QuorumThreshold(kind, value), participants, asked) == value
        assert quorum.effective_threshold(QuorumThreshold(kind), participants, asked) == asked
