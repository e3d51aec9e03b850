"""The refusals that most rules end in, and payloads that are decoded or refused."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf

from macp_rx.errors import MacpRefusedError
from macp_rx.protocol.wire import parse

__all__ = ["decoded", "forbidden", "invalid"]

M = TypeVar("M", bound=Protobuf)


def invalid(message: str) -> MacpRefusedError:
    """A refusal with INVALID_ENVELOPE, the protocol's code for whatever breaks a rule about a message."""
    return MacpRefusedError("INVALID_ENVELOPE", message)


def forbidden(message: str) -> MacpRefusedError:
    """A refusal with FORBIDDEN."""
    return MacpRefusedError("FORBIDDEN", message)


def decoded(payload: bytes, cls: type[M]) -> M:
    """The payload; no bytes are a message with every field at its default. Raises INVALID_ENVELOPE."""
    try:
        return parse(cls, payload)
    except DecodeError:
        raise invalid(f"the payload is no {cls.__name__}") from None
