"""The runtime's decisions: a state and a request in, a state, a reply and what happened out. No clock, no I/O, no thread.

One function per unary RPC, all of one shape, in `HANDLERS`. A refusal is a MacpRefusedError; only `send` and the lifecycle
calls turn theirs into an Ack, and the registries theirs into a field, because the protocol does (`protocol.md` 1.2, 12.1).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final, NamedTuple, cast

from google.protobuf.message import Message as Protobuf
from immutables import Map
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Ack, Envelope, MACPError, SessionState

from macp_rx.errors import MacpRefusedError
from macp_rx.protocol import lifecycle
from macp_rx.protocol.lifecycle import Entry, Kind, Session
from macp_rx.protocol.messages import MACP_VERSION, STANDARD_MODES
from macp_rx.protocol.modes import MODES, Registered
from macp_rx.protocol.modes.passthrough import Passthrough
from macp_rx.protocol.policy import BUILT_IN, Policy, policy_from
from macp_rx.protocol.receipt import ReceiptSigner, SemanticsRev, build_receipt, public_jwks
from macp_rx.protocol.validation import is_blank
from macp_rx.protocol.what_if import what_if
from macp_rx.runtime.identity import Caller

__all__ = [
    "HANDLERS",
    "OPEN_TO_ALL",
    "Changed",
    "Compacted",
    "Event",
    "Issued",
    "Kept",
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
    "admit",
    "answer",
    "check_credential",
    "look",
    "may_read",
    "not_kept",
    "policies",
    "rebuild",
    "sweep",
    "with_policies",
]

Lifecycle = core_pb2.SessionLifecycleEvent

OPEN_TO_ALL: Final = frozenset(
    {
        "Initialize",
        "Send",  # a missing credential is told in the Ack
        "GetManifest",
        "ListModes",
        "ListExtModes",
        "ListRoots",
        "GetReceiptKeys",
        "WatchModeRegistry",
        "WatchRoots",
    }
)
"""RPCs that need no credential."""

ABOUT_A_SESSION: Final = frozenset(
    {"GetSession", "CancelSession", "SuspendSession", "ResumeSession", "WhatIfReplay", "GetDecisionReceipt"}
)
"""RPCs that find out first whether the session they are about has expired."""

RUNTIME_NAME: Final = "macp-rx"
TITLE: Final = "macp_rx embedded runtime"
MAX_TOKEN: Final = 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """What whoever runs a runtime decides.

    Attributes:
        max_payload_bytes: the largest payload that is accepted.
        default_page_size: sessions on a page of ListSessions, where the request names no number.
        max_page_size: the most that a request can ask for.
        compact_ended: forget a session's history when it ends, as a file-backed reference runtime does.
        policies_read_only: no policy can be registered or removed.
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
    """

    settings: Settings = field(default_factory=Settings)
    sessions: Map[str, Session] = field(default_factory=Map[str, Session])
    modes: Map[str, Registered] = field(default_factory=lambda: Map[str, Registered](MODES))
    policies: Map[str, Policy] = field(default_factory=lambda: Map[str, Policy](BUILT_IN))

    def holding(self, session: Session) -> State:
        """This state with a session as it is now."""
        return State(self.settings, self.sessions.set(session.session_id, session), self.modes, self.policies)

    def without(self, session_id: str) -> State:
        """This state without a session, which nobody can read or reach any more."""
        return replace(self, sessions=self.sessions.delete(session_id))


# What happened. All but `Changed` and `Signalled` is what a store keeps and what `rebuild` makes the state again from.


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


Handler = Callable[[State, Caller | None, Any, int], Result]

_LIFECYCLE_EVENT: Final = {
    Kind.START: Lifecycle.EVENT_TYPE_CREATED,
    Kind.SUSPENDED: Lifecycle.EVENT_TYPE_SUSPENDED,
    Kind.RESUMED: Lifecycle.EVENT_TYPE_RESUMED,
    Kind.CANCELLED: Lifecycle.EVENT_TYPE_CANCELLED,
    Kind.EXPIRED: Lifecycle.EVENT_TYPE_EXPIRED,
}


def _held(state: State, before: Session | None, after: Session) -> tuple[State, tuple[Event, ...]]:
    """The state with a session as it is now, and what happened to it since ``before``, as watchers hear of it."""
    if after is before:
        return state, ()
    session_id = after.session_id
    new: list[Entry] = []
    link, old = after.log, before.log if before is not None else None
    while link is not None and link is not old:
        new.append(link.item)
        link = link.earlier
    events: list[Event] = []
    for entry in reversed(new):
        kind = _LIFECYCLE_EVENT.get(entry.kind)
        if entry.kind is Kind.RESUMED and after.state == lifecycle.EXPIRED:  # resumed beyond the caps
            kind = Lifecycle.EVENT_TYPE_EXPIRED
        if kind is not None:
            policy = after.bound.policy if entry.kind is Kind.START else None
            events += (Logged(session_id, entry, policy), Changed(kind, session_id))
        elif entry is new[0] and after.state == lifecycle.RESOLVED:
            # the lifecycle event comes before the envelope (`protocol.md` 3.4)
            events += (Changed(Lifecycle.EVENT_TYPE_RESOLVED, session_id), Logged(session_id, entry))
        else:
            events.append(Logged(session_id, entry))
    remembered = _remembered(state, after)
    if remembered is not after:
        events.append(Compacted(session_id))
    return state.holding(remembered), tuple(events)


def _remembered(state: State, session: Session) -> Session:
    """A session as it is held: without its history once it has ended, where the settings say so."""
    return lifecycle.compact(session) if session.ended and state.settings.compact_ended else session


# Messages


def send(state: State, caller: Caller | None, request: core_pb2.SendRequest, now: int) -> Result:
    """Send: every refusal but a missing envelope is an Ack."""
    if not request.HasField("envelope"):
        raise MacpRefusedError("INVALID_ENVELOPE", "SendRequest must contain an envelope")
    envelope = request.envelope
    events: tuple[Event, ...] = ()
    duplicate = False
    try:
        lifecycle.check_shape(envelope, state.settings.max_payload_bytes)
        if caller is None:
            raise MacpRefusedError("UNAUTHENTICATED", "no credential, or one that nobody has")
        envelope = caller.bind(envelope)
        caller.check_may(envelope)
        caller.take(now, starts=envelope.message_type == "SessionStart")
        state, events, refusal, duplicate = admit(state, caller, envelope, now)
    except MacpRefusedError as error:
        refusal = error.as_value()
    if refusal is not None:
        return Result(state, core_pb2.SendResponse(ack=nack(envelope, refusal, now)), events)
    session = None if envelope.message_type in lifecycle.AMBIENT else state.sessions.get(envelope.session_id)
    ack = Ack(
        ok=True,
        duplicate=duplicate,
        message_id=envelope.message_id,
        session_id=envelope.session_id,
        accepted_at_unix_ms=now,
        session_state=SessionState.SESSION_STATE_OPEN if session is None else session.state,
    )
    return Result(state, core_pb2.SendResponse(ack=ack), events)


def admit(
    state: State, caller: Caller, envelope: Envelope, now: int
) -> tuple[State, tuple[Event, ...], MacpRefusedError | None, bool]:
    """Whether an envelope of the right shape, from whom it says, is accepted (`protocol.md` 2.1, 8).

    Returns:
        The next state, what happened (an overdue session expires even if the message is refused), the refusal, and
        whether the message was accepted before.
    """
    known = state.sessions.get(envelope.session_id)
    try:
        if envelope.message_type in lifecycle.AMBIENT:
            lifecycle.check_ambient(envelope)
            return state, (Signalled(envelope),), None, False
        if envelope.message_type == "SessionStart":
            after = lifecycle.start(
                envelope, now, known=known, mode=state.modes.get(envelope.mode), policies=state.policies
            )
            if after is not known:
                _check_open_sessions(state, caller, now)
            refusal = None
        elif known is None:
            raise MacpRefusedError("SESSION_NOT_FOUND", f"there is no session {envelope.session_id!r}")
        else:
            after, refusal = lifecycle.receive(known, state.modes.get(known.bound.mode), envelope, now)
    except MacpRefusedError as refused:
        return state, (), refused.as_value(), False
    duplicate = after is known and refusal is None
    state, events = _held(state, known, after)
    return state, events, refusal, duplicate


def _check_open_sessions(state: State, caller: Caller, now: int) -> None:
    most = caller.identity.max_open_sessions
    if most is None:
        return
    open_now = sum(
        session.bound.initiator == caller.sender and session.state == lifecycle.OPEN and not lifecycle.due(session, now)
        for session in state.sessions.values()
    )
    if open_now >= most:
        raise MacpRefusedError("RATE_LIMITED", f"{caller.sender!r} has {open_now} open sessions and may have {most}")


def nack(envelope: Envelope, refusal: MacpRefusedError, now: int) -> Ack:
    """The Ack that says no."""
    error = MACPError(
        code=refusal.code,
        message=refusal.message,
        session_id=envelope.session_id,
        message_id=envelope.message_id,
        details=refusal.details,
    )
    return Ack(message_id=envelope.message_id, session_id=envelope.session_id, accepted_at_unix_ms=now, error=error)


def not_kept(request: Protobuf, now: int) -> Protobuf | MacpRefusedError:
    """The answer to a request that was granted, but whose outcome the store could not keep."""
    refusal = MacpRefusedError("INTERNAL_ERROR", "what it leads to could not be kept; try again")
    match request:
        case core_pb2.SendRequest():
            return core_pb2.SendResponse(ack=nack(request.envelope, refusal, now))
        case core_pb2.CancelSessionRequest():
            return core_pb2.CancelSessionResponse(ack=_control_nack(request.session_id, refusal, now))
        case core_pb2.SuspendSessionRequest():
            return core_pb2.SuspendSessionResponse(ack=_control_nack(request.session_id, refusal, now))
        case core_pb2.ResumeSessionRequest():
            return core_pb2.ResumeSessionResponse(ack=_control_nack(request.session_id, refusal, now))
        case _:
            return refusal


# Sessions


def _find(state: State, session_id: str) -> Session:
    session = state.sessions.get(session_id)
    if session is None:
        raise MacpRefusedError("SESSION_NOT_FOUND", f"Session '{session_id}' not found")
    return session


def look(state: State, session_id: str, now: int) -> tuple[State, tuple[Event, ...]]:
    """Lets a session expire if it is time: a runtime finds out when somebody asks about it."""
    known = state.sessions.get(session_id)
    return (state, ()) if known is None else _held(state, known, lifecycle.expire_if_due(known, now))


def sweep(state: State, session_id: str, now: int) -> tuple[State, tuple[Event, ...]]:
    """What happens to a session by itself: it expires, or a handoff that nobody answered is accepted."""
    known = state.sessions.get(session_id)
    if known is None:
        return state, ()
    after = lifecycle.expire_if_due(known, now)
    mode = state.modes.get(known.bound.mode)
    if after is known and mode is not None:
        after = lifecycle.synthesize(known, mode, now)
    return _held(state, known, after)


def may_read(session: Session, caller: Caller | None) -> bool:
    """Whether the caller may read the session: its initiator, its participants, observers."""
    return caller is not None and (caller.identity.is_observer or lifecycle.may_read(session, caller.sender))


def _readable(state: State, session_id: str, caller: Caller | None) -> Session:
    session = _find(state, session_id)
    if not may_read(session, caller):
        raise MacpRefusedError("FORBIDDEN", "FORBIDDEN: session access denied")
    return session


def get_session(state: State, caller: Caller | None, request: core_pb2.GetSessionRequest, now: int) -> Result:
    """GetSession."""
    session = _readable(state, request.session_id, caller)
    return Result(state, core_pb2.GetSessionResponse(metadata=lifecycle.metadata(session)))


def cancel_session(state: State, caller: Caller | None, request: core_pb2.CancelSessionRequest, now: int) -> Result:
    """CancelSession: on a session that has ended it changes nothing."""
    state, ack, events = _control(state, caller, request.session_id, now, "cancel", lifecycle.cancel)
    return Result(state, core_pb2.CancelSessionResponse(ack=ack), events)


def suspend_session(state: State, caller: Caller | None, request: core_pb2.SuspendSessionRequest, now: int) -> Result:
    """SuspendSession: only an open one."""
    state, ack, events = _control(state, caller, request.session_id, now, "suspend", lifecycle.suspend)
    return Result(state, core_pb2.SuspendSessionResponse(ack=ack), events)


def resume_session(state: State, caller: Caller | None, request: core_pb2.ResumeSessionRequest, now: int) -> Result:
    """ResumeSession: only a suspended one."""
    state, ack, events = _control(state, caller, request.session_id, now, "resume", lifecycle.resume)
    return Result(state, core_pb2.ResumeSessionResponse(ack=ack), events)


def _control(
    state: State,
    caller: Caller | None,
    session_id: str,
    now: int,
    verb: str,
    change: Callable[[Session, int], Session],
) -> tuple[State, Ack, tuple[Event, ...]]:
    session = _find(state, session_id)
    if caller is None or not lifecycle.may_control(session, caller.sender):
        raise MacpRefusedError(
            "FORBIDDEN", f"FORBIDDEN: only the session initiator or policy-delegated roles can {verb}"
        )
    try:
        after = change(session, now)
    except MacpRefusedError as refusal:
        return state, _control_nack(session_id, refusal, now), ()
    state, events = _held(state, session, after)
    if verb == "resume" and after.ended:
        over = MacpRefusedError("SESSION_NOT_OPEN", "it was suspended too long or too often, and has expired")
        return state, _control_nack(session_id, over, now), events
    ack = Ack(ok=True, session_id=session_id, accepted_at_unix_ms=now, session_state=after.state)
    return state, ack, events


def _control_nack(session_id: str, refusal: MacpRefusedError, now: int) -> Ack:
    error = MACPError(code=refusal.code, message=refusal.message, session_id=session_id)
    return Ack(session_id=session_id, accepted_at_unix_ms=now, error=error)


def list_sessions(state: State, caller: Caller | None, request: core_pb2.ListSessionsRequest, now: int) -> Result:
    """ListSessions: a keyset scan in byte order of the ids; expires nothing."""
    if request.page_size < 0:
        raise MacpRefusedError("INVALID_REQUEST", "INVALID_ARGUMENT: page_size must not be negative")
    settings = state.settings
    size = min(request.page_size or settings.default_page_size, settings.max_page_size)
    after = _cursor(request.page_token) if request.page_token else ""
    ids = sorted(known for known in state.sessions if known > after)  # session ids are ASCII
    page = [lifecycle.metadata(state.sessions[known]) for known in ids[:size]]
    token = _token(page[-1].session_id) if len(ids) > size else ""
    return Result(state, core_pb2.ListSessionsResponse(sessions=page, next_page_token=token))


def _token(session_id: str) -> str:
    return base64.urlsafe_b64encode(b"v1:" + session_id.encode()).rstrip(b"=").decode()


def _cursor(token: str) -> str:
    try:
        if len(token) > MAX_TOKEN:
            raise ValueError
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
        version, _, cursor = raw.partition(":")
        if version != "v1" or not cursor or _token(cursor) != token:  # the last: bits that no encoder leaves
            raise ValueError
    except (ValueError, binascii.Error):
        message = "INVALID_ARGUMENT: page_token is not a valid continuation token"
        raise MacpRefusedError("INVALID_REQUEST", message) from None
    return cursor


# Discovery


def initialize(state: State, caller: Caller | None, request: core_pb2.InitializeRequest, now: int) -> Result:
    """Initialize: stateless, and no call needs it."""
    if not request.supported_protocol_versions:
        raise MacpRefusedError("INVALID_REQUEST", "supported_protocol_versions must not be empty")
    if MACP_VERSION not in request.supported_protocol_versions:
        raise MacpRefusedError("UNSUPPORTED_PROTOCOL_VERSION", f"this runtime speaks {MACP_VERSION}")
    settings = state.settings
    capabilities = core_pb2.Capabilities(
        sessions=core_pb2.SessionsCapability(stream=True, list_sessions=True, watch_sessions=True),
        cancellation=core_pb2.CancellationCapability(cancel_session=True),
        progress=core_pb2.ProgressCapability(progress=True),
        manifest=core_pb2.ManifestCapability(get_manifest=True),
        mode_registry=core_pb2.ModeRegistryCapability(list_modes=True, list_changed=True),
        roots=core_pb2.RootsCapability(list_roots=True),
        policy_registry=policy_pb2.PolicyRegistryCapability(
            register_policy=not settings.policies_read_only, list_policies=True, list_changed=True, what_if_replay=True
        ),
        decision_receipt=core_pb2.DecisionReceiptCapability(
            get_decision_receipt=True, signed=settings.signer is not None
        ),
        experimental=core_pb2.ExperimentalCapabilities(features={"ext_mode_lifecycle": "true"}),
    )
    reply = core_pb2.InitializeResponse(
        selected_protocol_version=MACP_VERSION,
        runtime_info=core_pb2.RuntimeInfo(name=RUNTIME_NAME, title=TITLE, version=_own_version()),
        capabilities=capabilities,
        supported_modes=sorted(state.modes),
        instructions="Authenticate with a bearer token, then Send envelopes.",
    )
    return Result(state, reply)


@cache
def _own_version() -> str:
    from importlib.metadata import version  # 10 ms to import, and files to read, for one word of one reply

    return version("macp-rx")


def get_manifest(state: State, caller: Caller | None, request: core_pb2.GetManifestRequest, now: int) -> Result:
    """GetManifest: the runtime's own."""
    if request.agent_id not in ("", RUNTIME_NAME):
        raise MacpRefusedError("AGENT_NOT_FOUND", f"Agent '{request.agent_id}' not found")
    content = ["application/macp-envelope+proto"]
    manifest = core_pb2.AgentManifest(
        agent_id=RUNTIME_NAME,
        title=TITLE,
        description="A MACP runtime in Python, embedded in a process or served on a port",
        supported_modes=sorted(state.modes),
        input_content_types=content,
        output_content_types=content,
    )
    return Result(state, core_pb2.GetManifestResponse(manifest=manifest))


