"""Governance policies: how votes are counted, and what a registry takes."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from macp.v1 import policy_pb2

from macp_rx import MacpClient, MacpRefusedError
from macp_rx.protocol.messages import DECISION, HANDOFF, PROPOSAL, QUORUM, TASK
from macp_rx.protocol.modes import decision, quorum
from macp_rx.protocol.modes.quorum import effective_threshold
from macp_rx.protocol.policy import (
    AbstentionRules,
    CommitmentRules,
    EvaluationRules,
    ObjectionHandlingRules,
    QuorumThreshold,
    VotingRules,
    build_decision_policy,
    build_quorum_policy,
)
from tests.conftest import Connect
from tests.runtime.conversation import OK, Conversation, register

DENIED = "POLICY_DENIED"


class Vote(Conversation):
    """A decision that is voted on: each letter is what the next of alice, bob, carol says: Approve, Reject, X abstains."""

    VOTERS = ("alice", "bob", "carol")

    def __init__(self, client: MacpClient, votes: str, *, policy: str, participants: Sequence[str] = VOTERS) -> None:
        super().__init__(client, DECISION, participants, policy=policy)
        assert self.say(participants[0], decision.propose("p1", "one")) == OK
        for voter, letter in zip(participants, votes, strict=False):
            if letter != ".":
                said = {"A": "APPROVE", "R": "REJECT", "X": "ABSTAIN"}[letter]
                assert self.say(voter, decision.vote("p1", said)) == OK

    def reasons(self, *, positive: bool = True) -> list[str]:
        """The codes that a commitment of this sign is denied with; none if it resolves the session."""
        said = self.envelope("chair", self.commitment(positive=positive))
        try:
            self.client.send(said)
        except MacpRefusedError as refused:
            return [denial.code for denial in refused.denials] or [refused.code]
        return []


def voting(client: MacpClient, algorithm: str, *, schema_version: int = 3, **rules: object) -> str:
    """A policy of one algorithm."""
    commitment = CommitmentRules(require_vote_quorum=bool(rules.pop("quorum", False)))
    return register(
        client,
        build_decision_policy,
        voting=VotingRules(algorithm, **rules),  # type: ignore[arg-type]
        commitment=commitment,
        schema_version=schema_version,
    )


def raw(client: MacpClient, rules: str, mode: str = DECISION, schema_version: int = 3) -> str:
    """Registers rules as text; tells the policy's id, or the code that it is refused with."""
    policy_id = f"policy.test.{client.clock.new_id()}"
    descriptor = policy_pb2.PolicyDescriptor(policy_id=policy_id, mode=mode, rules=rules, schema_version=schema_version)
    try:
        client.register_policy(descriptor)
    except MacpRefusedError as refused:
        return refused.code
    return policy_id


def test_votes_are_per_proposal_and_tallied_together(connect: Connect) -> None:
    """Item 11: a sender votes once on each proposal; the policy counts the votes of all proposals as one."""
    client = connect("chair")
    talk = Vote(client, "", policy=voting(client, "majority"))
    assert talk.say("alice", decision.propose("p2", "two")) == OK
    assert talk.say("alice", decision.vote("p1", "APPROVE")) == OK
    assert talk.say("alice", decision.vote("p1", "REJECT")) == "INVALID_ENVELOPE"
    assert talk.say("alice", decision.vote("p2", "REJECT")) == OK
    assert talk.say("bob", decision.vote("p2", "REJECT")) == OK
    assert talk.reasons() == ["threshold_not_met"]  # one for, two against, although p1 has only approval
    assert talk.say("bob", decision.vote("p1", "APPROVE")) == OK
    assert talk.reasons() == []


