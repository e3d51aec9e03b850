"""Policies: what a builder writes is what is read, and what a registry refuses, check by check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from macp.v1.policy_pb2 import PolicyDescriptor

from macp_rx import AuthConfig, MacpClient, MacpRefusedError
from macp_rx.protocol import policy as policies
from macp_rx.protocol.messages import DECISION, HANDOFF, MULTI_ROUND, PROPOSAL, QUORUM, TASK
from macp_rx.protocol.policy import BUILT_IN, Policy, Rules, VotingRules, build_decision_policy, policy_from
from tests.conftest import Connect, RealServer
from tests.protocol.policies import BUILDERS, groups

Given = dict[str, Any]


@pytest.mark.parametrize("mode", BUILDERS)
@given(data=st.data())
def test_what_is_built_is_what_is_read(mode: str, data: st.DataObject) -> None:
    """Every rule of every mode; what was not given is at its default."""
    given: Given = data.draw(groups(mode))
    version = data.draw(st.integers(1, 3))
    descriptor = BUILDERS[mode]("p", "for people", **given, schema_version=version)
    policy = policy_from(descriptor)
    assert policy.rules == Rules(**given)
    assert (policy.policy_id, policy.mode, policy.description) == ("p", mode, "for people")
    assert policy.schema_version == version
    assert json.loads(policy.rules_json) == json.loads(descriptor.rules)


@pytest.mark.parametrize("mode", BUILDERS)
@given(data=st.data())
def test_a_policy_reads_itself(mode: str, data: st.DataObject) -> None:
    """As a store does at a restart; written once, its rules' text does not change any more."""
    policy = policy_from(BUILDERS[mode]("p", **data.draw(groups(mode))))
    assert policy_from(policy.descriptor()) == policy


NOTES = st.text() | st.lists(st.integers(-(2**63), 2**64 - 1)) | st.none()


@given(st.dictionaries(st.from_regex(r"[_$][a-z]*", fullmatch=True), NOTES, max_size=3))
def test_annotations_are_kept_and_mean_nothing(annotations: dict[str, object]) -> None:
    policy = policy_from(build_decision_policy("p", voting=VotingRules("majority"), annotations=annotations))
    assert policy.rules == Rules(voting=VotingRules("majority"))
    assert {key: value for key, value in json.loads(policy.rules_json).items() if key != "voting"} == annotations


@pytest.mark.parametrize("policy", BUILT_IN.values(), ids=BUILT_IN)
def test_a_built_in_policy_is_the_real_servers(connect: Connect, policy: Any) -> None:
    assert connect("chair").get_policy(policy.policy_id).policy_descriptor == policy.descriptor()


# What a registry refuses: number of the check in `protocol.md` 5.3, mode, rules, and what the refusal names.

AUTHORITY = {"commitment": {"authority": "dictator"}}
NOBODY = {"commitment": {"authority": "designated_role"}}