def list_modes(state: State, caller: Caller | None, request: core_pb2.ListModesRequest, now: int) -> Result:
    """ListModes: the standard modes in the order of their RFCs, then the promoted ones by name."""
    promoted = sorted(name for name, mode in state.modes.items() if mode.standards_track and name not in STANDARD_MODES)
    modes = [state.modes[name].descriptor for name in (*STANDARD_MODES, *promoted)]
    return Result(state, core_pb2.ListModesResponse(modes=modes))


def list_ext_modes(state: State, caller: Caller | None, request: core_pb2.ListExtModesRequest, now: int) -> Result:
    """ListExtModes: the others, by name."""
    modes = [mode.descriptor for _, mode in sorted(state.modes.items()) if not mode.standards_track]
    return Result(state, core_pb2.ListExtModesResponse(modes=modes))


def list_roots(state: State, caller: Caller | None, request: core_pb2.ListRootsRequest, now: int) -> Result:
    """ListRoots: none, as in the reference runtime."""
    return Result(state, core_pb2.ListRootsResponse())


# Mode registry


def register_ext_mode(
    state: State, caller: Caller | None, request: core_pb2.RegisterExtModeRequest, now: int
) -> Result:
    """RegisterExtMode: what is wrong with the descriptor is told in the reply."""
    _check_manages(caller)
    if not request.HasField("mode_descriptor"):
        raise MacpRefusedError("INVALID_REQUEST", "mode_descriptor required")
    descriptor = request.mode_descriptor
    problem = _unfit(state, descriptor)
    if problem:
        return Result(state, core_pb2.RegisterExtModeResponse(error=problem))
    added = ModeAdded(descriptor)
    return Result(_with_mode(state, added), core_pb2.RegisterExtModeResponse(ok=True), (added,))


