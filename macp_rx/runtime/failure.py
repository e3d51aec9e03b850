"""How a call fails: the same status, text and trailers on every carrier (`protocol.md` 9.1)."""

from __future__ import annotations

from macp_rx.errors import GRPC_STATUS, MacpRefusedError, MacpTransportError

__all__ = ["closing", "failure"]


def failure(refusal: MacpRefusedError, method: str = "") -> MacpTransportError:
    """What a client gets of a refusal.

    Args:
        refusal: why the call fails.
        method: full gRPC method name.
    """
    trailers: list[tuple[str, str | bytes]] = [("macp-error-code", refusal.code)]
    if refusal.details:
        trailers.append(("macp-error-details-bin", refusal.details))
    return MacpTransportError(
        GRPC_STATUS[refusal.code],
        refusal.message,
        code=refusal.code,
        details=refusal.details,
        trailing_metadata=trailers,
        method=method,
    )


def closing(method: str = "") -> MacpTransportError:
    """What a client gets of a runtime that is closed, or is just being closed.

    Args:
        method: full gRPC method name.
    """
    return MacpTransportError("UNAVAILABLE", "the runtime is closed", method=method)
