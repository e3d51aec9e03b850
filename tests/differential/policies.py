"""Random governance policies: most are right, some break one rule of `protocol.md` 5.3."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from random import Random
from typing import Any

from macp.v1 import policy_pb2

__all__ = ["odd_text", "random_policy", "random_rules"]

Rules = dict[str, Any]

THRESHOLDS = [0.5, 0.51, 0.6, 2 / 3, 0.75, 1, 1.0]

ODD_VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    1.0,
    1.5,
    -0.5,
    0.5,
    1e300,
    2**32,
    2**63,
    2**64,
    "",
    "x",
    "1",
    [],
    [1],
    {},
    {"a": 1},
]

ODD_NAMES = [
    "majorty",
    "Majority",
    "voting ",
    "",
    "_note",
    "$schema",
    "x-acme.limit",
    "x-acme",
    "ratio",
    "value",
    "type",
]

ODD_TEXTS = [
    "",
    " ",
    "{}",
    " {} ",
    "[]",
    '""',
    "null",
    "0",
    "not json",
    "{",
    "{'voting':{}}",
    '{"voting":{}}x',
    '{"voting":{},}',
    "\ufeff{}",
    '{"_n":NaN}',
    '{"_n":1e400}',
    '{"_n":01}',
    '{"_n":"\\ud800"}',
    '{"_n":"\t"}',
    '{"_a":1,"_a":2}',
    '{"_n":12345678901234567890123}',
    '{"_n":-0}',
    '{"_n":[1e16,1e21,1e-7,123456789.0,0.1,-0.0,1E5,100000000000000000000.0]}',
    '{"_u":"\\u00e9é\\u2028\\/\\u0000\\u001f\\u007f"}',
    '{"voting":{"threshold":1e-400}}',
    '{"voting":{"algorithm":"majority","algorithm":"none"}}',
    '{"_deep":' + "[" * 130 + "]" * 130 + "}",
    '{"_deep":' + "[" * 100 + "]" * 100 + "}",
]


def odd_text(random: Random) -> str:
    """Text for rules that is no object, no JSON, or an object of numbers and characters at the edges under a free key."""
    choice = random.random()
    if choice < 0.4:
        return random.choice(ODD_TEXTS)
    if choice < 0.8:
        return f'{{"_n":[{",".join(_number(random) for _ in range(6))}]}}'
    characters = "".join(chr(random.choice([random.randrange(256), random.randrange(0xD800)])) for _ in range(8))
    return json.dumps({"_s": characters, f"_{characters}": {}}, ensure_ascii=random.random() < 0.5)


def _number(random: Random) -> str:
    exponent = random.randint(-330, 310)
    return random.choice(
        [
            repr(struct.unpack("<d", random.randbytes(8))[0]).replace("nan", "0").replace("inf", "1"),
            f"{random.randrange(10**17)}e{exponent}",
            f"0.{random.randrange(10 ** random.randint(1, 20))}E+{random.randrange(20)}",
            str(random.choice([1, -1]) * (2 ** random.choice([31, 32, 53, 63, 64, 65]) + random.randint(-1, 1))),
            str(random.randrange(-1000, 1000) / random.choice([1, 2, 8, 10, 1000])),
        ]
    )


def random_policy(random: Random, policy_id: str, mode: str, agents: Sequence[str]) -> policy_pb2.PolicyDescriptor:
    """A policy for a mode; about two in three can be registered.

    Args:
        random: chooses.
        policy_id: its id.
        mode: the session's mode; the policy may be for any mode.
        agents: whom weights and roles may name.
    """
    rules = random_rules(random, mode, agents)
    if random.random() < 0.3:
        _break(random, rules)
    text = json.dumps(rules, separators=random.choice([(",", ":"), None]), ensure_ascii=random.random() < 0.5)
    if random.random() < 0.06:
        text = odd_text(random)
    other = random.choice(["", "*", "nope", "macp.mode.task.v1", "macp.mode.decision.v1", mode.upper(), f"{mode} "])
    return policy_pb2.PolicyDescriptor(
        policy_id=policy_id,
        mode=random.choices([mode, "*", other], [0.75, 0.18, 0.07])[0],
        description=random.choice(["", "at random", "zufällig ✓"]),
        rules=text,
        schema_version=random.choice([1, 2, 3]) if random.random() < 0.97 else random.choice([0, 4, 2**32 - 1]),
        registered_at_unix_ms=random.choice([0, 0, 5, -1]),
    )


def random_rules(random: Random, mode: str, agents: Sequence[str]) -> Rules:
    """Rules that may be registered for a mode."""

    def some(chance: float, make: Any) -> Any:
        return make() if random.random() < chance else None

    pick = random.choice
    rules: Rules = {}
    match mode:
        case "macp.mode.decision.v1":
            rules["voting"] = some(0.85, lambda: _voting(random, agents))
            rules["objection_handling"] = some(
                0.5,
                lambda: {
                    "critical_severity_vetoes": pick([True, True, False]),
                    "veto_threshold": some(0.6, lambda: pick([1, 1, 2, 3])),
                    "critical_objection_action": some(0.7, lambda: pick(["deny", "finalize_decline", "hold"])),
                },
            )
            rules["evaluation"] = some(
                0.3,
                lambda: {
                    "required_before_voting": pick([True, True, False]),
                    "minimum_confidence": some(0.6, lambda: pick([0, 0.0, 0.5, 0.8, 1])),
                },
            )
        case "macp.mode.proposal.v1":
            rules["acceptance"] = some(
                0.8, lambda: {"criterion": some(0.95, lambda: pick(["all_parties", "counterparty", "initiator"]))}
            )
            rules["counter_proposal"] = some(0.4, lambda: {"max_rounds": pick([0, 1, 1, 2, 2**40])})
            rules["rejection"] = some(0.4, lambda: {"terminal_on_any_reject": pick([True, False])})
        case "macp.mode.task.v1":
            rules["assignment"] = some(0.7, lambda: {"allow_reassignment_on_reject": pick([True, True, False])})
            rules["completion"] = some(0.5, lambda: {"require_output": pick([True, True, False])})
        case "macp.mode.handoff.v1":
            rules["acceptance"] = some(0.8, lambda: {"implicit_accept_timeout_ms": pick([0, 1, 1, 1, 10**9])})
        case "macp.mode.quorum.v1":
            kind = pick(["n_of_m", "n_of_m", "percentage", "percentage", "count"])
            value = pick([1, 28, 33, 34, 50, 51, 66, 67, 100]) if kind == "percentage" else pick([1, 2, 3, 2.0, 5, 9])
            rules["threshold"] = some(0.8, lambda: {"type": some(0.9, lambda: kind), "value": some(0.9, lambda: value)})
            rules["abstention"] = some(
                0.3,
                lambda: {
                    "counts_toward_quorum": pick([True, False]),
                    "interpretation": pick(["neutral", "implicit_reject", "ignored"]),
                },
            )
    rules["commitment"] = some(0.6, lambda: _commitment(random, mode, agents))
    return _without_none(rules)


def _voting(random: Random, agents: Sequence[str]) -> Rules:
    algorithm = random.choice(["none", "majority", "majority", "supermajority", "unanimous", "weighted", "plurality"])
    voting: Rules = {"algorithm": algorithm}
    if algorithm == "supermajority":
        voting["threshold"] = random.choice([0.51, 0.6, 2 / 3, 0.75, 1])
    elif random.random() < 0.5:
        voting["threshold"] = random.choice(THRESHOLDS)
    if algorithm == "weighted" or random.random() < 0.05:
        electorate = random.sample(list(agents), random.randint(1, len(agents)))
        voting["weights"] = {agent: random.choice([1, 1, 2, 0.5, 0.1, 1e-9, 3.0]) for agent in electorate}
    if random.random() < 0.4:
        kind = random.choice(["count", "percentage"])
        value = random.choice([0, 1, 2, 3] if kind == "count" else [0, 33.3, 50, 66.7, 100])
        voting["quorum"] = {"type": kind, "value": value}
    return voting


def _commitment(random: Random, mode: str, agents: Sequence[str]) -> Rules:
    authority = random.choice(["initiator_only", "any_participant", "designated_role"])
    rules: Rules = {"authority": authority}
    if authority == "designated_role" or random.random() < 0.1:
        rules["designated_roles"] = random.sample(list(agents), random.randint(1, min(2, len(agents))))
    if mode == "macp.mode.decision.v1":
        if random.random() < 0.4:
            rules["require_vote_quorum"] = random.choice([True, True, False])
        if random.random() < 0.3:
            rules["allow_decline_over_approval"] = random.choice([True, True, False])
    return rules


def _without_none(rules: Rules) -> Rules:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in rules.items()
        if value is not None
    }


def _break(random: Random, rules: Rules) -> None:
    """Changes one value, or adds one key, somewhere in the tree."""
    places = [rules, *(value for value in rules.values() if isinstance(value, dict))]
    place = random.choice(places)
    if place and random.random() < 0.6:
        place[random.choice(list(place))] = random.choice(ODD_VALUES)
    else:
        known = ["voting", "objection_handling", "acceptance", "threshold", "assignment", "designated_roles", "weights"]
        place[random.choice(ODD_NAMES + known)] = random.choice(ODD_VALUES)