def _unfit(state: State, descriptor: core_pb2.ModeDescriptor) -> str:
    """What the first check of `protocol.md` 1.2 (RegisterExtMode) that the descriptor fails says; empty if it is fit."""
    name, terminal = descriptor.mode, descriptor.terminal_message_types
    checks = (
        (is_blank(name), "mode must not be empty"),
        (name.startswith("macp.mode."), "names that begin with macp.mode. are the standard's own"),
        (not descriptor.message_types, "message_types must not be empty"),
        (is_blank(descriptor.mode_version), "mode_version must not be blank"),
        (not terminal, "terminal_message_types must not be empty"),
        (any(one != "Commitment" for one in terminal), "the only terminal message type is Commitment"),
        ("Commitment" not in descriptor.message_types, "message_types must list the terminal type Commitment"),
        (name in state.modes, f"mode {name!r} is registered already"),
    )
    return next((problem for fails, problem in checks if fails), "")


def unregister_ext_mode(
    state: State, caller: Caller | None, request: core_pb2.UnregisterExtModeRequest, now: int
) -> Result:
    """UnregisterExtMode: sessions of the mode then accept nothing more."""
    _check_manages(caller)
    known = state.modes.get(request.mode)
    problem = (
        f"mode {request.mode!r} is not registered"
        if known is None
        else f"mode {request.mode!r} is built in"
        if known.built_in
        else f"mode {request.mode!r} was promoted to the standards track"
        if known.standards_track
        else ""
    )
    if problem:
        return Result(state, core_pb2.UnregisterExtModeResponse(error=problem))
    removed = ModeRemoved(request.mode)
    return Result(_with_mode(state, removed), core_pb2.UnregisterExtModeResponse(ok=True), (removed,))