def test_unanimity_needs_everybody_who_was_declared(connect: Connect) -> None:
    """Item 11: an approval of each participant on some proposal, the initiator's too if it is one; no rejection at all."""
    client = connect("chair")
    policy = voting(client, "unanimous")
    assert Vote(client, "AA", policy=policy).reasons() == ["threshold_not_met"]
    assert Vote(client, "AAX", policy=policy).reasons() == ["threshold_not_met"]
    assert Vote(client, "AAR", policy=policy).reasons() == ["threshold_not_met"]
    assert Vote(client, "AAA", policy=policy).reasons() == []
    chairing = Vote(client, ".AA", policy=policy, participants=("chair", "alice", "bob"))
    assert chairing.reasons() == ["threshold_not_met"]
    assert chairing.say("chair", decision.vote("p1", "APPROVE")) == OK
    assert chairing.reasons() == []
    spread = Vote(client, "A", policy=policy, participants=("alice", "bob"))
    assert spread.say("alice", decision.propose("p2", "two")) == "INVALID_ENVELOPE"  # voting has begun
    two = Conversation(client, DECISION, ["alice", "bob"], policy=policy)
    assert two.say("alice", decision.propose("p1", "one")) == OK
    assert two.say("alice", decision.propose("p2", "two")) == OK
    assert two.say("alice", decision.vote("p1", "APPROVE")) == OK
    assert two.say("bob", decision.vote("p2", "APPROVE")) == OK
    assert two.commit() == OK


def test_a_threshold_that_is_reached_is_passed(connect: Connect) -> None:
    """Item 12: so an even split carries a majority of one half; a plurality it does not."""
    client = connect("chair")
    assert Vote(client, "AR", policy=voting(client, "majority")).reasons() == []
    assert Vote(client, "ARR", policy=voting(client, "majority")).reasons() == ["threshold_not_met"]
    assert Vote(client, "AAR", policy=voting(client, "supermajority", threshold=2 / 3)).reasons() == []
    assert Vote(client, "AR", policy=voting(client, "supermajority", threshold=0.51)).reasons() == ["threshold_not_met"]
    assert Vote(client, "AR", policy=voting(client, "plurality")).reasons() == ["threshold_not_met"]
    assert Vote(client, "AAR", policy=voting(client, "plurality")).reasons() == []


def test_weights_are_added_as_binary_fractions(connect: Connect) -> None:
    """In the order of names, and rounded at each step: 0.1 and 0.6 and 0.1 are a little less than 0.8, and lose to it."""
    client = connect("chair")
    voters = ("alice", "bob", "carol", "dave")
    for weights, expected in (((0.1, 0.6, 0.1, 0.8), ["threshold_not_met"]), ((0.1, 0.1, 0.6, 0.8), [])):
        policy = voting(client, "weighted", weights=dict(zip(voters, weights, strict=True)))
        assert Vote(client, "AAAR", policy=policy, participants=voters).reasons() == expected


def test_a_supermajority_must_say_what_it_is(connect: Connect) -> None:
    """Item 12: the threshold that other algorithms have by default is none for it."""
    client = connect("chair")
    assert raw(client, '{"voting":{"algorithm":"supermajority"}}') == "INVALID_POLICY_DEFINITION"
    assert raw(client, '{"voting":{"algorithm":"supermajority","threshold":0.5}}') == "INVALID_POLICY_DEFINITION"
    assert raw(client, '{"voting":{"algorithm":"majority","threshold":0.4}}') == "INVALID_POLICY_DEFINITION"
    assert raw(client, '{"voting":{"algorithm":"supermajority","threshold":0.6}}').startswith("policy.test.")


@pytest.mark.parametrize(
    ("schema_version", "quorum_required", "expected"),
    [(1, False, []), (2, False, []), (3, False, ["no_votes"]), (2, True, ["no_votes"])],
)
def test_no_votes_are_no_failed_vote(
    connect: Connect, schema_version: int, quorum_required: bool, expected: list[str]
) -> None:
    """Item 12: whether they hold a positive commitment back is the schema version's to say; a negative one always."""
    client = connect("chair")
    policy = voting(client, "majority", schema_version=schema_version, quorum=quorum_required)
    assert Vote(client, "XX", policy=policy).reasons(positive=False) == ["decline_not_backed"]
    assert Vote(client, "XX", policy=policy).reasons() == expected


