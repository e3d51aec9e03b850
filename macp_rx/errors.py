"""Every exception that macp_rx raises.

MacpError
├── MacpRefusedError            a rule of the protocol said no: .code .details .reasons .denials
│   ├── MacpAckError            … in the Ack of a unary call: .ack
│   └── MacpStreamError         … inline on a stream that stays open: .message_id .session_id
├── MacpTransportError          an RPC failed: .status .code .details .trailing_metadata .method
│   ├── MacpTimeoutError        nothing came in time (also raised by read(timeout) and within())
│   └── MacpGapError            the server has forgotten history that was not read yet: .seen .lowest_available_sequence
├── MacpSessionError            bad input, refused here before it reached the wire (also a ValueError)
├── MacpTranscriptError         a transcript cannot be read or written: .file .line
├── MacpIdentityMismatchError   the sender is not who the credential says: .expected .actual
├── MacpOverflowError           a bounded buffer is full and nothing upstream can wait
├── MacpClosedError             the client, stream or runtime is already closed
└── MacpWouldBlockError         a blocking call on the very thread that must deliver its result

Codes are the strings of the MACP error registry (`protocol.md` 9.1); the ones with a gRPC status are in `GRPC_STATUS`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from macp.v1.envelope_pb2 import Ack, MACPError

__all__ = [
    "GRPC_STATUS",
    "Denial",
    "MacpAckError",
    "MacpClosedError",
    "MacpError",
    "MacpGapError",
    "MacpIdentityMismatchError",
    "MacpOverflowError",
    "MacpRefusedError",
    "MacpSessionError",
    "MacpStreamError",
    "MacpTimeoutError",
    "MacpTranscriptError",
    "MacpTransportError",
    "MacpWouldBlockError",
]

GRPC_STATUS: Final[Mapping[str, str]] = {
    "UNAUTHENTICATED": "UNAUTHENTICATED",
    "FORBIDDEN": "PERMISSION_DENIED",
    "SESSION_NOT_FOUND": "NOT_FOUND",
    "SESSION_NOT_OPEN": "FAILED_PRECONDITION",
    "SESSION_ALREADY_EXISTS": "ALREADY_EXISTS",
    "INVALID_ENVELOPE": "INVALID_ARGUMENT",
    "UNSUPPORTED_PROTOCOL_VERSION": "INVALID_ARGUMENT",
    "MODE_NOT_SUPPORTED": "INVALID_ARGUMENT",
    "PAYLOAD_TOO_LARGE": "RESOURCE_EXHAUSTED",
    "RATE_LIMITED": "RESOURCE_EXHAUSTED",
    "INVALID_SESSION_ID": "INVALID_ARGUMENT",
    "INTERNAL_ERROR": "INTERNAL",
    "UNKNOWN_POLICY_VERSION": "NOT_FOUND",
    "POLICY_DENIED": "PERMISSION_DENIED",
    "INVALID_POLICY_DEFINITION": "INVALID_ARGUMENT",
    "REGISTRY_READ_ONLY": "FAILED_PRECONDITION",
    "INVALID_REQUEST": "INVALID_ARGUMENT",
    "STREAM_LAGGED": "RESOURCE_EXHAUSTED",
    "AGENT_NOT_FOUND": "NOT_FOUND",
    "HISTORY_UNAVAILABLE": "FAILED_PRECONDITION",
    "RECEIPT_UNAVAILABLE": "FAILED_PRECONDITION",
}
"""MACP error code -> name of the gRPC status that carries it."""


@dataclass(frozen=True, slots=True)
class Denial:
    """One reason why a governance policy denied a commitment.

    Attributes:
        code: deny code, such as ``veto`` or ``threshold_not_met`` (an open set).
        message: the runtime's sentence for people.
        participants: who caused it, where the runtime says so.
    """

    code: str
    message: str
    participants: tuple[str, ...] = ()


class MacpError(Exception):
    """Root of every error that macp_rx raises. One that comes from another process is what it was there."""

    def __reduce__(self) -> tuple[object, ...]:
        return type(self).__new__, (type(self), *self.args), self.__dict__  # for __init__ takes other arguments


class MacpRefusedError(MacpError):
    """A rule of the protocol refused a message or a request.

    Args:
        code: code of the MACP error registry, such as ``INVALID_ENVELOPE``.
        message: what was wrong, for people; never parse it.
        details: raw detail bytes; JSON with ``reasons`` and ``denials`` for ``POLICY_DENIED``.
    """

    def __init__(self, code: str, message: str = "", details: bytes = b"") -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message
        self.details = details

    def as_value(self) -> MacpRefusedError:
        """The refusal without its traceback and context: kept as a value, they would keep every frame it came through."""
        refusal: BaseException = self
        refusal.__context__ = None
        return self.with_traceback(None)

    @property
    def denials(self) -> tuple[Denial, ...]:
        """Structured reasons of a ``POLICY_DENIED``; empty otherwise."""
        return tuple(
            Denial(
                str(entry.get("code", "unspecified")),
                str(entry.get("message", "")),
                tuple(str(name) for name in _sequence(entry.get("participants"))),
            )
            for entry in map(_object, _sequence(_decoded(self.details).get("denials")))
        )

    @property
    def reasons(self) -> tuple[str, ...]:
        """The same reasons as plain sentences."""
        return tuple(str(reason) for reason in _sequence(_decoded(self.details).get("reasons")))


class MacpAckError(MacpRefusedError):
    """The runtime answered a unary call with ``Ack{ok: false}``.

    Args:
        ack: the Ack as received; ``ack.message_id`` says which message was refused.
        what: the refused message or call, for the text of the error.
    """

    def __init__(self, ack: Ack, what: str = "") -> None:
        error = ack.error
        text = f"{what} was refused: {error.message}" if what else error.message
        super().__init__(error.code, text, error.details)
        self.ack = ack
        self.what = what


class MacpStreamError(MacpRefusedError):
    """The runtime refused one frame inline; the stream itself stays open.

    Args:
        error: the MACPError frame as received.
    """

    def __init__(self, error: MACPError) -> None:
        super().__init__(error.code, error.message, error.details)
        self.message_id: str = error.message_id
        self.session_id: str = error.session_id


class MacpTransportError(MacpError):
    """An RPC failed.

    Args:
        status: name of the gRPC status, such as ``UNAVAILABLE``.
        message: the status message.
        code: MACP code from the ``macp-error-code`` trailer, or ``""`` where the runtime never saw the call.
        details: raw bytes of the ``macp-error-details-bin`` trailer; the one thing that runtimes say in it is decoded as
            ``lowest_available_sequence``.
        trailing_metadata: all trailers, as (key, value) pairs.
        method: full gRPC method name, such as ``/macp.v1.MACPRuntimeService/GetSession``.
    """

    def __init__(
        self,
        status: str,
        message: str = "",
        *,
        code: str = "",
        details: bytes = b"",
        trailing_metadata: Sequence[tuple[str, str | bytes]] = (),
        method: str = "",
    ) -> None:
        failed = f"{method.rpartition('/')[2]} failed with {status}/{code}".removesuffix("/") if method else ""
        super().__init__(": ".join(part for part in (failed, message) if part) or status)
        self.status = status
        self.message = message
        self.code = code
        self.details = details
        self.trailing_metadata: tuple[tuple[str, str | bytes], ...] = tuple(trailing_metadata)
        self.method = method

    @property
    def lowest_available_sequence(self) -> int | None:
        """Where a compacted history begins, if this error is a ``HISTORY_UNAVAILABLE`` that says so."""
        value = _decoded(self.details).get("lowest_available_sequence")
        return value if isinstance(value, int) else None


class MacpTimeoutError(MacpTransportError):
    """Nothing came in time.

    Args:
        message: what was waited for, and for how long.
        method: full gRPC method name, where an RPC timed out.
    """

    def __init__(self, message: str = "", *, method: str = "") -> None:
        super().__init__("DEADLINE_EXCEEDED", message, method=method)


class MacpGapError(MacpTransportError):
    """A session's history was forgotten before it was read: a server that compacts does so when the session ends.

    ``session.outcome`` still tells what the session came to.

    Args:
        seen: the last sequence that was read.
        lowest: where what is left of the history begins: it was forgotten up to and with this sequence; None if unknown.
        session_id: which session.
        untold: how many envelopes the runtime has accepted and never told its live readers; None if that is not what happened.
    """

    def __init__(self, seen: int, lowest: int | None, session_id: str, *, untold: int | None = None) -> None:
        if untold is not None:
            what = (
                f"in session {session_id!r} {untold} envelopes were accepted and never told: read its history instead"
            )
        elif lowest is not None:
            what = f"of session {session_id!r} sequences {seen + 1} to {lowest} are forgotten"
        else:
            what = f"the history of session {session_id!r} is not the one that was read up to sequence {seen}"
        super().__init__("FAILED_PRECONDITION", what, code="HISTORY_UNAVAILABLE")
        self.seen = seen
        self.lowest = lowest
        self.session_id = session_id
        self.untold = untold

    @property
    def lowest_available_sequence(self) -> int | None:
        """Behind which sequence a reader can still go on."""
        return self.lowest


class MacpSessionError(MacpError, ValueError):
    """Bad input that was refused before it reached the wire; the text says what would be right."""


class MacpTranscriptError(MacpError):
    """A transcript cannot be read or written; what stands before the line is whole.

    Args:
        file: its name.
        line: the line's number, from 1 on; None where it is the file as a whole.
        what: what is wrong, and what would be right.
    """

    def __init__(self, file: str, line: int | None, what: str) -> None:
        super().__init__(f"{file}{'' if line is None else f', line {line}'}: {what}")
        self.file = file
        self.line = line


class MacpIdentityMismatchError(MacpError):
    """A message names a sender that the credential does not speak for.

    Args:
        expected: sender that the credential is bound to.
        actual: sender that the message names.
    """

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"this credential speaks for {expected!r}, not for {actual!r}; use acting_as(…) for another")
        self.expected = expected
        self.actual = actual


class MacpOverflowError(MacpError):
    """A bounded buffer is full and nothing upstream can be told to wait."""


class MacpClosedError(MacpError):
    """The client, the stream or the runtime was already closed."""


class MacpWouldBlockError(MacpError, RuntimeError):
    """A blocking call on the very thread that would have to deliver its result."""


def _decoded(details: bytes) -> dict[str, object]:
    try:
        return _object(json.loads(details)) if details else {}
    except ValueError:  # details are the server's business; an unreadable one must not hide the error itself
        return {}


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _sequence(value: object) -> Sequence[object]:
    return cast("list[object]", value) if isinstance(value, list) else ()
