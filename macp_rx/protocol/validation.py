"""What the protocol would refuse in a value, said before it reaches the wire: each rule once, for client and runtime."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

from macp.v1 import core_pb2

from macp_rx.errors import MacpSessionError
from macp_rx.protocol.messages import DECISION

__all__ = [
    "MAX_PARTICIPANTS",
    "MAX_TTL_MS",
    "RECOMMENDATIONS",
    "SEVERITIES",
    "VOTES",
    "is_blank",
    "is_session_id",
    "validate_commitment_hash",
    "validate_confidence",
    "validate_max_suspend_ms",
    "validate_participants",
    "validate_progress",
    "validate_progress_scope",
    "validate_recommendation",
    "validate_required_field",
    "validate_session_id",
    "validate_session_start",
    "validate_severity",
    "validate_signal_type",
    "validate_ttl_ms",
    "validate_vote",
]

MAX_TTL_MS: Final = 86_400_000
MAX_PARTICIPANTS: Final = 1000
VOTES: Final = ("APPROVE", "REJECT", "ABSTAIN")
RECOMMENDATIONS: Final = ("APPROVE", "REVIEW", "BLOCK", "REJECT")
SEVERITIES: Final = ("low", "medium", "high", "critical")

# uuid.UUID() also takes braces, "urn:uuid:" and hyphens in any place; the runtime does not
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_OPAQUE: Final = re.compile(r"[A-Za-z0-9_-]{22,128}")
_WHITE_SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")


def is_session_id(session_id: str) -> bool:
    """Whether the protocol accepts this as a session id (RFC-MACP-0001, `protocol.md` 2.2)."""
    if len(session_id) == 36 and _UUID.fullmatch(session_id):
        return session_id == session_id.lower() and session_id[14] in "47"
    return _OPAQUE.fullmatch(session_id) is not None


def validate_session_id(session_id: str) -> None:
    """Raises MacpSessionError, which says what would be right, unless the protocol accepts this session id."""
    if not is_session_id(session_id):
        raise MacpSessionError(
            f"{session_id!r} is no session id: the protocol takes a lower-case hyphenated UUID of version 4 or 7, or 22 to "
            "128 characters of A-Z, a-z, 0-9, '_' and '-'; new_session_id() makes one"
        )


def is_blank(text: str) -> bool:
    """Whether there is nothing but white space, as Unicode defines it and the reference runtime reads it.

    Python's own idea of it includes the separators U+001C to U+001F, which are not white space to Unicode.
    """
    return not text.strip(_WHITE_SPACE)


def validate_required_field(name: str, value: str) -> None:
    """Raises MacpSessionError if a field that must say something is blank."""
    if is_blank(value):
        raise MacpSessionError(f"{name} must not be blank")


def validate_vote(vote: str) -> None:
    """Raises MacpSessionError unless this is a vote, case and all."""
    _one_of("vote", vote, VOTES)


def validate_recommendation(recommendation: str) -> None:
    """Raises MacpSessionError unless this is a recommendation, case and all."""
    _one_of("recommendation", recommendation, RECOMMENDATIONS)


def validate_severity(severity: str) -> None:
    """Raises MacpSessionError unless this is a severity, case and all."""
    _one_of("severity", severity, SEVERITIES)


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise MacpSessionError(f"{name} {value!r} is none of {', '.join(allowed)}; the case counts")


def validate_confidence(confidence: float) -> None:
    """Raises MacpSessionError unless this is a number in [0, 1]; NaN is not."""
    if not 0 <= confidence <= 1:
        raise MacpSessionError(f"confidence {confidence} is not in [0, 1]")


def validate_progress(progress: float) -> None:
    """Raises MacpSessionError for infinity and NaN: no JSON has them, and a session that holds one cannot be read again."""
    if not math.isfinite(progress):
        raise MacpSessionError(f"progress {progress} is no number that JSON has")


def validate_ttl_ms(ttl_ms: int) -> None:
    """Raises MacpSessionError unless a session may live that many milliseconds."""
    if not 1 <= ttl_ms <= MAX_TTL_MS:
        raise MacpSessionError(f"ttl_ms {ttl_ms} is not in 1 to {MAX_TTL_MS} (24 hours)")


def validate_max_suspend_ms(max_suspend_ms: int) -> None:
    """Raises MacpSessionError for a negative number of milliseconds."""
    if max_suspend_ms < 0:
        raise MacpSessionError(f"max_suspend_ms {max_suspend_ms} is negative; 0 leaves it to the runtime (7 days)")


def validate_participants(participants: Sequence[str], *, allow_empty: bool = False) -> None:
    """Raises MacpSessionError unless these can be a session's participants: named, distinct, at most 1,000."""
    if not participants and not allow_empty:
        raise MacpSessionError("a session of this mode needs participants")
    if len(participants) > MAX_PARTICIPANTS:
        raise MacpSessionError(f"{len(participants)} participants are more than {MAX_PARTICIPANTS}")
    trimmed = [participant.strip(_WHITE_SPACE) for participant in participants]
    if "" in trimmed:
        raise MacpSessionError("a participant's name must not be blank")
    if len(set(trimmed)) < len(trimmed):
        twice = next(name for name in trimmed if trimmed.count(name) > 1)
        raise MacpSessionError(f"participant {twice!r} is named twice")


def validate_signal_type(signal_type: str, data: bytes = b"") -> None:
    """Raises MacpSessionError for a signal without a type."""
    if is_blank(signal_type):
        raise MacpSessionError("a signal needs a signal_type, such as 'heartbeat'")


def validate_progress_scope(session_id: str, mode: str) -> None:
    """Raises MacpSessionError unless progress names both a session and its mode, or neither."""
    if bool(session_id) == is_blank(mode):
        raise MacpSessionError("progress names both session_id and mode, or neither")


def validate_commitment_hash(value: str) -> None:
    """Raises MacpSessionError unless this is a commitment hash."""
    if not _HASH.fullmatch(value):
        raise MacpSessionError(f"{value!r} is no commitment hash: 'sha256:' and 64 lower-case hexadecimal digits")


def validate_session_start(mode: str, payload: core_pb2.SessionStartPayload) -> None:
    """Raises MacpSessionError for what the strict contract of a SessionStart refuses, in its order (`protocol.md` 3.2)."""
    validate_ttl_ms(payload.ttl_ms)
    validate_required_field("mode_version", payload.mode_version)
    validate_required_field("configuration_version", payload.configuration_version)
    validate_participants(payload.participants, allow_empty=mode == DECISION)
    validate_max_suspend_ms(payload.max_suspend_ms)
