"""Governance policies. For now the built-in default, which adds no constraint; the rules are the next issue's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["BUILT_IN", "DEFAULT", "Policy"]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as a session is bound to it.

    Attributes:
        policy_id: its id.
        mode: the mode it may be bound in; ``*`` for any.
        description: for people.
        rules: its rules, JSON as the runtime shows it.
        schema_version: which semantics its rules have.
        authority: who may commit: ``initiator_only``, ``any_participant`` or ``designated_role``.
        designated_roles: who, under ``designated_role``.
    """

    policy_id: str
    mode: str
    description: str
    rules: str
    schema_version: int
    authority: str = "initiator_only"
    designated_roles: tuple[str, ...] = ()


DEFAULT: Final = Policy(
    policy_id="policy.default",
    mode="*",
    description="Default policy — mode built-in rules apply with no additional governance constraints",
    rules=(
        '{"commitment":{"authority":"initiator_only","designated_roles":[],"require_vote_quorum":false},'
        '"evaluation":{"minimum_confidence":0.0,"required_before_voting":false},'
        '"objection_handling":{"critical_severity_vetoes":false,"veto_threshold":1},'
        '"voting":{"algorithm":"none","quorum":{"type":"count","value":0}}}'
    ),
    schema_version=1,
)

BUILT_IN: Final[Mapping[str, Policy]] = {DEFAULT.policy_id: DEFAULT}
