"""Governance policies: their rules with defaults, how to build one, what a registry refuses (RFC-MACP-0012, `protocol.md` 5).

What a rule means when somebody commits stands with the mode that it governs (`modes/`): each has its ``denials``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, cast

from macp.v1 import policy_pb2

from macp_rx.errors import Denial, MacpRefusedError, MacpSessionError
from macp_rx.protocol.messages import DECISION, HANDOFF, PROPOSAL, QUORUM, TASK
from macp_rx.protocol.strict_json import as_json_text, parse_json

__all__ = [
    "ABSTENTION_INTERPRETATIONS",
    "BUILT_IN",
    "COMMITMENT_AUTHORITIES",
    "CRITICAL_OBJECTION_ACTIONS",
    "DEFAULT",
    "PROPOSAL_ACCEPTANCE_CRITERIA",
    "QUORUM_THRESHOLD_TYPES",
    "SCHEMA_VERSIONS",
    "VOTING_ALGORITHMS",
    "VOTING_QUORUM_TYPES",
    "AbstentionRules",
    "AcceptanceRules",
    "AssignmentRules",
    "CommitmentRules",
    "CompletionRules",
    "CounterProposalRules",
    "EvaluationRules",
    "ObjectionHandlingRules",
    "Policy",
    "QuorumThreshold",
    "RejectionRules",
    "Rules",
    "VotingRules",
    "build_decision_policy",
    "build_handoff_policy",
    "build_proposal_policy",
    "build_quorum_policy",
    "build_task_policy",
    "permit",
    "policy_from",
]

SCHEMA_VERSIONS: Final = (1, 2, 3)
ANY_MODE: Final = "*"

# What a rule that is one of a few words may say (`protocol.md` 5.4).

VOTING_ALGORITHMS: Final = ("none", "majority", "supermajority", "unanimous", "weighted", "plurality")
VOTING_QUORUM_TYPES: Final = ("count", "percentage")
CRITICAL_OBJECTION_ACTIONS: Final = ("deny", "finalize_decline", "hold")
COMMITMENT_AUTHORITIES: Final = ("initiator_only", "any_participant", "designated_role")
PROPOSAL_ACCEPTANCE_CRITERIA: Final = ("all_parties", "counterparty", "initiator")
QUORUM_THRESHOLD_TYPES: Final = ("n_of_m", "percentage", "count")
ABSTENTION_INTERPRETATIONS: Final = ("neutral", "implicit_reject", "ignored")


# The rules, with their defaults (`protocol.md` 5.4).


@dataclass(frozen=True, slots=True)
class VotingRules:
    """How a decision's votes are counted.

    Attributes:
        algorithm: one of `VOTING_ALGORITHMS`.
        threshold: share of approvals among the decisive votes that is enough, in (0, 1]; reached is passed.
        quorum_type: ``count`` of voters, or ``percentage`` of the participants (0 to 100).
        quorum_value: how many; counts only under ``CommitmentRules.require_vote_quorum``.
        weights: participant -> weight > 0; under ``weighted`` whoever is not listed weighs nothing.
    """

    algorithm: str = "none"
    threshold: float = 0.5
    quorum_type: str = "count"
    quorum_value: float = 0
    weights: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class ObjectionHandlingRules:
    """What critical objections do.

    Attributes:
        critical_severity_vetoes: they veto.
        veto_threshold: so many of them.
        critical_objection_action: ``deny`` both signs, ``hold`` both, or ``finalize_decline``, which allows the negative one.
    """

    critical_severity_vetoes: bool = False
    veto_threshold: int = 1
    critical_objection_action: str = "deny"


@dataclass(frozen=True, slots=True)
class EvaluationRules:
    """Which evaluations a commitment needs; votes are never held back.

    Attributes:
        required_before_voting: at least one that is not REVIEW.
        minimum_confidence: one of at least this confidence, in [0, 1].
    """

    required_before_voting: bool = False
    minimum_confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class CommitmentRules:
    """Who may commit, and when.

    Attributes:
        authority: one of `COMMITMENT_AUTHORITIES`.
        designated_roles: the senders who may, under ``designated_role``; the initiator is none of them by itself.
        require_vote_quorum: decision mode: the voting quorum must be met.
        allow_decline_over_approval: decision mode: a negative commitment may overrule a vote that passed.
    """

    authority: str = "initiator_only"
    designated_roles: tuple[str, ...] = ()
    require_vote_quorum: bool = False
    allow_decline_over_approval: bool = False


@dataclass(frozen=True, slots=True)
class AcceptanceRules:
    """When a proposal or a handoff counts as accepted.

    Attributes:
        criterion: proposal mode: by ``all_parties``, by every ``counterparty`` of the proposer, or by the ``initiator``.
        implicit_accept_timeout_ms: handoff mode: an offer nobody answers is accepted after so long; 0 never.
    """

    criterion: str = "all_parties"
    implicit_accept_timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class CounterProposalRules:
    """How long a negotiation may go on.

    Attributes:
        max_rounds: so many counter-proposals; 0 is no limit.
    """

    max_rounds: int = 0


@dataclass(frozen=True, slots=True)
class RejectionRules:
    """What a rejection in proposal mode does.

    Attributes:
        terminal_on_any_reject: every one ends the negotiation.
    """

    terminal_on_any_reject: bool = False


@dataclass(frozen=True, slots=True)
class AssignmentRules:
    """Who may take a task.

    Attributes:
        allow_reassignment_on_reject: its assignee may give it back, and another take it.
    """

    allow_reassignment_on_reject: bool = False


@dataclass(frozen=True, slots=True)
class CompletionRules:
    """What a completed task must have.

    Attributes:
        require_output: a positive commitment needs an output.
    """

    require_output: bool = False


@dataclass(frozen=True, slots=True)
class QuorumThreshold:
    """How many approvals are enough, in place of what the request asks for.

    Attributes:
        type: ``n_of_m`` (or its old name ``count``), or ``percentage`` of the participants.
        value: how many; None leaves it to the request.
    """

    type: str = "n_of_m"
    value: float | None = None


@dataclass(frozen=True, slots=True)
class AbstentionRules:
    """Stored and shown; the reference runtime gives them no effect.

    Attributes:
        counts_toward_quorum: no effect.
        interpretation: one of `ABSTENTION_INTERPRETATIONS`; no effect.
    """

    counts_toward_quorum: bool = False
    interpretation: str = "neutral"


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a policy: each mode reads its own groups."""

    voting: VotingRules = VotingRules()
    objection_handling: ObjectionHandlingRules = ObjectionHandlingRules()
    evaluation: EvaluationRules = EvaluationRules()
    commitment: CommitmentRules = CommitmentRules()
    acceptance: AcceptanceRules = AcceptanceRules()
    counter_proposal: CounterProposalRules = CounterProposalRules()
    rejection: RejectionRules = RejectionRules()
    assignment: AssignmentRules = AssignmentRules()
    completion: CompletionRules = CompletionRules()
    threshold: QuorumThreshold = QuorumThreshold()
    abstention: AbstentionRules = AbstentionRules()


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as a session is bound to it.

    Attributes:
        policy_id: its id.
        mode: the mode it may be bound in; ``*`` for any.
        description: for people.
        rules_json: its rules as the registry shows them: compact JSON, keys sorted.
        schema_version: which semantics its rules have; from 3 on a tally without decisive votes is binding.
        rules: the same rules, typed, with defaults.
    """

    policy_id: str
    mode: str
    description: str = ""
    rules_json: str = "{}"
    schema_version: int = 3
    rules: Rules = Rules()

    def descriptor(self) -> policy_pb2.PolicyDescriptor:
        """The policy on the wire."""
        return policy_pb2.PolicyDescriptor(
            policy_id=self.policy_id,
            mode=self.mode,
            description=self.description,
            rules=self.rules_json,
            schema_version=self.schema_version,
        )


# Builders: a policy on the wire, from typed rules.


def build_decision_policy(
    policy_id: str,
    description: str = "",
    *,
    voting: VotingRules | None = None,
    objection_handling: ObjectionHandlingRules | None = None,
    evaluation: EvaluationRules | None = None,
    commitment: CommitmentRules | None = None,
    schema_version: int = 3,
    annotations: Mapping[str, object] | None = None,
) -> policy_pb2.PolicyDescriptor:
    """A policy for decision mode.

    There is no argument for extensions, keys that begin with ``x-``: macp-runtime announces none (``rule_extensions`` of
    Initialize's reply), nor does the embedded runtime, and both refuse what they have not announced.

    Args:
        policy_id: its id; ``policy.default`` and ``policy.std.…`` are taken.
        description: for people.
        voting: how votes are counted.
        objection_handling: what critical objections do.
        evaluation: which evaluations are needed.
        commitment: who may commit, and when.
        schema_version: 1, 2 or 3.
        annotations: further keys, which begin with ``_`` or ``$`` and mean nothing to a runtime.

    Raises:
        MacpRefusedError: INVALID_POLICY_DEFINITION, with what a registry would refuse.
    """
    groups = {
        "voting": voting,
        "objection_handling": objection_handling,
        "evaluation": evaluation,
        "commitment": commitment,
    }
    return _built(policy_id, DECISION, description, groups, schema_version, annotations)


def build_proposal_policy(
    policy_id: str,
    description: str = "",
    *,
    acceptance: AcceptanceRules | None = None,
    counter_proposal: CounterProposalRules | None = None,
    rejection: RejectionRules | None = None,
    commitment: CommitmentRules | None = None,
    schema_version: int = 3,
    annotations: Mapping[str, object] | None = None,
) -> policy_pb2.PolicyDescriptor:
    """A policy for proposal mode. Arguments and errors as `build_decision_policy`."""
    groups = {
        "acceptance": acceptance,
        "counter_proposal": counter_proposal,
        "rejection": rejection,
        "commitment": commitment,
    }
    return _built(policy_id, PROPOSAL, description, groups, schema_version, annotations)


def build_task_policy(
    policy_id: str,
    description: str = "",
    *,
    assignment: AssignmentRules | None = None,
    completion: CompletionRules | None = None,
    commitment: CommitmentRules | None = None,
    schema_version: int = 3,
    annotations: Mapping[str, object] | None = None,
) -> policy_pb2.PolicyDescriptor:
    """A policy for task mode. Arguments and errors as `build_decision_policy`."""
    groups = {"assignment": assignment, "completion": completion, "commitment": commitment}
    return _built(policy_id, TASK, description, groups, schema_version, annotations)


def build_handoff_policy(
    policy_id: str,
    description: str = "",
    *,
    acceptance: AcceptanceRules | None = None,
    commitment: CommitmentRules | None = None,
    schema_version: int = 3,
    annotations: Mapping[str, object] | None = None,
) -> policy_pb2.PolicyDescriptor:
    """A policy for handoff mode. Arguments and errors as `build_decision_policy`."""
    groups = {"acceptance": acceptance, "commitment": commitment}
    return _built(policy_id, HANDOFF, description, groups, schema_version, annotations)


def build_quorum_policy(
    policy_id: str,
    description: str = "",
    *,
    threshold: QuorumThreshold | None = None,
    abstention: AbstentionRules | None = None,
    commitment: CommitmentRules | None = None,
    schema_version: int = 3,
    annotations: Mapping[str, object] | None = None,
) -> policy_pb2.PolicyDescriptor:
    """A policy for quorum mode. Arguments and errors as `build_decision_policy`."""
    groups = {"threshold": threshold, "abstention": abstention, "commitment": commitment}
    return _built(policy_id, QUORUM, description, groups, schema_version, annotations)


def _built(
    policy_id: str,
    mode: str,
    description: str,
    groups: Mapping[str, Any],
    schema_version: int,
    annotations: Mapping[str, object] | None,
) -> policy_pb2.PolicyDescriptor:
    own = KEYS[mode]
    rules: dict[str, object] = dict(annotations or {})
    for name, group in groups.items():
        if group is not None:
            rules[name] = _nested(group, cast("Mapping[str, Any]", own[name]))
    descriptor = policy_pb2.PolicyDescriptor(
        policy_id=policy_id,
        mode=mode,
        description=description,
        rules=json.dumps(rules, sort_keys=True, separators=(",", ":")),
        schema_version=schema_version,
    )
    policy_from(descriptor)
    return descriptor


def _nested(group: Any, keys: Mapping[str, Any]) -> dict[str, object]:
    """A group's values under its keys; what is absent in the group or undefined in this mode is left out."""
    found: dict[str, object] = {}
    for name, kind in keys.items():
        if isinstance(kind, dict):
            inner = cast("dict[str, Any]", kind)
            found[name] = {key: getattr(group, f"{name}_{key}") for key in inner}
        elif (value := getattr(group, name)) not in (None, {}):
            found[name] = dict(cast("Mapping[str, object]", value)) if isinstance(value, Mapping) else value
    return found


# What a registry refuses (`protocol.md` 5.3), as one table: group -> key -> what its value must be.

Check = Callable[[object], bool]


def _boolean(value: object) -> bool:
    return isinstance(value, bool)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _u32(value: object) -> bool:
    return _u64(value) and cast("int", value) < 2**32


def _u64(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


def _names(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, cast("list[object]", value)))


def _weights(value: object) -> bool:
    return isinstance(value, dict) and all(map(_number, cast("dict[str, object]", value).values()))


EXPECTED: Final[Mapping[Check, str]] = {
    _boolean: "true or false",
    _text: "a string",
    _number: "a number",
    _u32: "a whole number from 0 to 4294967295, written without a point",
    _u64: "a whole number >= 0, written without a point",
    _names: "a list of strings",
    _weights: "an object of numbers",
}

_AUTHORITY: Final[Mapping[str, Any]] = {"authority": _text, "designated_roles": _names}

KEYS: Final[Mapping[str, Mapping[str, Any]]] = {
    DECISION: {
        "voting": {
            "algorithm": _text,
            "threshold": _number,
            "quorum": {"type": _text, "value": _number},
            "weights": _weights,
        },
        "objection_handling": {
            "critical_severity_vetoes": _boolean,
            "veto_threshold": _u32,
            "critical_objection_action": _text,
        },
        "evaluation": {"required_before_voting": _boolean, "minimum_confidence": _number},
        "commitment": {**_AUTHORITY, "require_vote_quorum": _boolean, "allow_decline_over_approval": _boolean},
    },
    PROPOSAL: {
        "acceptance": {"criterion": _text},
        "counter_proposal": {"max_rounds": _u64},
        "rejection": {"terminal_on_any_reject": _boolean},
        "commitment": _AUTHORITY,
    },
    TASK: {
        "assignment": {"allow_reassignment_on_reject": _boolean},
        "completion": {"require_output": _boolean},
        "commitment": _AUTHORITY,
    },
    HANDOFF: {"acceptance": {"implicit_accept_timeout_ms": _u64}, "commitment": _AUTHORITY},
    QUORUM: {
        "threshold": {"type": _text, "value": _number},
        "abstention": {"counts_toward_quorum": _boolean, "interpretation": _text},
        "commitment": _AUTHORITY,
    },
}


def _merged(trees: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    union: dict[str, dict[str, Any]] = {}
    for tree in trees:
        for group, keys in tree.items():
            union.setdefault(group, {}).update(keys)
    return union


_ANY: Final = _merged(KEYS.values())

_ANNOTATION: Final = re.compile(r"[_$]")


def policy_from(descriptor: policy_pb2.PolicyDescriptor | Policy) -> Policy:
    """The policy that a descriptor defines; a policy as it is.

    Raises:
        MacpRefusedError: INVALID_POLICY_DEFINITION: the first check of `protocol.md` 5.3 that it fails, except the checks of its
            id, which are the registry's.
        MacpSessionError: it is neither, such as a policy's id.
    """
    if isinstance(descriptor, Policy):
        return descriptor
    if not isinstance(descriptor, policy_pb2.PolicyDescriptor):
        raise MacpSessionError(f"a policy is a PolicyDescriptor, as client.get_policy tells of one, not {descriptor!r}")
    if descriptor.schema_version not in SCHEMA_VERSIONS:
        raise _invalid(f"schema_version is {descriptor.schema_version}, and must be 1, 2 or 3")
    given, mode = _parsed(descriptor.rules), descriptor.mode
    keys = _ANY if mode == ANY_MODE else KEYS.get(mode)
    authority = _authority(given)
    if keys is None:  # of a mode that has no rules of its own only the authority counts
        rules = _typed({"commitment": authority})
    else:
        _check_keys(given, keys, "rules")
        rules = _typed(given)
        _check_domains(rules, mode, given)
    _check_authority(authority)
    return Policy(
        descriptor.policy_id, mode, descriptor.description, as_json_text(given), descriptor.schema_version, rules
    )


def _parsed(text: str) -> dict[str, object]:
    """The rules of a descriptor. Those that are no JSON at all count as none: so does the reference runtime (probed)."""
    try:
        parsed: object = parse_json(text) if text else {}
    except ValueError:
        parsed = {}
    if not isinstance(parsed, dict):
        raise _invalid("rules must be a JSON object")
    return cast("dict[str, object]", parsed)


def _check_keys(values: Mapping[str, object], keys: Mapping[str, Any], path: str) -> None:
    for name, value in sorted(values.items()):
        here = f"{path}.{name}"
        kind = keys.get(name)
        if kind is None:
            if _ANNOTATION.match(name):
                continue
            raise _invalid(
                f"{here} is not a defined key; defined are {', '.join(sorted(keys))}, and annotations (_… and $…)"
            )
        if isinstance(kind, Mapping):
            if not isinstance(value, dict):
                raise _invalid(f"{here} must be an object")
            _check_keys(cast("dict[str, object]", value), cast("Mapping[str, Any]", kind), here)
        elif not kind(value):
            raise _invalid(f"{here} must be {EXPECTED[kind]}")


def _check_domains(rules: Rules, mode: str, given: Mapping[str, object]) -> None:
    if mode in (DECISION, ANY_MODE):
        _check_decision(rules, given)
    if mode in (QUORUM, ANY_MODE):
        _check_threshold(rules.threshold)
        _one_of("threshold.type", rules.threshold.type, QUORUM_THRESHOLD_TYPES)
        _one_of("abstention.interpretation", rules.abstention.interpretation, ABSTENTION_INTERPRETATIONS)
    if mode in (PROPOSAL, ANY_MODE):
        _one_of("acceptance.criterion", rules.acceptance.criterion, PROPOSAL_ACCEPTANCE_CRITERIA)


def _check_decision(rules: Rules, given: Mapping[str, object]) -> None:
    voting = rules.voting
    _one_of("voting.algorithm", voting.algorithm, VOTING_ALGORITHMS)
    _in_range("voting.threshold", voting.threshold, 0 < voting.threshold <= 1, "greater than 0 and at most 1")
    for name, weight in voting.weights.items():
        _in_range(f"voting.weights.{name}", weight, weight > 0, "greater than 0")
    _one_of("voting.quorum.type", voting.quorum_type, VOTING_QUORUM_TYPES)
    _in_range("voting.quorum.value", voting.quorum_value, voting.quorum_value >= 0, "at least 0")
    objections, evaluation = rules.objection_handling, rules.evaluation
    _in_range(
        "objection_handling.veto_threshold", objections.veto_threshold, objections.veto_threshold >= 1, "at least 1"
    )
    action = objections.critical_objection_action
    _one_of("objection_handling.critical_objection_action", action, CRITICAL_OBJECTION_ACTIONS)
    least = evaluation.minimum_confidence
    _in_range("evaluation.minimum_confidence", least, 0 <= least <= 1, "from 0 to 1")
    supplied = cast("Mapping[str, object]", given.get("voting", {}))
    if (voting.algorithm == "weighted" or "weights" in supplied) and not voting.weights:
        raise _invalid("rules.voting.weights must name at least one participant")
    if voting.algorithm == "supermajority":
        _in_range("voting.threshold", voting.threshold, voting.threshold > 0.5, "greater than 0.5 for a supermajority")
    if voting.algorithm == "majority":
        _in_range("voting.threshold", voting.threshold, voting.threshold >= 0.5, "at least 0.5 for a majority")


def _check_threshold(threshold: QuorumThreshold) -> None:
    value = threshold.value
    if value is None:
        return
    _in_range("threshold.value", value, value > 0 and value == int(value), "a whole number greater than 0")
    if threshold.type == "percentage":
        _in_range("threshold.value", value, value <= 100, "at most 100 for a percentage")


def _authority(rules: Mapping[str, object]) -> dict[str, object]:
    """What the rules say of who may commit; nothing where that cannot be read."""
    commitment = cast("dict[str, object]", block) if isinstance(block := rules.get("commitment"), dict) else {}
    given = {key: commitment[key] for key in _AUTHORITY if key in commitment}
    return given if all(_AUTHORITY[key](value) for key, value in given.items()) else {}


def _check_authority(given: Mapping[str, object]) -> None:
    """The rule of every mode, unknown ones too."""
    authority = cast("str", given.get("authority", "initiator_only"))
    _one_of("commitment.authority", authority, COMMITMENT_AUTHORITIES)
    if authority == "designated_role" and not given.get("designated_roles"):
        raise _invalid("rules.commitment.designated_roles must name somebody under designated_role")


def _one_of(path: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise _invalid(f"rules.{path} is {value!r}, and must be one of {', '.join(allowed)}")


def _in_range(path: str, value: float, holds: bool, expected: str) -> None:
    if not holds:
        raise _invalid(f"rules.{path} is {value}, and must be {expected}")


def _invalid(message: str) -> MacpRefusedError:
    return MacpRefusedError("INVALID_POLICY_DEFINITION", message)


def _typed(rules: Mapping[str, object]) -> Rules:
    """The rules as values, defaults filled in."""
    groups = {
        one.name: _group(type(one.default), cast("dict[str, object]", rules[one.name]))
        for one in fields(Rules)
        if one.name in rules
    }
    return Rules(**groups)


def _group(cls: Any, given: Mapping[str, object]) -> Any:
    quorum = cast("dict[str, object]", given.get("quorum", {}))
    flat = {**given, **{f"quorum_{key}": value for key, value in quorum.items()}}
    known = {one.name for one in fields(cls)}
    values = {name: value for name, value in flat.items() if name in known}
    return cls(
        **{
            name: tuple(cast("list[str]", value)) if isinstance(value, list) else value
            for name, value in values.items()
        }
    )


def permit(denials: Iterable[Denial]) -> None:
    """Raises POLICY_DENIED with these reasons, as the protocol carries them (`protocol.md` 5.6); nothing where there are none."""
    found = tuple(denials)
    if not found:
        return
    entries = [
        {
            "code": one.code,
            "message": one.message,
            **({"participants": list(one.participants)} if one.participants else {}),
        }
        for one in found
    ]
    reasons = [one.message for one in found]
    details = json.dumps({"denials": entries, "reasons": reasons}, separators=(",", ":"), ensure_ascii=False).encode()
    raise MacpRefusedError("POLICY_DENIED", "; ".join(reasons), details)


# Built in: always there, neither replaced nor removed (`protocol.md` 5.5).


def _standard(policy_id: str, description: str, voting: dict[str, object]) -> Policy:
    rules = {"commitment": {"require_vote_quorum": True}, "voting": voting}
    return policy_from(
        policy_pb2.PolicyDescriptor(
            policy_id=policy_id, mode=DECISION, description=description, rules=json.dumps(rules), schema_version=1
        )
    )


DEFAULT: Final = policy_from(
    policy_pb2.PolicyDescriptor(
        policy_id="policy.default",
        mode=ANY_MODE,
        description="Default policy — mode built-in rules apply with no additional governance constraints",
        rules=json.dumps(
            {
                "commitment": {"authority": "initiator_only", "designated_roles": [], "require_vote_quorum": False},
                "evaluation": {"minimum_confidence": 0.0, "required_before_voting": False},
                "objection_handling": {"critical_severity_vetoes": False, "veto_threshold": 1},
                "voting": {"algorithm": "none", "quorum": {"type": "count", "value": 0}},
            }
        ),
        schema_version=1,
    )
)

BUILT_IN: Final[Mapping[str, Policy]] = {
    policy.policy_id: policy
    for policy in (
        DEFAULT,
        _standard(
            "policy.std.majority",
            "Simple majority — at least half of the decisive votes approve",
            {"algorithm": "majority", "threshold": 0.5, "quorum": {"type": "count", "value": 1}},
        ),
        _standard(
            "policy.std.supermajority",
            "Two-thirds supermajority with a minimum of two voters",
            {"algorithm": "supermajority", "threshold": 2 / 3, "quorum": {"type": "count", "value": 2}},
        ),
        _standard(
            "policy.std.unanimous",
            "Unanimous — every declared participant approves and no reject is cast",
            {"algorithm": "unanimous", "quorum": {"type": "count", "value": 1}},
        ),
    )
}
