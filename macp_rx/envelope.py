"""`build_envelope` and `serialize_message`: the wire's own message, made by hand; and what an id may look like."""

from __future__ import annotations

import time
import uuid

from google.protobuf.message import Message as Protobuf
from macp.v1.envelope_pb2 import Envelope

from macp_rx.protocol.messages import MACP_VERSION
from macp_rx.protocol.validation import validate_session_id

__all__ = ["build_envelope", "new_message_id", "new_session_id", "now_unix_ms", "serialize_message"]


def build_envelope(
    *,
    mode: str,
    message_type: str,
    session_id: str,
    payload: bytes,
    sender: str = "",
    message_id: str | None = None,
    macp_version: str = MACP_VERSION,
    timestamp_unix_ms: int | None = None,
) -> Envelope:
    """Makes an Envelope.

    Args:
        mode: mode identifier, such as ``macp.mode.decision.v1``.
        message_type: such as ``Vote``.
        session_id: a session id, or ``""`` for an ambient Signal or Progress.
        payload: serialized payload, see `serialize_message`.
        sender: who says it; the runtime fills an empty one from the credential.
        message_id: unique in the session; a new UUIDv4 by default.
        macp_version: protocol version.
        timestamp_unix_ms: Unix milliseconds; now by default.

    Raises:
        TypeError: payload is not bytes.
        MacpSessionError: the protocol refuses this session id; the text says which forms are allowed.
    """
    if not isinstance(payload, bytes):
        raise TypeError(f"payload must be bytes (see serialize_message), not {type(payload).__name__}")
    if session_id:
        validate_session_id(session_id)
    return Envelope(
        macp_version=macp_version,
        mode=mode,
        message_type=message_type,
        message_id=message_id or new_message_id(),
        session_id=session_id,
        sender=sender,
        timestamp_unix_ms=timestamp_unix_ms or now_unix_ms(),
        payload=payload,
    )


def serialize_message(message: Protobuf) -> bytes:
    """Serializes a payload.

    Raises:
        TypeError: not a protobuf message.
    """
    if not isinstance(message, Protobuf):
        raise TypeError(
            f"serialize_message takes a protobuf message, such as VotePayload(…), not {type(message).__name__}"
        )
    return message.SerializeToString()


def new_session_id() -> str:
    """A session id that the protocol accepts: a random UUIDv4."""
    return str(uuid.uuid4())


def new_message_id() -> str:
    """A message id: a random UUIDv4."""
    return str(uuid.uuid4())


def now_unix_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
