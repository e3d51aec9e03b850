"""Who says what in the operators' docstrings and specs."""

from __future__ import annotations

from macp.v1.core_pb2 import CommitmentPayload, SessionMetadata, SessionStartPayload
from macp.v1.envelope_pb2 import SessionState

from macp_rx import Message
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision
from macp_rx.testing import said

__all__ = ["LEGEND", "commit", "open_session", "start"]


def start(*participants: str, mode: str = DECISION, policy: str = "") -> Message:
    """A SessionStart, as the chair says it."""
    payload = SessionStartPayload(
        intent="rollout",
        participants=participants,
        mode_version="1.0.0",
        configuration_version="config.default",
        policy_version=policy,
        ttl_ms=60_000,
    )
    return Message(mode, payload)


def commit(mode: str = DECISION, action: str = "rollout.approved", positive: bool = True) -> Message:
    """A commitment that fits such a start."""
    payload = CommitmentPayload(
        commitment_id="c1",
        action=action,
        authority_scope="session",
        reason="because",
        mode_version="1.0.0",
        configuration_version="config.default",
        outcome_positive=positive,
    )
    return Message(mode, payload)


def open_session(expires_at: int) -> SessionMetadata:
    """What the runtime tells of a session that is open; the deadline in Unix milliseconds."""
    return SessionMetadata(state=SessionState.SESSION_STATE_OPEN, expires_at_unix_ms=expires_at)


LEGEND = {
    "S": said("chair", start("chair", "alice", "bob", "carol")),
    "p": said("chair", decision.propose("p1", "canary")),
    "q": said("chair", decision.propose("p2", "big bang")),
    "e": said("bob", decision.evaluate("p1", "APPROVE", confidence=0.5)),
    "f": said("carol", decision.evaluate("p1", "REJECT", confidence=1.0)),
    "r": said("alice", decision.evaluate("p1", "REVIEW", confidence=0.5)),
    "o": said("alice", decision.raise_objection("p1", reason="untested", severity="critical")),
    "v": said("alice", decision.vote("p1", "APPROVE")),
    "w": said("bob", decision.vote("p1", "REJECT")),
    "x": said("carol", decision.vote("p1", "ABSTAIN")),
    "y": said("carol", decision.vote("p1", "APPROVE")),
    "z": said("alice", decision.vote("p2", "REJECT")),
    "C": said("chair", commit()),
}
