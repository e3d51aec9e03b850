"""What a runtime is told, what it knows, and what happens to it: values, which `kernel` makes the next ones from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from google.protobuf.message import Message as Protobuf
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope

from macp_rx.errors import MacpRefusedError
from macp_rx.protocol.lifecycle import Entry, Session
from macp_rx.protocol.map import Map
from macp_rx.protocol.modes import MODES, Registered
from macp_rx.protocol.policy import BUILT_IN, Policy
from macp_rx.protocol.receipt import ReceiptSigner, public_jwks
from macp_rx.runtime.identity import Identity, Rates

__all__ = [
    "RUNTIME_NAME",
    "Changed",
    "Compacted",
    "Event",
    "Issued",
    "Kept",
    "Lifecycle",
    "Logged",
    "ModeAdded",
    "ModePromoted",
    "ModeRemoved",
    "PolicyAdded",
    "PolicyRemoved",
    "Result",
    "Settings",
    "Signalled",
    "State",
]

Lifecycle = core_pb2.SessionLifecycleEvent

RUNTIME_NAME: Final = "macp-rx"


@dataclass(frozen=True, slots=True)
class Settings:
    """What whoever runs a runtime decides.

    Attributes:
        max_payload_bytes: the largest payload that is accepted.
        default_page_size: sessions on a page of ListSessions, where the request names no number.
        max_page_size: the most that a request can ask for.
        compact_ended: forget a session's history when it ends, as a file-backed reference runtime does.
        policies_read_only: no policy can be registered or removed; what a store has kept of policies does not count either.
        starts_per_minute: sessions that one sender may start; None is no limit.
        messages_per_minute: other messages that one sender may send; None is no limit.
        retention_ms: how long after its start a session that has ended is kept, in milliseconds; None is for ever.
        runtime_id: who issues its decision receipts.
        signer: signs them; None leaves them unsigned.
        retired_keys: JSON Web Key Set of the keys that no longer sign.

    Raises:
        MacpSessionError: ``retired_keys`` is what `public_jwks` refuses: told at the start, and not to whoever asks for the keys.
    """

    max_payload_bytes: int = 1_048_576
    default_page_size: int = 100
    max_page_size: int = 1000
    compact_ended: bool = False
    policies_read_only: bool = False
    starts_per_minute: int | None = None
    messages_per_minute: int | None = None
    retention_ms: int | None = None
    runtime_id: str = RUNTIME_NAME
    signer: ReceiptSigner | None = None
    retired_keys: str = ""

    def __post_init__(self) -> None:
        if self.retired_keys:
            public_jwks(self.signer, self.retired_keys)


@dataclass(frozen=True, slots=True)
class State:
    """Everything the runtime knows.

    Attributes:
        settings: what it was told.
        sessions: session id -> session.
        modes: mode -> what it is registered as.
        policies: policy id -> policy.
        rates: how much everybody has said of late; a store does not keep it.
    """

    settings: Settings = field(default_factory=Settings)
    sessions: Map[str, Session] = field(default_factory=Map[str, Session])
    modes: Map[str, Registered] = field(default_factory=lambda: Map[str, Registered](MODES))
    policies: Map[str, Policy] = field(default_factory=lambda: Map[str, Policy](BUILT_IN))
    rates: Rates = field(default_factory=Rates)

    def holding(self, session: Session) -> State:
        """This state with a session as it is now."""
        sessions = self.sessions.set(session.session_id, session)
        return State(self.settings, sessions, self.modes, self.policies, self.rates)

    def counting(self, caller: Identity, now: int, *, starts: bool = False) -> State:
        """This state with one request more of a caller's. Raises RATE_LIMITED, which counts nothing."""
        settings = self.settings
        limit = settings.starts_per_minute if starts else settings.messages_per_minute
        if limit is None:
            return self
        rates = self.rates.counting(caller.sender, limit, now, starts=starts)
        return State(settings, self.sessions, self.modes, self.policies, rates)

    def without(self, session_id: str) -> State:
        """This state without a session, which nobody can read or reach any more."""
        return replace(self, sessions=self.sessions.delete(session_id))


# What happened. All but `Changed` and `Signalled` is what a store keeps and what `kernel.rebuild` makes the state again from.


class Logged(NamedTuple):
    """Something happened to a session: it has accepted an envelope, or changed its state.

    Attributes:
        session_id: which session.
        entry: what.
        policy: what the session is bound to, where the entry is its start: the registry may change before a restart.
    """

    session_id: str
    entry: Entry
    policy: Policy | None = None


class Issued(NamedTuple):
    """A session's decision receipt was made; it stays the same for ever."""

    session_id: str
    receipt: str


class ModeAdded(NamedTuple):
    """A mode was registered."""

    descriptor: core_pb2.ModeDescriptor


class ModePromoted(NamedTuple):
    """A mode became standards-track, under a name that may be new."""

    mode: str
    name: str


class ModeRemoved(NamedTuple):
    """A mode is no longer registered."""

    mode: str


class PolicyAdded(NamedTuple):
    """A policy was registered."""

    policy: Policy


class PolicyRemoved(NamedTuple):
    """A policy is no longer registered."""

    policy_id: str


class Compacted(NamedTuple):
    """A session has ended, and its history is forgotten."""

    session_id: str


class Changed(NamedTuple):
    """A session began, changed its state, or ended: what watchers of sessions are told."""

    kind: Lifecycle.EventType.ValueType
    session_id: str


class Signalled(NamedTuple):
    """A Signal or Progress was accepted."""

    envelope: Envelope


Kept = Logged | Issued | ModeAdded | ModePromoted | ModeRemoved | PolicyAdded | PolicyRemoved
Event = Kept | Compacted | Changed | Signalled


class Result(NamedTuple):
    """What a request led to.

    Attributes:
        state: the next state.
        reply: what the caller hears, or the refusal that the call fails with.
        events: what happened, in the order in which it is told.
    """

    state: State
    reply: Protobuf | MacpRefusedError
    events: tuple[Event, ...] = ()