def test_a_decline_needs_a_rejection_that_counts(connect: Connect) -> None:
    """Item 12: and must not overrule approval, unless the policy allows it; without an algorithm anything goes."""
    client = connect("chair")
    majority = voting(client, "majority", threshold=0.7)
    assert Vote(client, "AR", policy=majority).reasons(positive=False) == []
    assert Vote(client, "AA", policy=majority).reasons(positive=False) == ["decline_over_approval"]
    rules = CommitmentRules(allow_decline_over_approval=True)
    overruling = register(client, build_decision_policy, voting=VotingRules("majority"), commitment=rules)
    assert Vote(client, "AR", policy=overruling).reasons(positive=False) == []
    assert Vote(client, "AA", policy=overruling).reasons(positive=False) == ["decline_not_backed"]
    assert Vote(client, "AA", policy=voting(client, "none")).reasons(positive=False) == []


def test_objections_can_authorise_a_decline(connect: Connect) -> None:
    """Item 12: then it needs neither votes nor a quorum."""
    client = connect("chair")
    policy = register(
        client,
        build_decision_policy,
        voting=VotingRules("majority", quorum_value=3),
        commitment=CommitmentRules(require_vote_quorum=True),
        objection_handling=ObjectionHandlingRules(True, 1, "finalize_decline"),
    )
    talk = Vote(client, "", policy=policy)
    assert talk.say("bob", decision.raise_objection("p1", reason="no", severity="critical")) == OK
    assert talk.reasons() == ["veto", "quorum_not_met", "no_votes"]
    assert talk.reasons(positive=False) == []


def test_a_voting_quorum_counts_only_where_it_is_required(connect: Connect) -> None:
    """Item 13: then who abstains has taken part, but is not in the ratio."""
    client = connect("chair")
    loose = voting(client, "majority", quorum_value=3)
    assert Vote(client, "A", policy=loose).reasons() == []
    strict = voting(client, "majority", quorum_value=3, quorum=True)
    assert Vote(client, "AA", policy=strict).reasons() == ["quorum_not_met"]
    assert Vote(client, "AXX", policy=strict).reasons() == []
    assert Vote(client, "RXX", policy=strict).reasons() == ["threshold_not_met"]


def test_a_percentage_of_voters_is_of_a_hundred(connect: Connect) -> None:
    """Item 13: not of one."""
    client = connect("chair")
    half = voting(client, "majority", quorum_type="percentage", quorum_value=50, quorum=True)
    assert Vote(client, "A", policy=half).reasons() == ["quorum_not_met"]
    assert Vote(client, "AA", policy=half).reasons() == []
    tiny = voting(client, "majority", quorum_type="percentage", quorum_value=0.5, quorum=True)
    assert Vote(client, "A", policy=tiny).reasons() == []


def test_an_evaluation_that_is_required_holds_back_the_commitment_and_no_vote(connect: Connect) -> None:
    """Item 13: in spite of the rule's name."""
    client = connect("chair")
    policy = register(client, build_decision_policy, evaluation=EvaluationRules(required_before_voting=True))
    assert Vote(client, "A", policy=policy).reasons() == ["evaluation_required"]
    talk = Vote(client, "", policy=policy)
    assert talk.say("bob", decision.evaluate("p1", "REVIEW", confidence=1)) == OK
    assert talk.reasons() == ["evaluation_required"]
    assert talk.say("bob", decision.evaluate("p1", "BLOCK", confidence=0)) == OK
    assert talk.say("bob", decision.vote("p1", "APPROVE")) == OK
    assert talk.reasons() == []


