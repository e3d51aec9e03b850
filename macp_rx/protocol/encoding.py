"""Bytes as text, in the one right form: other texts that a lenient reader takes for the same bytes are refused."""

from __future__ import annotations

import base64 as codec

from macp_rx.errors import MacpSessionError

__all__ = ["base64", "base64url", "unbase64", "unbase64url"]


def base64(raw: bytes) -> str:
    """Base64 (RFC 4648, 4), padded."""
    return codec.b64encode(raw).decode()


def unbase64(text: object, where: str) -> bytes:
    """The bytes of a base64 text: padded, no other letters, no stray bits.

    Raises:
        MacpSessionError: it is not; ``where`` says in the text what it was.
    """
    try:
        raw = codec.b64decode(str(text))
    except ValueError:
        raw = b""
    if base64(raw) != text:
        raise MacpSessionError(f"{where} is no base64: {text!r:.80}")
    return raw


def base64url(raw: bytes) -> str:
    """Base64url without padding (RFC 7515, 2)."""
    return codec.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unbase64url(text: str) -> bytes:
    """The bytes of a base64url text: not empty, no padding, no other letters, no stray bits. Raises MacpSessionError."""
    try:
        raw = codec.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raw = b""
    if not raw or base64url(raw) != text:
        raise MacpSessionError(f"no base64url: {text!r:.80}")
    return raw
