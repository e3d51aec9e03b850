"""Commitments: who may make one, which are valid, what they hash to."""

from __future__ import annotations

import hashlib
import json
from typing import Final, Protocol

from google.protobuf.message import DecodeError
from macp.v1 import core_pb2

from macp_rx.errors import MacpRefusedError, MacpSessionError
from macp_rx.protocol.policy import Policy
from macp_rx.protocol.validation import validate_commitment_hash

__all__ = ["Bound", "check_authority", "commitment_hash", "decode_commitment", "may_commit", "sign_of"]

NEGATIVE: Final = ("rejected", "failed", "declined")
POSITIVE: Final = ("selected", "accepted", "completed", "approved")


class Bound(Protocol):
    """What a session is bound to, as far as a commitment must know it."""

    @property
    def initiator(self) -> str:
        """Who started the session."""
        ...

    @property
    def participants(self) -> tuple[str, ...]:
        """Who may act in it."""
        ...

    @property
    def mode_version(self) -> str:
        """Version of the mode."""
        ...

    @property
    def configuration_version(self) -> str:
        """Version of the configuration."""
        ...

    @property
    def policy(self) -> Policy:
        """The governance policy, as it was when the session started."""
        ...


def may_commit(session: Bound, sender: str) -> bool:
    """Whether ``sender`` has commitment authority, which also allows to cancel, suspend and resume (RFC-MACP-0012)."""
    policy = session.policy
    if policy.authority == "designated_role":
        return sender in policy.designated_roles
    if policy.authority == "any_participant" and sender in session.participants:
        return True
    return sender == session.initiator


def check_authority(session: Bound, sender: str) -> None:
    """Raises MacpRefusedError FORBIDDEN unless ``sender`` may commit."""
    if not may_commit(session, sender):
        raise MacpRefusedError("FORBIDDEN", f"{sender!r} has no authority to commit")


def sign_of(action: str) -> bool | None:
    """The sign that an action's suffix demands; None where it demands none. Case counts, a dot is not needed."""
    if action.endswith(NEGATIVE):
        return False
    if action.endswith(POSITIVE):
        return True
    return None


def decode_commitment(session: Bound, payload: bytes) -> core_pb2.CommitmentPayload:
    """Decodes a commitment and checks it against its session, in the order of `protocol.md` 4.1.

    Raises:
        MacpRefusedError: INVALID_ENVELOPE, with the first check that failed.
    """
    try:
        commitment = core_pb2.CommitmentPayload.FromString(payload)
    except DecodeError:
        raise _invalid("the payload is no CommitmentPayload") from None
    for name in ("commitment_id", "action", "authority_scope", "reason"):
        if not getattr(commitment, name).strip():
            raise _invalid(f"{name} is blank")
    if commitment.mode_version != session.mode_version:
        raise _invalid(f"mode_version is {commitment.mode_version!r}, the session's is {session.mode_version!r}")
    if commitment.configuration_version != session.configuration_version:
        raise _invalid(
            f"configuration_version is {commitment.configuration_version!r}, the session's is "
            f"{session.configuration_version!r}"
        )
    if commitment.policy_version not in ("", session.policy.policy_id):
        raise _invalid(
            f"policy_version is {commitment.policy_version!r}, the session's is {session.policy.policy_id!r}"
        )
    if commitment.HasField("supersedes"):
        _check_reference(commitment.supersedes)
    sign = sign_of(commitment.action)
    if sign is not None and sign != commitment.outcome_positive:
        raise _invalid(f"outcome_positive={commitment.outcome_positive} contradicts the action {commitment.action!r}")
    return commitment


def _check_reference(reference: core_pb2.CommitmentRef) -> None:
    if not reference.session_id.strip():
        raise _invalid("supersedes.session_id is blank")
    try:
        validate_commitment_hash(reference.commitment_hash)
    except MacpSessionError as error:
        raise _invalid(f"supersedes: {error}") from None


def _invalid(message: str) -> MacpRefusedError:
    return MacpRefusedError("INVALID_ENVELOPE", message)


def commitment_hash(commitment: core_pb2.CommitmentPayload) -> str:
    """The canonical hash of a commitment, ``sha256:…`` (label ``macp-commitment-hash/1``, `protocol.md` 10.1)."""
    projection: dict[str, object] = {
        "action": commitment.action,
        "authority_scope": commitment.authority_scope,
        "commitment_id": commitment.commitment_id,
        "configuration_version": commitment.configuration_version,
        "mode_version": commitment.mode_version,
        "outcome_positive": commitment.outcome_positive,
        "policy_version": commitment.policy_version,
        "reason": commitment.reason,
    }
    if commitment.HasField("supersedes"):  # present but empty hashes otherwise than absent
        reference = commitment.supersedes
        projection["supersedes"] = {"commitment_hash": reference.commitment_hash, "session_id": reference.session_id}
    # for ASCII keys and no floats this is RFC 8785 (JCS), byte for byte
    canonical = json.dumps(projection, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return f"sha256:{hashlib.sha256(b'macp-commitment-hash/1:' + canonical).hexdigest()}"