def test_weights_are_the_electorate(connect: Connect) -> None:
    """Item 14: who is not listed weighs nothing, and so neither carries a decision nor backs a decline."""
    client = connect("chair")
    policy = voting(client, "weighted", weights={"alice": 1, "bob": 2.5})
    assert Vote(client, "..A", policy=policy).reasons() == ["no_votes"]
    assert Vote(client, "..R", policy=policy).reasons(positive=False) == ["decline_not_backed"]
    assert Vote(client, "AR", policy=policy).reasons() == ["threshold_not_met"]
    assert Vote(client, "RAR", policy=policy).reasons() == []
    assert Vote(client, "A.R", policy=policy).reasons(positive=False) == ["decline_over_approval"]
    assert Vote(client, "AR", policy=policy).reasons(positive=False) == []


def test_a_share_of_the_roster_is_computed_in_whole_numbers(connect: Connect) -> None:
    """Item 15: 28 % of 25 is 7; in binary fractions it would be 8."""
    client = connect("chair")
    policy = register(client, build_quorum_policy, threshold=QuorumThreshold("percentage", 28))
    roster = [f"agent-{number}" for number in range(25)]
    talk = Conversation(client, QUORUM, roster, policy=policy)
    assert talk.say("chair", quorum.request_approval("r1", "deploy", required_approvals=25)) == OK
    for name in roster[:6]:
        assert talk.say(name, quorum.approve("r1")) == OK
    assert talk.commit() == "INVALID_ENVELOPE"
    assert talk.say(roster[6], quorum.approve("r1")) == OK
    assert talk.commit() == OK