REFUSED: list[tuple[int, str, object, str]] = [
    (5, DECISION, [], "rules"),
    (5, "*", "{}", "rules"),
    (5, "ext.unknown", 1, "rules"),
    (6, DECISION, {"votes": {}}, "rules.votes"),
    (6, DECISION, {"voting": {"quorum": {"kind": "count"}}}, "rules.voting.quorum.kind"),
    (6, DECISION, {"threshold": {"value": 2}}, "rules.threshold"),
    (6, PROPOSAL, {"voting": {}}, "rules.voting"),
    (6, PROPOSAL, {"acceptance": {"implicit_accept_timeout_ms": 1}}, "rules.acceptance.implicit_accept_timeout_ms"),
    (6, TASK, {"completion": {"x": 1}}, "rules.completion.x"),
    (6, HANDOFF, {"acceptance": {"criterion": "initiator"}}, "rules.acceptance.criterion"),
    (6, QUORUM, {"commitment": {"allow_decline_over_approval": True}}, "rules.commitment.allow_decline_over_approval"),
    (6, "*", {"voting": {"thresholds": 1}}, "rules.voting.thresholds"),
    (6, "*", {"x-vendor.rule": {}}, "rules.x-vendor.rule"),
    (6, DECISION, {"voting": {"x-vendor.rule": {}}}, "rules.voting.x-vendor.rule"),
    (7, DECISION, {"voting": []}, "rules.voting"),
    (7, DECISION, {"voting": None}, "rules.voting"),
    (7, DECISION, {"voting": {"quorum": 2}}, "rules.voting.quorum"),
    (7, DECISION, {"voting": {"weights": []}}, "rules.voting.weights"),
    (7, DECISION, {"voting": {"algorithm": None}}, "rules.voting.algorithm"),
    (7, QUORUM, {"threshold": {"type": 1}}, "rules.threshold.type"),
    (7, QUORUM, {"abstention": {"interpretation": None}}, "rules.abstention.interpretation"),
    (9, DECISION, {"objection_handling": {"critical_severity_vetoes": 1}}, "critical_severity_vetoes"),
    (9, DECISION, {"objection_handling": {"veto_threshold": 1.0}}, "veto_threshold"),
    (9, DECISION, {"objection_handling": {"veto_threshold": 2**32}}, "veto_threshold"),
    (9, DECISION, {"objection_handling": {"veto_threshold": -1}}, "veto_threshold"),
    (9, DECISION, {"evaluation": {"required_before_voting": "yes"}}, "required_before_voting"),
    (9, DECISION, {"evaluation": {"minimum_confidence": "0.5"}}, "minimum_confidence"),
    (9, DECISION, {"voting": {"threshold": "0.5"}}, "voting.threshold"),
    (9, DECISION, {"voting": {"threshold": True}}, "voting.threshold"),
    (9, DECISION, {"voting": {"weights": {"alice": "1"}}}, "voting.weights"),
    (9, DECISION, {"voting": {"quorum": {"value": None}}}, "voting.quorum.value"),
    (9, PROPOSAL, {"counter_proposal": {"max_rounds": 1.5}}, "max_rounds"),
    (9, PROPOSAL, {"counter_proposal": {"max_rounds": -1}}, "max_rounds"),
    (9, PROPOSAL, {"rejection": {"terminal_on_any_reject": 0}}, "terminal_on_any_reject"),
    (9, TASK, {"assignment": {"allow_reassignment_on_reject": None}}, "allow_reassignment_on_reject"),
    (9, HANDOFF, {"acceptance": {"implicit_accept_timeout_ms": 1e3}}, "implicit_accept_timeout_ms"),
    (9, HANDOFF, {"acceptance": {"implicit_accept_timeout_ms": 2**64}}, "implicit_accept_timeout_ms"),
    (9, QUORUM, {"threshold": {"value": "2"}}, "threshold.value"),
    (9, QUORUM, {"threshold": {"value": None}}, "threshold.value"),
    (9, QUORUM, {"commitment": {"designated_roles": "judge"}}, "designated_roles"),
    (9, QUORUM, {"commitment": {"designated_roles": [1]}}, "designated_roles"),
    (10, DECISION, {"voting": {"algorithm": "consensus"}}, "voting.algorithm"),
    (10, DECISION, {"voting": {"threshold": 0}}, "voting.threshold"),
    (10, DECISION, {"voting": {"threshold": 1.01}}, "voting.threshold"),
    (10, DECISION, {"voting": {"weights": {"alice": 0}}}, "voting.weights"),
    (10, DECISION, {"voting": {"weights": {"alice": 1, "bob": -1}}}, "voting.weights"),
    (10, DECISION, {"voting": {"weights": {}}}, "voting.weights"),
    (10, DECISION, {"voting": {"algorithm": "weighted"}}, "voting.weights"),
    (10, DECISION, {"voting": {"quorum": {"type": "n_of_m"}}}, "voting.quorum.type"),
    (10, DECISION, {"voting": {"quorum": {"value": -1}}}, "voting.quorum.value"),
    (10, DECISION, {"objection_handling": {"veto_threshold": 0}}, "veto_threshold"),
    (10, DECISION, {"objection_handling": {"critical_objection_action": "ignore"}}, "critical_objection_action"),
    (10, DECISION, {"evaluation": {"minimum_confidence": 1.1}}, "minimum_confidence"),
    (10, DECISION, {"evaluation": {"minimum_confidence": -0.1}}, "minimum_confidence"),
    (10, DECISION, {"voting": {"algorithm": "supermajority"}}, "voting.threshold"),
    (10, DECISION, {"voting": {"algorithm": "majority", "threshold": 0.49}}, "voting.threshold"),
    (10, "*", {"voting": {"algorithm": "supermajority", "threshold": 0.5}}, "voting.threshold"),
    (11, QUORUM, {"threshold": {"type": "weighted"}}, "threshold.type"),
    (11, QUORUM, {"threshold": {"value": 2.5}}, "threshold.value"),
    (11, QUORUM, {"threshold": {"value": 0}}, "threshold.value"),
    (11, QUORUM, {"threshold": {"value": -2}}, "threshold.value"),
    (11, QUORUM, {"threshold": {"type": "percentage", "value": 101}}, "threshold.value"),
    (11, "*", {"threshold": {"type": "percentage", "value": 101}}, "threshold.value"),
    (12, PROPOSAL, {"acceptance": {"criterion": "anybody"}}, "acceptance.criterion"),
    (12, "*", {"acceptance": {"criterion": "anybody"}}, "acceptance.criterion"),
    (13, QUORUM, {"abstention": {"interpretation": "yes"}}, "abstention.interpretation"),
    *((14, mode, AUTHORITY, "commitment.authority") for mode in (*BUILDERS, "*", MULTI_ROUND, "ext.unknown", "")),
    *((14, mode, NOBODY, "designated_roles") for mode in (*BUILDERS, "*", "ext.unknown")),
]

