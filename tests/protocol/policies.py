"""Policies drawn at random: every rule of every mode, within what a registry takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st
from macp.v1.policy_pb2 import PolicyDescriptor

from macp_rx.protocol.messages import DECISION, HANDOFF, PROPOSAL, QUORUM, TASK
from macp_rx.protocol.policy import (
    AbstentionRules,
    AcceptanceRules,
    AssignmentRules,
    CommitmentRules,
    CompletionRules,
    CounterProposalRules,
    EvaluationRules,
    ObjectionHandlingRules,
    QuorumThreshold,
    RejectionRules,
    VotingRules,
    build_decision_policy,
    build_handoff_policy,
    build_proposal_policy,
    build_quorum_policy,
    build_task_policy,
)

__all__ = ["BUILDERS", "GROUPS", "descriptors", "groups"]

NAMES = ("chair", "alice", "bob", "carol")
# eighths: sums of them are exact, whatever their order
EIGHTHS = st.integers(1, 40).map(lambda eighths: eighths / 8)

BUILDERS: Mapping[str, Callable[..., PolicyDescriptor]] = {
    DECISION: build_decision_policy,
    PROPOSAL: build_proposal_policy,
    TASK: build_task_policy,
    HANDOFF: build_handoff_policy,
    QUORUM: build_quorum_policy,
}


@st.composite
def _voting(draw: st.DrawFn) -> VotingRules:
    algorithm = draw(st.sampled_from(("none", "majority", "supermajority", "unanimous", "weighted", "plurality")))
    lowest = {"majority": 0.5, "supermajority": 0.51}.get(algorithm, 0.01)
    weights = st.dictionaries(st.sampled_from(NAMES), EIGHTHS, min_size=algorithm == "weighted")
    kind = draw(st.sampled_from(("count", "percentage")))
    return VotingRules(
        algorithm,
        draw(st.sampled_from((lowest, 0.75, 1.0, 1)) | st.floats(lowest, 1)),
        kind,
        draw(st.integers(0, 4) if kind == "count" else st.sampled_from((0, 25, 50, 66.6, 75, 100))),
        draw(weights),
    )


def _commitment(*, decision: bool) -> st.SearchStrategy[CommitmentRules]:
    flag = st.booleans() if decision else st.just(False)
    roles = st.lists(st.sampled_from((*NAMES, "judge")), max_size=2)
    plain = st.builds(
        CommitmentRules, st.sampled_from(("initiator_only", "any_participant")), roles.map(tuple), flag, flag
    )
    some = st.lists(st.sampled_from((*NAMES, "judge")), min_size=1, max_size=2).map(tuple)
    return plain | st.builds(CommitmentRules, st.just("designated_role"), some, flag, flag)


_AUTHORITY = _commitment(decision=False)

GROUPS: Mapping[str, Mapping[str, st.SearchStrategy[Any]]] = {
    DECISION: {
        "voting": _voting(),
        "objection_handling": st.builds(
            ObjectionHandlingRules,
            st.booleans(),
            st.integers(1, 3),
            st.sampled_from(("deny", "finalize_decline", "hold")),
        ),
        "evaluation": st.builds(EvaluationRules, st.booleans(), st.sampled_from((0, 0.0, 0.5, 1)) | st.floats(0, 1)),
        "commitment": _commitment(decision=True),
    },
    PROPOSAL: {
        "acceptance": st.builds(AcceptanceRules, st.sampled_from(("all_parties", "counterparty", "initiator"))),
        "counter_proposal": st.builds(CounterProposalRules, st.integers(0, 3)),
        "rejection": st.builds(RejectionRules, st.booleans()),
        "commitment": _AUTHORITY,
    },
    TASK: {
        "assignment": st.builds(AssignmentRules, st.booleans()),
        "completion": st.builds(CompletionRules, st.booleans()),
        "commitment": _AUTHORITY,
    },
    HANDOFF: {
        "acceptance": st.builds(AcceptanceRules, implicit_accept_timeout_ms=st.sampled_from((0, 1, 500, 3000))),
        "commitment": _AUTHORITY,
    },
    QUORUM: {
        "threshold": st.builds(QuorumThreshold, st.sampled_from(("n_of_m", "count")), st.none() | st.integers(1, 6))
        | st.builds(QuorumThreshold, st.just("percentage"), st.none() | st.integers(1, 100)),
        "abstention": st.builds(
            AbstentionRules, st.booleans(), st.sampled_from(("neutral", "implicit_reject", "ignored"))
        ),
        "commitment": _AUTHORITY,
    },
}
"""Mode -> group of rules -> its values."""


@st.composite
def groups(draw: st.DrawFn, mode: str) -> dict[str, Any]:
    """Some groups of rules of a mode: arguments of its builder."""
    return {name: draw(values) for name, values in GROUPS[mode].items() if draw(st.booleans())}


@st.composite
def descriptors(draw: st.DrawFn, mode: str, policy_id: str = "policy.test") -> PolicyDescriptor:
    """Policies of a mode; for one that has no rules of its own, policies that any mode may be bound to."""
    if mode not in BUILDERS:
        return PolicyDescriptor(policy_id=policy_id, mode="*", rules="{}", schema_version=draw(st.integers(1, 3)))
    return BUILDERS[mode](policy_id, **draw(groups(mode)), schema_version=draw(st.integers(1, 3)))