def promote_mode(state: State, caller: Caller | None, request: core_pb2.PromoteModeRequest, now: int) -> Result:
    """PromoteMode: a mode becomes standards-track, under a new name or its own."""
    _check_manages(caller)
    old, new = request.mode, request.promoted_mode_name or request.mode
    known = state.modes.get(old)
    problem = (
        f"mode {old!r} is not registered"
        if known is None
        else f"mode {old!r} is standards-track already"
        if known.standards_track
        else "names that begin with macp.mode. are the standard's own"
        if new != old and new.startswith("macp.mode.")
        else "the new name must not be blank"
        if is_blank(new)
        else f"mode {new!r} exists already"
        if new != old and new in state.modes
        else ""
    )
    if known is None or problem:
        return Result(state, core_pb2.PromoteModeResponse(error=problem))
    promoted = ModePromoted(old, new)
    return Result(_with_mode(state, promoted), core_pb2.PromoteModeResponse(ok=True, mode=new), (promoted,))


def _with_mode(state: State, change: ModeAdded | ModePromoted | ModeRemoved) -> State:
    modes = state.modes
    match change:
        case ModeAdded(descriptor):
            modes = modes.set(descriptor.mode, Registered(Passthrough(descriptor), descriptor))
        case ModeRemoved(mode):
            modes = modes.delete(mode)
        case ModePromoted(mode, name):
            known = modes[mode]
            descriptor = core_pb2.ModeDescriptor()
            descriptor.CopyFrom(known.descriptor)
            descriptor.mode = name
            modes = modes.delete(mode).set(name, replace(known, descriptor=descriptor, standards_track=True))
    return replace(state, modes=modes)


