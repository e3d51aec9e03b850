"""macp_rx: reactive streams for MACP, the Multi-Agent Coordination Protocol.

Everything the runtime says is an Observable, everything an agent says is a value, every helper is an operator, and time is a
scheduler, so that the same pipeline runs on a server, in a notebook and in a unit test.
"""

import importlib as _importlib
import typing as _typing

from macp_rx.client import MacpClient as MacpClient
from macp_rx.clock import Clock as Clock
from macp_rx.clock import LoopClock as LoopClock
from macp_rx.envelope import build_envelope as build_envelope
from macp_rx.envelope import new_message_id as new_message_id
from macp_rx.envelope import new_session_id as new_session_id
from macp_rx.envelope import serialize_message as serialize_message
from macp_rx.errors import Denial as Denial
from macp_rx.errors import MacpAckError as MacpAckError
from macp_rx.errors import MacpClosedError as MacpClosedError
from macp_rx.errors import MacpError as MacpError
from macp_rx.errors import MacpGapError as MacpGapError
from macp_rx.errors import MacpIdentityMismatchError as MacpIdentityMismatchError
from macp_rx.errors import MacpOverflowError as MacpOverflowError
from macp_rx.errors import MacpRefusedError as MacpRefusedError
from macp_rx.errors import MacpSessionError as MacpSessionError
from macp_rx.errors import MacpStreamError as MacpStreamError
from macp_rx.errors import MacpTimeoutError as MacpTimeoutError
from macp_rx.errors import MacpTransportError as MacpTransportError
from macp_rx.errors import MacpWouldBlockError as MacpWouldBlockError
from macp_rx.protocol.messages import Accepted as Accepted
from macp_rx.protocol.messages import Message as Message
from macp_rx.session import Agent as Agent
from macp_rx.session import DecisionSession as DecisionSession
from macp_rx.session import Outcome as Outcome
from macp_rx.streams.duplex import MacpStream as MacpStream
from macp_rx.streams.retry import RetryPolicy as RetryPolicy
from macp_rx.streams.session import SessionStream as SessionStream
from macp_rx.streams.source import rpc_stream as rpc_stream
from macp_rx.streams.status import Connection as Connection
from macp_rx.streams.status import Status as Status
from macp_rx.streams.stream import Stream as Stream
from macp_rx.streams.stream import stream as stream
from macp_rx.transport.auth import AuthConfig as AuthConfig

if _typing.TYPE_CHECKING:
    from macp_rx import agents as agents
    from macp_rx import operators as operators
    from macp_rx.runtime import Runtime as Runtime


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
    return sorted({*globals(), *_LATER})