def test_every_percentage_of_every_roster_is_rounded_up_once() -> None:
    """Item 15: all pairs up to 100, against fractions."""
    wrong = 0
    for participants in range(1, 101):
        for value in range(1, 101):
            exact = next(needed for needed in range(101) if needed * 100 >= value * participants)
            assert effective_threshold(QuorumThreshold("percentage", value), participants, 1) == max(1, exact)
            wrong += exact != -int(-(value / 100 * participants) // 1)
    assert wrong == 13  # what a float would have got wrong


def test_a_policys_threshold_replaces_what_was_asked_for(connect: Connect) -> None:
    """Item 15: also beyond the roster, which can be declined at once; without a value it changes nothing."""
    client = connect("chair")

    def talk(threshold: QuorumThreshold, asked: int) -> Conversation:
        policy = register(client, build_quorum_policy, threshold=threshold)
        one = Conversation(client, QUORUM, ["alice", "bob", "carol"], policy=policy)
        assert one.say("chair", quorum.request_approval("r1", "deploy", required_approvals=asked)) == OK
        return one

    beyond = talk(QuorumThreshold("n_of_m", 5), 1)
    assert beyond.commit(action="quorum.approved") == DENIED
    assert beyond.commit(action="quorum.rejected", positive=False) == OK
    lower = talk(QuorumThreshold("n_of_m", 1), 3)
    assert lower.say("alice", quorum.approve("r1")) == OK
    assert lower.commit() == OK
    inert = talk(QuorumThreshold("percentage"), 2)
    assert inert.say("alice", quorum.approve("r1")) == OK
    assert inert.commit() == "INVALID_ENVELOPE"
    assert inert.say("bob", quorum.approve("r1")) == OK
    assert inert.commit() == OK


@pytest.mark.parametrize("interpretation", ["neutral", "implicit_reject", "ignored"])
@pytest.mark.parametrize("counts", [True, False])
def test_the_rules_of_abstention_change_nothing(connect: Connect, interpretation: str, counts: bool) -> None:
    """Item 16: an abstention uses up a ballot, and that is all, whatever the policy says."""
    client = connect("chair")
    policy = register(client, build_quorum_policy, abstention=AbstentionRules(counts, interpretation))
    talk = Conversation(client, QUORUM, ["alice", "bob", "carol"], policy=policy)
    assert talk.say("chair", quorum.request_approval("r1", "deploy", required_approvals=2)) == OK
    assert talk.say("alice", quorum.abstain("r1")) == OK
    assert talk.say("alice", quorum.approve("r1")) == "INVALID_ENVELOPE"
    assert talk.say("bob", quorum.approve("r1")) == OK
    assert talk.commit() == "INVALID_ENVELOPE"  # carol can still make it two
    assert talk.say("carol", quorum.abstain("r1")) == OK
    assert talk.commit(positive=False) == OK


def test_the_two_quorums_have_their_own_words(connect: Connect) -> None:
    """Item 16: ``count`` is an old name of ``n_of_m`` in quorum mode; in decision mode ``n_of_m`` is none."""
    client = connect("chair")
    policy = raw(client, '{"threshold":{"type":"count","value":2}}', QUORUM)
    talk = Conversation(client, QUORUM, policy=policy)
    assert talk.say("chair", quorum.request_approval("r1", "deploy", required_approvals=1)) == OK
    assert talk.say("alice", quorum.approve("r1")) == OK
    assert talk.commit() == "INVALID_ENVELOPE"
    assert raw(client, '{"voting":{"quorum":{"type":"n_of_m","value":2}}}') == "INVALID_POLICY_DEFINITION"
    assert raw(client, '{"threshold":{"type":"weighted","value":2}}', QUORUM) == "INVALID_POLICY_DEFINITION"


@pytest.mark.parametrize("text", ["", "not json", "{", '{"a":1}x', "NaN", "'{}'"])
def test_rules_that_are_no_json_are_no_rules(connect: Connect, text: str) -> None:
    """Item 17: they register, with every default."""
    client = connect("chair")
    assert client.get_policy(raw(client, text)).policy_descriptor.rules == "{}"


@pytest.mark.parametrize("text", ["[]", '""', "1", "null", "true"])
def test_rules_that_are_json_but_no_object_are_refused(connect: Connect, text: str) -> None:
    """Item 17: what can be read must be right."""
    assert raw(connect("chair"), text) == "INVALID_POLICY_DEFINITION"


@pytest.mark.parametrize(
    ("mode", "path", "value"),
    [
        (DECISION, "objection_handling.veto_threshold", 1.0),
        (PROPOSAL, "counter_proposal.max_rounds", 1.0),
        (HANDOFF, "acceptance.implicit_accept_timeout_ms", 1000.0),
        (HANDOFF, "acceptance.implicit_accept_timeout_ms", -1),
        (DECISION, "voting", None),
        (DECISION, "voting.algorithm", None),
        (DECISION, "voting.quorum", None),
        (TASK, "completion.require_output", None),
        (TASK, "completion.require_output", 1),
        (PROPOSAL, "acceptance.criterion", None),
        (QUORUM, "threshold.value", 2.5),
        (QUORUM, "threshold.value", 0),
        (QUORUM, "commitment.require_vote_quorum", True),
        (DECISION, "voting.tiebreak", "x"),
        (DECISION, "x-vendor.rule", {}),
    ],
)
def test_a_rule_of_the_wrong_type_is_refused(connect: Connect, mode: str, path: str, value: object) -> None:
    """Item 17: an integer is written without a point, null is nothing's value, and keys are a closed set."""
    *groups, key = path.split(".") if not path.startswith("x-") else [path]
    rules: object = {key: value}
    for group in reversed(groups):
        rules = {group: rules}
    assert raw(connect("chair"), json.dumps(rules), mode) == "INVALID_POLICY_DEFINITION"


def test_annotations_may_stand_at_every_level(connect: Connect) -> None:
    """Item 17: keys that begin with ``_`` or ``$``. They are shown, with all keys sorted and numbers as they were."""
    client = connect("chair")
    rules = {
        "voting": {"quorum": {"value": 2, "_why": [1.0, None]}, "$id": "v", "algorithm": "majority", "threshold": 0.5},
        "$schema": "s",
        "_note": {"any": "thing"},
    }
    policy = raw(client, json.dumps(rules))
    shown = client.get_policy(policy).policy_descriptor.rules
    assert shown == json.dumps(rules, sort_keys=True, separators=(",", ":"))
    assert raw(client, '{"threshold":{"value":2.0}}', QUORUM).startswith("policy.test.")  # no integer-typed rule