def _check_manages(caller: Caller | None) -> None:
    if caller is not None:
        caller.check_manages()


# Policies


def register_policy(state: State, caller: Caller | None, request: policy_pb2.RegisterPolicyRequest, now: int) -> Result:
    """RegisterPolicy: what is wrong with the policy is told in the reply."""
    _check_writable(state, caller)
    if not request.HasField("policy_descriptor"):
        raise MacpRefusedError("INVALID_REQUEST", "policy_descriptor required")
    try:
        policy = _new_policy(state, request.policy_descriptor)
    except MacpRefusedError as refusal:
        return Result(state, policy_pb2.RegisterPolicyResponse(error=f"{refusal.code}: {refusal.message}"))
    if policy.policy_id in state.policies:
        problem = f"policy '{policy.policy_id}' is already registered"
        return Result(state, policy_pb2.RegisterPolicyResponse(error=problem))
    added = PolicyAdded(policy)
    return Result(_with_policy(state, added), policy_pb2.RegisterPolicyResponse(ok=True), (added,))


def _new_policy(state: State, descriptor: policy_pb2.PolicyDescriptor) -> Policy:
    """The policy, after the checks of `protocol.md` 5.3 but the last, whether the id is taken."""
    policy_id = descriptor.policy_id
    if is_blank(policy_id):
        raise MacpRefusedError("INVALID_POLICY_DEFINITION", "policy_id must not be blank")
    if policy_id == "policy.default":
        raise MacpRefusedError("INVALID_POLICY_DEFINITION", "'policy.default' is built in")
    policy = policy_from(descriptor)
    if policy_id.startswith("policy.std."):
        known = BUILT_IN.get(policy_id)
        if known is None or (policy.mode, policy.schema_version, policy.rules) != (
            known.mode,
            known.schema_version,
            known.rules,
        ):
            raise MacpRefusedError(
                "INVALID_POLICY_DEFINITION", f"'{policy_id}': ids that begin with policy.std. are the standard's own"
            )
    return policy