ACCEPTED: list[tuple[int, str, object]] = [
    (6, DECISION, {"_a": 1, "$b": 2, "voting": {"_a": 1, "quorum": {"$b": None}, "weights": {"anything": 1}}}),
    (6, "*", {"threshold": {"value": 2}, "voting": {}, "acceptance": {"criterion": "initiator"}}),
    (6, MULTI_ROUND, {"whatever": {"is": "here"}}),
    (6, "", {"whatever": 1}),
    (9, DECISION, {"voting": {"threshold": 1, "quorum": {"value": 0}}}),
    (9, HANDOFF, {"acceptance": {"implicit_accept_timeout_ms": 2**64 - 1}}),
    (10, DECISION, {"voting": {"algorithm": "majority", "threshold": 0.5}}),
    (10, DECISION, {"voting": {"algorithm": "supermajority", "threshold": 0.500001}}),
    (10, DECISION, {"voting": {"algorithm": "none", "weights": {"alice": 0.1}}}),
    (11, QUORUM, {"threshold": {"type": "count", "value": 2.0}}),
    (11, QUORUM, {"threshold": {"type": "percentage", "value": 100}}),
    (14, "ext.unknown", {"commitment": {"authority": 7}}),
    (14, "ext.unknown", {"commitment": {"authority": "designated_role", "designated_roles": ["judge"]}}),
]


def descriptor(mode: str, rules: object, policy_id: str, schema_version: int = 3) -> PolicyDescriptor:
    return PolicyDescriptor(policy_id=policy_id, mode=mode, rules=json.dumps(rules), schema_version=schema_version)


def fresh(client: MacpClient) -> str:
    return f"policy.test.{client.clock.new_id()}"


def register(client: MacpClient, descriptor: PolicyDescriptor) -> MacpRefusedError | None:
    try:
        client.register_policy(descriptor)
    except MacpRefusedError as refused:
        return refused
    return None


@pytest.mark.parametrize(("check", "mode", "rules", "named"), REFUSED)
def test_a_registry_refuses(connect: Connect, check: int, mode: str, rules: object, named: str) -> None:
    """Checks 5 to 14; our refusals say which rule."""
    client = connect("chair")
    wanted = descriptor(mode, rules, fresh(client))
    refused = register(client, wanted)
    assert refused is not None
    assert refused.code == "INVALID_POLICY_DEFINITION"
    with pytest.raises(MacpRefusedError, match="INVALID_POLICY_DEFINITION") as by_us:
        policy_from(wanted)
    assert named in by_us.value.message


@pytest.mark.parametrize(("check", "mode", "rules"), ACCEPTED)
def test_a_registry_takes(connect: Connect, check: int, mode: str, rules: object) -> None:
    """What lies just inside of those checks."""
    client = connect("chair")
    wanted = descriptor(mode, rules, fresh(client))
    assert register(client, wanted) is None
    assert client.get_policy(wanted.policy_id).policy_descriptor == policy_from(wanted).descriptor()


WORDS: list[tuple[str, str, tuple[str, ...], Given]] = [
    (DECISION, "voting.algorithm", policies.VOTING_ALGORITHMS, {"threshold": 0.75, "weights": {"alice": 1}}),
    (DECISION, "voting.quorum.type", policies.VOTING_QUORUM_TYPES, {}),
    (DECISION, "objection_handling.critical_objection_action", policies.CRITICAL_OBJECTION_ACTIONS, {}),
    (TASK, "commitment.authority", policies.COMMITMENT_AUTHORITIES, {"designated_roles": ["alice"]}),
    (PROPOSAL, "acceptance.criterion", policies.PROPOSAL_ACCEPTANCE_CRITERIA, {}),
    (QUORUM, "threshold.type", policies.QUORUM_THRESHOLD_TYPES, {}),
    (QUORUM, "abstention.interpretation", policies.ABSTENTION_INTERPRETATIONS, {}),
]


