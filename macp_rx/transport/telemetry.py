"""What can be watched of a connection: its sends, its session streams, its buffers, the traces that its calls belong to.

Off unless a client is given a `Telemetry`, such as `macp_rx.opentelemetry.OpenTelemetry`. Then nothing is made, and nothing is
done per envelope.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from macp.v1.envelope_pb2 import Envelope

from macp_rx.clock import Clock
from macp_rx.protocol.messages import Accepted
from macp_rx.transport.base import Metadata

__all__ = ["OFF", "Buffer", "CallTelemetry", "ConnectionTelemetry", "OnNext", "Telemetry"]

OnNext = Callable[[Accepted], None]
"""Takes what a session stream delivers."""


class Buffer(Protocol):
    """A bounded buffer between a source and a consumer. It counts for itself, and is read when somebody looks."""

    @property
    def waiting(self) -> int:
        """How many items wait for the consumer now."""
        ...

    @property
    def dropped(self) -> int:
        """How many items were dropped so far."""
        ...


class CallTelemetry(Protocol):
    """Hears of one send or one session stream, from its start to its end, however often it is tried."""

    def trace(self) -> Metadata:
        """What says on the wire that a try belongs to it."""
        ...

    def happened(self, what: str, error: Exception | None = None, **details: float) -> None:
        """Hears what became of it meanwhile.

        Args:
            what: of a send ``try``, ``retry``; of a stream the values of `macp_rx.streams.session.Connection`.
            error: why.
            details: of a retry ``delay`` (seconds), of a stream ``sequence``, of a gap ``missing`` (envelopes).
        """

    def delivering(self, on_next: OnNext) -> OnNext:
        """What a stream hands its envelopes to instead of ``on_next``."""
        ...

    def ended(self, error: Exception | None = None) -> None:
        """Hears the end; what is heard after the first end does not count."""

    def cancelled(self) -> None:
        """The same, where nobody waits for the end any more."""


class ConnectionTelemetry(Protocol):
    """Hears of one connection, on its clock's thread, in the context of whoever sends or subscribes."""

    def trace(self) -> Metadata:
        """What says on the wire to which trace the caller's present work belongs."""
        ...

    def send(self, envelope: Envelope) -> CallTelemetry:
        """A message is to be sent."""
        ...

    def stream(self, session_id: str, after_sequence: int) -> CallTelemetry:
        """A session is to be read."""
        ...

    def buffer(self, buffer: Buffer) -> Callable[[], None]:
        """Looks at a buffer from now on; returns what stops that. A buffer of several sources is looked at once."""
        ...

    def closed(self) -> None:
        """The connection is closed, which its calls are not told one by one."""


@runtime_checkable
class Telemetry(Protocol):
    """What a client reports to: ``MacpClient(…, telemetry=…)``. Any number of clients may share one."""

    def connection(self, target: str, clock: Clock) -> ConnectionTelemetry:
        """A client connects.

        Args:
            target: ``host:port``, or ``embedded``.
            clock: its time.
        """
        ...


class _Off:
    """Nobody looks. One object is all of them."""

    def trace(self) -> Metadata:
        return ()

    def happened(self, what: str, error: Exception | None = None, **details: float) -> None: ...

    def delivering(self, on_next: OnNext) -> OnNext:
        return on_next

    def ended(self, error: Exception | None = None) -> None: ...

    def cancelled(self) -> None: ...

    def connection(self, target: str, clock: Clock) -> _Off:
        return self

    def send(self, envelope: Envelope) -> _Off:
        return self

    def stream(self, session_id: str, after_sequence: int) -> _Off:
        return self

    def buffer(self, buffer: Buffer) -> Callable[[], None]:
        return self.closed

    def closed(self) -> None: ...


OFF: Final = _Off()
"""Nobody looks."""