def with_policies(state: State, descriptors: Iterable[policy_pb2.PolicyDescriptor]) -> State:
    """The state with policies that are there from the start. Raises INVALID_POLICY_DEFINITION, which names the policy."""
    for descriptor in descriptors:
        try:
            policy = _new_policy(state, descriptor)
        except MacpRefusedError as refusal:
            raise MacpRefusedError(refusal.code, f"policy {descriptor.policy_id!r}: {refusal.message}") from None
        if policy.policy_id in state.policies and policy.policy_id not in BUILT_IN:
            raise MacpRefusedError("INVALID_POLICY_DEFINITION", f"policy {policy.policy_id!r} is defined twice")
        state = _with_policy(state, PolicyAdded(policy))
    return state


def unregister_policy(
    state: State, caller: Caller | None, request: policy_pb2.UnregisterPolicyRequest, now: int
) -> Result:
    """UnregisterPolicy: sessions that are bound to it keep it."""
    _check_writable(state, caller)
    policy_id = request.policy_id
    problem = (
        f"cannot unregister the built-in policy '{policy_id}'"
        if policy_id in BUILT_IN
        else ""
        if policy_id in state.policies
        else f"policy '{policy_id}' not found"
    )
    if problem:
        return Result(state, policy_pb2.UnregisterPolicyResponse(error=problem))
    removed = PolicyRemoved(policy_id)
    return Result(_with_policy(state, removed), policy_pb2.UnregisterPolicyResponse(ok=True), (removed,))