@pytest.mark.parametrize(("mode", "path", "words", "beside"), WORDS, ids=[path for _, path, _, _ in WORDS])
def test_a_rule_of_a_few_words_takes_those_that_are_listed(
    connect: Connect, mode: str, path: str, words: tuple[str, ...], beside: Given
) -> None:
    """And no other, nor one of them in capitals."""
    client = connect("chair")
    group, *inner = path.split(".")

    def taken(word: str) -> bool:
        value: object = word
        for key in reversed(inner):
            value = {key: value}
        assert isinstance(value, dict)
        return register(client, descriptor(mode, {group: {**beside, **value}}, fresh(client))) is None

    assert [taken(word) for word in words] == [True] * len(words)
    assert not any(taken(word) for word in ("", words[0].upper(), "other"))


@pytest.mark.parametrize(
    ("check", "policy_id", "schema_version"),
    [
        (1, "", 3),
        (1, " \t", 3),
        (2, "policy.default", 3),
        (3, "policy.test.zero", 0),
        (4, "policy.test.four", 4),
        (8, "policy.std.mine", 3),
        (8, "policy.std.majority", 1),
    ],
)
def test_a_registry_refuses_ids_and_versions(connect: Connect, check: int, policy_id: str, schema_version: int) -> None:
    """Checks 1 to 4 and 8: who is taken, reserved or unknown."""
    refused = register(connect("chair"), descriptor(DECISION, {}, policy_id, schema_version))
    assert refused is not None
    assert refused.code == "INVALID_POLICY_DEFINITION"


def test_a_registry_refuses_what_it_has(connect: Connect) -> None:
    """Check 15, after all others; a profile of the standard, word for word, is such a duplicate too (8)."""
    client = connect("chair")
    wanted = descriptor(DECISION, {}, fresh(client))
    assert register(client, wanted) is None
    for known in (wanted, BUILT_IN["policy.std.majority"].descriptor()):
        refused = register(client, known)
        assert refused is not None
        assert refused.message == f"policy '{known.policy_id}' is already registered"
    refused = register(client, descriptor(DECISION, {"voting": 1}, wanted.policy_id))
    assert refused is not None
    assert refused.code == "INVALID_POLICY_DEFINITION"


# Random rules, judged by the real server: near what is right, so that either verdict is common.

VALUES = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        2,
        101,
        -1,
        0.5,
        1.0,
        2.5,
        1e-5,
        1e16,
        "",
        "majority",
        "count",
        "judge",
        [],
        ["judge"],
        {},
    ]
)
KEYS = {
    "voting": ("algorithm", "threshold", "quorum", "weights", "_x"),
    "objection_handling": ("critical_severity_vetoes", "veto_threshold", "critical_objection_action"),
    "evaluation": ("required_before_voting", "minimum_confidence"),
    "commitment": ("authority", "designated_roles", "require_vote_quorum"),
    "acceptance": ("criterion", "implicit_accept_timeout_ms"),
    "counter_proposal": ("max_rounds",),
    "rejection": ("terminal_on_any_reject",),
    "assignment": ("allow_reassignment_on_reject",),
    "completion": ("require_output",),
    "threshold": ("type", "value"),
    "abstention": ("counts_toward_quorum", "interpretation"),
}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, object]:
    names = draw(st.lists(st.sampled_from(sorted(KEYS)), max_size=2, unique=True))
    return {name: draw(st.dictionaries(st.sampled_from(KEYS[name]), VALUES, max_size=2) | VALUES) for name in names}


@pytest.fixture(scope="module")
def real_client(real_server: RealServer) -> Iterator[MacpClient]:
    with MacpClient(target=real_server.target, secure=False, auth=AuthConfig.for_dev_agent("chair")) as client:
        yield client


def read(descriptor: PolicyDescriptor) -> Policy | None:
    """The policy, if it is one."""
    try:
        return policy_from(descriptor)
    except MacpRefusedError:
        return None


@pytest.mark.server
@settings(max_examples=300)
@given(rules=documents(), mode=st.sampled_from((*BUILDERS, "*", "ext.unknown")))
def test_the_real_servers_verdict_on_rules_is_ours(
    real_client: MacpClient, rules: dict[str, object], mode: str
) -> None:
    """And where it takes them, it shows the same text for them."""
    wanted = descriptor(mode, rules, fresh(real_client))
    refused, policy = register(real_client, wanted), read(wanted)
    assert (refused is None) == (policy is not None), refused
    if policy:
        assert real_client.get_policy(wanted.policy_id).policy_descriptor == policy.descriptor()
        real_client.unregister_policy(wanted.policy_id)
