"""How a session ended, as one value: from its stream where that tells it, else from the runtime."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import reactivex as rx
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import SessionState
from reactivex import Observable
from reactivex import operators as ops

from macp_rx.errors import MacpGapError, MacpTransportError
from macp_rx.protocol.messages import Accepted
from macp_rx.streams.reply import ask
from macp_rx.streams.retry import RECONNECT, retried
from macp_rx.streams.stream import Stream
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.methods import GET_DECISION_RECEIPT, GET_SESSION
from macp_rx.transport.shared import SharedTransport

__all__ = ["Outcome", "outcome"]


WHY: Final = {"EXPIRED": "its deadline has passed", "CANCELLED": "it was cancelled", "RESOLVED": "it was committed to"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a session ended.

    Attributes:
        state: ``RESOLVED``, ``CANCELLED`` or ``EXPIRED``.
        commitment: what was committed to, if it was resolved; None also where the runtime no longer tells it.
        reason: why, for people.
    """

    state: str
    commitment: core_pb2.CommitmentPayload | None
    reason: str

    @property
    def positive(self) -> bool:
        """Whether it was resolved with a positive commitment."""
        return self.commitment is not None and self.commitment.outcome_positive


def outcome(
    shared: SharedTransport,
    session_id: str,
    events: Stream[Accepted],
    *,
    auth: AuthConfig | None,
    timeout: float | None,
    behind: Callable[[int], Stream[Accepted]],
) -> Stream[Outcome]:
    """One value when the session has ended.

        accepted   S-p-v-C|
        outcome    ------(R|)

    Where the stream ends without a commitment, the runtime is asked: for the state, and for the decision receipt, which keeps the
    commitment as it was made. Where its history has a gap, what is behind the gap tells as well.

    Args:
        shared: what carries the questions.
        session_id: which session.
        events: its stream.
        auth: who asks.
        timeout: seconds that each question may take.
        behind: the stream from behind a sequence that goes on where history is forgotten.
    """
    clock = shared.clock

    def asked() -> Observable[Outcome]:
        request = core_pb2.GetSessionRequest(session_id=session_id)
        state = ask(shared, GET_SESSION, request, _state, auth=auth, timeout=timeout)
        return retried(state, RECONNECT, clock).pipe(ops.flat_map(told))

    def told(state: str) -> Observable[Outcome]:
        if state not in WHY:
            raise MacpTransportError("UNKNOWN", f"the stream of session {session_id} ended, and the session is {state}")
        unknown = Outcome(state, None, WHY[state])
        if state != "RESOLVED":
            return rx.just(unknown)
        request = core_pb2.GetDecisionReceiptRequest(session_id=session_id)
        receipt = ask(shared, GET_DECISION_RECEIPT, request, _receipted, auth=auth, timeout=timeout)

        def without(error: Exception, _source: Observable[Outcome]) -> Observable[Outcome]:
            if isinstance(error, MacpTransportError) and error.code == "RECEIPT_UNAVAILABLE":
                return rx.just(unknown)  # an extension mode has none
            raise error

        return retried(receipt, RECONNECT, clock).pipe(ops.catch(without))

    def gone_on(error: Exception, _source: Observable[Accepted]) -> Observable[Accepted]:
        if isinstance(error, MacpGapError):
            return behind(error.seen)
        raise error

    committed = events.pipe(ops.catch(gone_on), ops.filter(_commits), ops.map(_resolved))
    one = committed.pipe(ops.concat(rx.defer(lambda _scheduler: asked())), ops.take(1))
    return events.derived(one, can_wait=True)  # one item fits into any buffer


def _commits(accepted: Accepted) -> bool:
    return accepted.message_type == "Commitment"


def _resolved(accepted: Accepted) -> Outcome:
    commitment = core_pb2.CommitmentPayload.FromString(accepted.envelope.payload)
    return Outcome("RESOLVED", commitment, commitment.reason)


def _state(response: core_pb2.GetSessionResponse) -> str:
    return SessionState.Name(response.metadata.state).removeprefix("SESSION_STATE_")


def _receipted(response: core_pb2.GetDecisionReceiptResponse) -> Outcome:
    wire = base64.b64decode(json.loads(response.receipt_json)["commitment_wire_b64"])
    commitment = core_pb2.CommitmentPayload.FromString(wire)
    return Outcome("RESOLVED", commitment, commitment.reason)