def _with_policy(state: State, change: PolicyAdded | PolicyRemoved) -> State:
    if isinstance(change, PolicyRemoved):
        return replace(state, policies=state.policies.delete(change.policy_id))
    return replace(state, policies=state.policies.set(change.policy.policy_id, change.policy))


def _check_writable(state: State, caller: Caller | None) -> None:
    if state.settings.policies_read_only:
        raise MacpRefusedError("REGISTRY_READ_ONLY", "this runtime's policies come from files")
    _check_manages(caller)


def get_policy(state: State, caller: Caller | None, request: policy_pb2.GetPolicyRequest, now: int) -> Result:
    """GetPolicy."""
    policy = state.policies.get(request.policy_id)
    if policy is None:
        raise MacpRefusedError("UNKNOWN_POLICY_VERSION", f"policy '{request.policy_id}' not found")
    return Result(state, policy_pb2.GetPolicyResponse(policy_descriptor=policy.descriptor()))


def list_policies(state: State, caller: Caller | None, request: policy_pb2.ListPoliciesRequest, now: int) -> Result:
    """ListPolicies: those of a mode and those of any mode; all for an empty mode."""
    return Result(state, policy_pb2.ListPoliciesResponse(descriptors=policies(state, request.mode)))


def policies(state: State, mode: str = "") -> list[policy_pb2.PolicyDescriptor]:
    """The policies that may be bound in a mode, or all of them, by id."""
    return [
        policy.descriptor()
        for _, policy in sorted(state.policies.items())
        if mode in ("", policy.mode) or policy.mode == "*"
    ]


def what_if_replay(state: State, caller: Caller | None, request: policy_pb2.WhatIfReplayRequest, now: int) -> Result:
    """WhatIfReplay: changes nothing, but counts as a message."""
    session = _readable(state, request.session_id, caller)
    if caller is not None:
        caller.take(now)
    if not request.HasField("candidate"):
        raise MacpRefusedError("INVALID_REQUEST", "candidate required")
    candidate = policy_from(request.candidate)
    mode = state.modes.get(session.bound.mode)
    if candidate.mode not in ("*", session.bound.mode):
        raise MacpRefusedError(
            "INVALID_POLICY_DEFINITION",
            f"the candidate is for {candidate.mode!r}, the session's mode is {session.bound.mode!r}",
        )
    if session.compacted:
        raise MacpRefusedError("HISTORY_UNAVAILABLE", "the session has ended and its history is no longer held")
    if mode is None:
        raise MacpRefusedError("MODE_NOT_SUPPORTED", f"mode {session.bound.mode!r} is no longer served here")
    return Result(state, what_if(session, mode, candidate))


# Receipts

SEMANTICS: Final = SemanticsRev("macp-rx", 1)
"""Which rules sessions here are decided by. A new number when a rule changes what a history leads to."""


def get_decision_receipt(
    state: State, caller: Caller | None, request: core_pb2.GetDecisionReceiptRequest, now: int
) -> Result:
    """GetDecisionReceipt: made at the first call, the same ever after; counts as a message."""
    session = _readable(state, request.session_id, caller)
    if caller is not None:
        caller.take(now)
    if session.receipt:
        return Result(state, core_pb2.GetDecisionReceiptResponse(receipt_json=session.receipt))
    if session.state != lifecycle.RESOLVED:
        raise MacpRefusedError("RECEIPT_UNAVAILABLE", "only a resolved session has a receipt")
    receipt = build_receipt(
        session.resolution,
        session_id=session.session_id,
        mode=session.bound.mode,
        issuer=f"runtime:{state.settings.runtime_id}",
        issued_at=now,
        semantics_rev=SEMANTICS,
        signer=state.settings.signer,
    )
    return Result(
        state.holding(replace(session, receipt=receipt)),
        core_pb2.GetDecisionReceiptResponse(receipt_json=receipt),
        (Issued(session.session_id, receipt),),
    )


