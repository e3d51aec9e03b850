"""macp_rx: reactive streams for MACP, the Multi-Agent Coordination Protocol.

Everything the runtime says is an Observable, everything an agent says is a value, every helper is an operator, and time is a
scheduler, so that the same pipeline runs on a server, in a notebook and in a unit test.
"""

import importlib as _importlib
import typing as _typing

from macp_rx.client import MacpClient
from macp_rx.clock import Clock, LoopClock
from macp_rx.envelope import build_envelope, new_message_id, new_session_id, serialize_message
from macp_rx.errors import (
    Denial,
    MacpAckError,
    MacpClosedError,
    MacpError,
    MacpGapError,
    MacpIdentityMismatchError,
    MacpOverflowError,
    MacpRefusedError,
    MacpSessionError,
    MacpStreamError,
    MacpTimeoutError,
    MacpTranscriptError,
    MacpTransportError,
    MacpWouldBlockError,
)
from macp_rx.protocol.messages import Accepted, Message
from macp_rx.protocol.start import SessionStart
from macp_rx.session import (
    Agent,
    DecisionSession,
    ExtensionSession,
    HandoffSession,
    MultiRoundSession,
    Outcome,
    ProposalSession,
    QuorumSession,
    Session,
    TaskSession,
)
from macp_rx.streams.duplex import MacpStream
from macp_rx.streams.retry import RetryPolicy
from macp_rx.streams.session import SessionStream
from macp_rx.streams.source import rpc_stream
from macp_rx.streams.status import Connection, Status
from macp_rx.streams.stream import Stream, stream
from macp_rx.transport.auth import AuthConfig

__all__ = [
    "Accepted",
    "Agent",
    "AuthConfig",
    "Clock",
    "Connection",
    "DecisionSession",
    "Denial",
    "ExtensionSession",
    "HandoffSession",
    "LoopClock",
    "MacpAckError",
    "MacpClient",
    "MacpClosedError",
    "MacpError",
    "MacpGapError",
    "MacpIdentityMismatchError",
    "MacpOverflowError",
    "MacpRefusedError",
    "MacpSessionError",
    "MacpStream",
    "MacpStreamError",
    "MacpTimeoutError",
    "MacpTranscriptError",
    "MacpTransportError",
    "MacpWouldBlockError",
    "Message",
    "MultiRoundSession",
    "Outcome",
    "ProposalSession",
    "QuorumSession",
    "RetryPolicy",
    "Runtime",
    "Session",
    "SessionStart",
    "SessionStream",
    "Status",
    "Stream",
    "TaskSession",
    "agents",
    "build_envelope",
    "new_message_id",
    "new_session_id",
    "operators",
    "rpc_stream",
    "serialize_message",
    "stream",
]

if _typing.TYPE_CHECKING:
    from macp_rx import agents, operators
    from macp_rx.runtime import Runtime


_LATER = ("agents", "operators", "Runtime")


def __getattr__(name: str) -> object:
    """Imports on first use what is half of the cost of importing this package, and what who needs only a client does not use."""
    if name not in _LATER:
        raise AttributeError(f"module 'macp_rx' has no attribute {name!r}")
    if name == "Runtime":
        globals()[name] = _importlib.import_module("macp_rx.runtime").Runtime
    else:
        _importlib.import_module(f"macp_rx.{name}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
