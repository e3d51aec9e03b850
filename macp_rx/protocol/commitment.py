"""Commitments: who may make one, which are valid, what they hash to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final, cast

from google.protobuf.message import DecodeError
from macp.v1 import core_pb2

from macp_rx.errors import MacpSessionError
from macp_rx.protocol import jcs
from macp_rx.protocol.binding import Binding
from macp_rx.protocol.messages import Message
from macp_rx.protocol.refusals import decoded, forbidden, invalid
from macp_rx.protocol.validation import is_blank, validate_commitment_hash, validate_required_field
from macp_rx.protocol.wire import LENGTH, VARINT, fields

__all__ = [
    "Integrity",
    "Projection",
    "check_authority",
    "commit",
    "commitment_hash",
    "decode_commitment",
    "hash_of",
    "may_commit",
    "project",
    "project_wire",
    "read_projection",
    "sign_of",
    "verify_commitment_hash",
]

NEGATIVE: Final = ("rejected", "failed", "declined")
POSITIVE: Final = ("selected", "accepted", "completed", "approved")


def may_commit(session: Binding, sender: str) -> bool:
    """Whether ``sender`` has commitment authority, which also allows to cancel, suspend and resume (RFC-MACP-0012)."""
    rules = session.policy.rules.commitment
    if rules.authority == "designated_role":
        return sender in rules.designated_roles
    if rules.authority == "any_participant" and sender in session.participants:
        return True
    return sender == session.initiator


def check_authority(session: Binding, sender: str) -> None:
    """Raises MacpRefusedError FORBIDDEN unless ``sender`` may commit."""
    if not may_commit(session, sender):
        raise forbidden(f"{sender!r} has no authority to commit")


def sign_of(action: str) -> bool | None:
    """The sign that an action's suffix demands; None where it demands none. Case counts, a dot is not needed."""
    if action.endswith(NEGATIVE):
        return False
    if action.endswith(POSITIVE):
        return True
    return None


def decode_commitment(session: Binding, payload: bytes) -> core_pb2.CommitmentPayload:
    """Decodes a commitment and checks it against its session, in the order of `protocol.md` 4.1.

    Raises:
        MacpRefusedError: INVALID_ENVELOPE, with the first check that failed.
    """
    commitment = decoded(payload, core_pb2.CommitmentPayload)
    for name in ("commitment_id", "action", "authority_scope", "reason"):
        if is_blank(getattr(commitment, name)):
            raise invalid(f"{name} is blank")
    if commitment.mode_version != session.mode_version:
        raise invalid(f"mode_version is {commitment.mode_version!r}, the session's is {session.mode_version!r}")
    if commitment.configuration_version != session.configuration_version:
        raise invalid(
            f"configuration_version is {commitment.configuration_version!r}, the session's is "
            f"{session.configuration_version!r}"
        )
    if commitment.policy_version not in ("", session.policy.policy_id):
        raise invalid(f"policy_version is {commitment.policy_version!r}, the session's is {session.policy.policy_id!r}")
    if commitment.HasField("supersedes"):
        _check_reference(commitment.supersedes)
    sign = sign_of(commitment.action)
    if sign is not None and sign != commitment.outcome_positive:
        raise invalid(f"outcome_positive={commitment.outcome_positive} contradicts the action {commitment.action!r}")
    return commitment


def _check_reference(reference: core_pb2.CommitmentRef) -> None:
    if is_blank(reference.session_id):
        raise invalid("supersedes.session_id is blank")
    try:
        validate_commitment_hash(reference.commitment_hash)
    except MacpSessionError as error:
        raise invalid(f"supersedes: {error}") from None


# Its message.


def commit(
    *,
    action: str,
    authority_scope: str,
    reason: str,
    commitment_id: str = "",
    outcome_positive: bool | None = None,
    supersedes: core_pb2.CommitmentRef | None = None,
) -> Message[core_pb2.CommitmentPayload]:
    """Commits, which resolves the session, whatever its mode. The versions it must repeat are filled in where it is sent.

    Args:
        action: what is committed to, such as ``decision.approved``.
        authority_scope: what the commitment binds.
        reason: why.
        commitment_id: a new one by default.
        outcome_positive: the sign; by default what the action's suffix says, else positive.
        supersedes: a commitment of another session that this one replaces.

    Raises:
        MacpSessionError: a blank field, or a sign that the action contradicts.
    """
    for name, value in (("action", action), ("authority_scope", authority_scope), ("reason", reason)):
        validate_required_field(name, value)
    sign = sign_of(action)
    if sign is not None and outcome_positive not in (None, sign):
        raise MacpSessionError(f"outcome_positive={outcome_positive} contradicts the action {action!r}")
    positive = outcome_positive if outcome_positive is not None else sign is not False
    payload = core_pb2.CommitmentPayload(
        commitment_id=commitment_id,
        action=action,
        authority_scope=authority_scope,
        reason=reason,
        outcome_positive=positive,
        supersedes=supersedes,
    )
    return Message("", payload)


# Its hash (`protocol.md` 10.1): of a projection, the nine members that the label covers, no more and no less.