def get_receipt_keys(state: State, caller: Caller | None, request: core_pb2.GetReceiptKeysRequest, now: int) -> Result:
    """GetReceiptKeys: the key that signs, then those that did."""
    keys = public_jwks(state.settings.signer, state.settings.retired_keys or None)
    return Result(state, core_pb2.GetReceiptKeysResponse(jwks_json=keys))


HANDLERS: Final[Mapping[str, Handler]] = {
    "Initialize": initialize,
    "Send": send,
    "GetSession": get_session,
    "CancelSession": cancel_session,
    "SuspendSession": suspend_session,
    "ResumeSession": resume_session,
    "ListSessions": list_sessions,
    "GetManifest": get_manifest,
    "ListModes": list_modes,
    "ListExtModes": list_ext_modes,
    "ListRoots": list_roots,
    "RegisterExtMode": register_ext_mode,
    "UnregisterExtMode": unregister_ext_mode,
    "PromoteMode": promote_mode,
    "RegisterPolicy": register_policy,
    "UnregisterPolicy": unregister_policy,
    "GetPolicy": get_policy,
    "ListPolicies": list_policies,
    "WhatIfReplay": what_if_replay,
    "GetDecisionReceipt": get_decision_receipt,
    "GetReceiptKeys": get_receipt_keys,
}
"""Every unary RPC of the service."""


def answer(state: State, name: str, caller: Caller | None, request: Protobuf, now: int) -> Result:
    """What a unary RPC leads to.

    Args:
        state: what the runtime knows.
        name: the RPC's name.
        caller: whom the credential speaks for; None without a good one.
        request: its request.
        now: Unix milliseconds.

    Returns:
        The next state, the reply or the refusal that the call fails with, and what happened: a session that is asked about
        may turn out to have expired, whatever the answer.
    """
    events: tuple[Event, ...] = ()
    try:
        check_credential(state, name, caller)
        if name in ABOUT_A_SESSION:
            state, events = look(state, cast("core_pb2.GetSessionRequest", request).session_id, now)
        state, reply, more = _handler(name)(state, caller, request, now)
    except MacpRefusedError as refusal:
        return Result(state, refusal.as_value(), events)
    return Result(state, reply, (*events, *more))


def _handler(name: str) -> Handler:
    return HANDLERS[name]  # looked up in place, pyright would take each for its own request only


def check_credential(state: State, name: str, caller: Caller | None) -> None:
    """Raises UNAUTHENTICATED for a call that needs a credential and has none."""
    if name in ("RegisterPolicy", "UnregisterPolicy") and state.settings.policies_read_only:
        return  # what cannot be done is told before who may not do it
    if caller is None and name not in OPEN_TO_ALL:
        raise MacpRefusedError("UNAUTHENTICATED", "this call needs a credential, and a good one")


def rebuild(state: State, happened: Iterable[Kept]) -> State:
    """The state after a store's record of what happened.

    Args:
        state: the state of a runtime that has just started.
        happened: what a store has kept, oldest first.

    Raises:
        MacpRefusedError: the record holds what the rules refuse.
    """
    for one in happened:
        try:
            state = _again(state, one)
        except KeyError:
            raise MacpRefusedError(
                "INVALID_REQUEST", f"{type(one).__name__} of {one[0]!r}, which is not there"
            ) from None
    return state


def _again(state: State, one: Kept) -> State:
    match one:
        case Logged():
            return state.holding(_remembered(state, _relogged(state, one)))
        case Issued(session_id, receipt):
            return state.holding(replace(state.sessions[session_id], receipt=receipt))
        case ModeAdded() | ModePromoted() | ModeRemoved():
            return _with_mode(state, one)
        case PolicyAdded() | PolicyRemoved():
            return _with_policy(state, one)


def _relogged(state: State, logged: Logged) -> Session:
    entry = logged.entry
    if entry.kind is not Kind.START or entry.envelope is None:
        session = state.sessions[logged.session_id]
        return lifecycle.reapply(session, state.modes.get(session.bound.mode), entry)
    known = state.sessions.get(logged.session_id)
    if known is not None and not known.ended:  # one that was forgotten may have started anew
        raise MacpRefusedError("SESSION_ALREADY_EXISTS", f"session {logged.session_id!r} starts twice")
    policy = logged.policy or BUILT_IN["policy.default"]
    return lifecycle.replay([entry], state.modes[entry.envelope.mode], policy)
