"""What a session would have come to under another policy: its accepted history, judged again (`protocol.md` 5.7)."""

from __future__ import annotations

from dataclasses import replace

from macp.v1 import policy_pb2
from macp.v1.envelope_pb2 import Envelope, SessionState

from macp_rx.errors import MacpRefusedError
from macp_rx.protocol import lifecycle
from macp_rx.protocol.lifecycle import Entry, Session
from macp_rx.protocol.modes import Registered
from macp_rx.protocol.policy import Policy

__all__ = ["what_if"]

Outcome = policy_pb2.WhatIfEntryOutcome


def what_if(session: Session, mode: Registered, candidate: Policy) -> policy_pb2.WhatIfReplayResponse:
    """Replays the session's log twice, under its own policy and under another, and compares what happened at each envelope.

    Only what was accepted is replayed: what the session's own policy refused is in no history.

    Args:
        session: a session whose log is whole.
        mode: what its mode is registered as.
        candidate: the other policy. Commitments still name the policy that the session is bound to.

    Raises:
        MacpRefusedError: INTERNAL_ERROR: under its own policy the log does not lead to what the session is.
    """
    bound = session.bound.policy
    recorded, other = _Side(mode, bound), _Side(mode, replace(candidate, policy_id=bound.policy_id))
    reply = policy_pb2.WhatIfReplayResponse(candidate_policy_id=candidate.policy_id, recorded_policy_id=bound.policy_id)
    index = 0
    for entry in session.log or ():
        before, after = recorded.take(index, entry), other.take(index, entry)
        envelope = entry.envelope
        if envelope is None:
            continue
        reply.entries.add(
            history_index=index,
            message_id=envelope.message_id,
            message_type=envelope.message_type,
            recorded=before,
            candidate=after,
        )
        if before != after and not reply.HasField("first_divergence"):
            reply.first_divergence = index
        if after.error_code == "POLICY_DENIED":
            reply.denials.add(history_index=index, message_id=envelope.message_id, details=after.details)
        index += 1
    if not recorded.leads_to(session):
        raise MacpRefusedError("INTERNAL_ERROR", "the session's history does not lead to what the session is")
    reply.recorded.CopyFrom(recorded.outcome())
    reply.candidate.CopyFrom(other.outcome())
    return reply


class _Side:
    """One of the two replays."""

    def __init__(self, mode: Registered, policy: Policy) -> None:
        self.session: Session | None = None
        self._mode = mode
        self._policy = policy
        self._resolved_by: tuple[int, Envelope] | None = None

    def take(self, index: int, entry: Entry) -> policy_pb2.WhatIfEntryOutcome:
        """What becomes of one entry on this side, ``index`` envelopes into the history."""
        try:
            return self._take(index, entry)
        except MacpRefusedError as refusal:
            details = refusal.details if refusal.code == "POLICY_DENIED" else b""
            return Outcome(kind=Outcome.KIND_REFUSED, error_code=refusal.code, details=details)

    def leads_to(self, session: Session) -> bool:
        """Whether the replay has made the session as it is."""
        mine, mode = self.session, self._mode.mode
        return (
            mine is not None
            and (mine.state, mine.resolution) == (session.state, session.resolution)
            and mode.as_json(mine.mode_state) == mode.as_json(session.mode_state)
        )

    def _take(self, index: int, entry: Entry) -> policy_pb2.WhatIfEntryOutcome:
        session, envelope = self.session, entry.envelope
        if session is None:
            self.session = lifecycle.replay([entry], self._mode, self._policy)
        elif envelope is None:
            if not session.ended:
                self.session = lifecycle.reapply(session, self._mode, entry)
        elif session.state != lifecycle.OPEN:
            return Outcome(kind=Outcome.KIND_NOT_OPEN)
        else:
            self.session = lifecycle.reapply(session, self._mode, entry)
            if self.session.ended:
                self._resolved_by = (index, envelope)
        return Outcome(kind=Outcome.KIND_APPLIED, state=self._state())

    def _state(self) -> SessionState.ValueType:
        return self.session.state if self.session else SessionState.SESSION_STATE_UNSPECIFIED

    def outcome(self) -> policy_pb2.WhatIfOutcome:
        """What the session came to on this side."""
        resolution = self.session.resolution if self.session else b""
        outcome = policy_pb2.WhatIfOutcome(state=self._state(), resolution=resolution)
        if self._resolved_by is not None:
            index, envelope = self._resolved_by
            outcome.resolved_by_history_index = index
            outcome.resolved_by_message_id = envelope.message_id
            outcome.resolved_by_message_type = envelope.message_type
        return outcome