Projection = dict[str, str | bool | dict[str, str]]
"""A commitment as a JSON object, every member but ``supersedes`` always there."""

_LABEL: Final = b"macp-commitment-hash/1:"
_STRINGS: Final = {
    1: "commitment_id",
    2: "action",
    3: "authority_scope",
    4: "reason",
    5: "mode_version",
    6: "policy_version",
    7: "configuration_version",
}
_OUTCOME_POSITIVE: Final = 8
_SUPERSEDES: Final = 9
_REFERENCE: Final = {1: "session_id", 2: "commitment_hash"}


class Integrity(StrEnum):
    """What comes of checking a commitment against a hash that is claimed for it."""

    MATCH = "match"
    MISMATCH = "mismatch"
    CANNOT_VERIFY = "cannot_verify"
    """The label does not cover this commitment; that says nothing about the claim."""


def commitment_hash(commitment: core_pb2.CommitmentPayload) -> str:
    """The canonical hash of a commitment, ``sha256:…`` (label ``macp-commitment-hash/1``, `protocol.md` 10.1)."""
    return hash_of(project(commitment))


def verify_commitment_hash(wire: bytes, claimed: str) -> Integrity:
    """Checks the hash that is claimed for a commitment.

    Args:
        wire: the CommitmentPayload as received. Not a decoded one: decoding hides what the label does not cover.
        claimed: compared as it is; what is not in canonical form matches nothing.
    """
    try:
        found = hash_of(project_wire(wire))
    except MacpSessionError:
        return Integrity.CANNOT_VERIFY
    return Integrity.MATCH if found == claimed else Integrity.MISMATCH


def hash_of(projection: Projection) -> str:
    """The hash of a projection. Raises MacpSessionError for a string that has no UTF-8."""
    return f"sha256:{hashlib.sha256(_LABEL + jcs.encode(projection).encode()).hexdigest()}"


def project(commitment: core_pb2.CommitmentPayload) -> Projection:
    """The projection of a decoded commitment."""
    projection: Projection = {name: getattr(commitment, name) for name in _STRINGS.values()}
    projection["outcome_positive"] = commitment.outcome_positive
    if commitment.HasField("supersedes"):  # present but empty hashes otherwise than absent
        projection["supersedes"] = {name: getattr(commitment.supersedes, name) for name in _REFERENCE.values()}
    return projection


def project_wire(wire: bytes) -> Projection:
    """The projection of a commitment as received: the last of repeated scalars counts, repeated messages merge.

    The bytes are read here, not by protobuf: it hides a known field of the wrong wire type among the unknown ones, and has
    its own opinion of tags longer than they need be.

    Raises:
        MacpSessionError: the label does not cover them: a field of another number or type, or no message at all.
    """
    projection: Projection = {**dict.fromkeys(_STRINGS.values(), ""), "outcome_positive": False}
    reference: dict[str, str] = {}
    for number, value in _fields(wire):
        if number == _OUTCOME_POSITIVE and isinstance(value, int):
            projection["outcome_positive"] = value != 0
        elif number == _SUPERSEDES and isinstance(value, bytes):
            reference = reference or dict.fromkeys(_REFERENCE.values(), "")
            for inner, part in _fields(value):
                reference[_name(inner, _REFERENCE)] = _text(inner, part)
            projection["supersedes"] = reference
        else:
            projection[_name(number, _STRINGS)] = _text(number, value)
    return projection


def read_projection(value: object) -> Projection:
    """A projection that comes from elsewhere, as a receipt has it.

    Raises:
        MacpSessionError: a member is missing, unknown or of the wrong type.
    """
    strings = _members(value)
    outcome = strings.pop("outcome_positive", None)
    whole = isinstance(outcome, bool) and (
        "supersedes" not in strings or _are_strings(strings.pop("supersedes"), _REFERENCE)
    )
    if not (whole and _are_strings(strings, _STRINGS)):
        raise MacpSessionError("this is not the projection of a commitment")
    return cast("Projection", value)


def _are_strings(value: object, names: Mapping[int, str]) -> bool:
    members = _members(value)
    return members.keys() == set(names.values()) and all(isinstance(item, str) for item in members.values())


def _members(value: object) -> dict[str, object]:
    return dict(cast("dict[str, object]", value)) if isinstance(value, dict) else {}


def _name(number: int, names: Mapping[int, str]) -> str:
    if number not in names:
        raise MacpSessionError(f"field {number} is not one that the hash covers, or not of its wire type")
    return names[number]


def _text(number: int, value: int | bytes) -> str:
    if isinstance(value, int):
        raise MacpSessionError(f"field {number} is a number on the wire, not a string")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MacpSessionError(f"field {number} is no UTF-8") from None


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field; of the wire types only those two that a commitment has."""
    try:
        for number, wire_type, value in fields(raw):
            if wire_type not in (VARINT, LENGTH):
                raise MacpSessionError(f"field {number} is of wire type {wire_type}")
            yield number, value
    except DecodeError as error:
        raise MacpSessionError(str(error)) from None
