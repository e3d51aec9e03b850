"""The runtime's decisions: a state and a request in, a state, a reply and what happened out. No clock, no I/O, no thread.

One function per unary RPC, all of one shape, in `HANDLERS`. A refusal is a MacpRefusedError; only `send` and the lifecycle
calls turn theirs into an Ack, because the protocol does (`protocol.md` 1.2, 12.1).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from google.protobuf.message import Message as Protobuf
from immutables import Map
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Ack, Envelope, MACPError, SessionState

from macp_rx.errors import MacpRefusedError
from macp_rx.protocol import lifecycle
from macp_rx.protocol.lifecycle import Session
from macp_rx.protocol.messages import MACP_VERSION, STANDARD_MODES
from macp_rx.protocol.modes import MODES, Mode
from macp_rx.protocol.policy import BUILT_IN, Policy

__all__ = ["HANDLERS", "OPEN_TO_ALL", "Changed", "Event", "Said", "Signalled", "State", "policies", "readable"]

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

RUNTIME_NAME: Final = "macp-rx"
MAX_PAYLOAD_BYTES: Final = 1_048_576
DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1000


@dataclass(frozen=True, slots=True)
class State:
    """Everything the runtime knows.

    Attributes:
        sessions: session id -> session.
    """

    sessions: Map[str, Session] = field(default_factory=Map[str, Session])

    def holding(self, session: Session) -> State:
        """This state with a session as it is now."""
        return replace(self, sessions=self.sessions.set(session.session_id, session))


@dataclass(frozen=True, slots=True)
class Said:
    """A session accepted an envelope."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Changed:
    """A session began, changed its state, or ended."""

    kind: Lifecycle.EventType.ValueType
    session_id: str


@dataclass(frozen=True, slots=True)
class Signalled:
    """A Signal or Progress was accepted."""

    envelope: Envelope


Event = Said | Changed | Signalled
Result = tuple[State, Protobuf, tuple[Event, ...]]
Handler = Callable[[State, str | None, Any, int], Result]


# Messages


def send(state: State, caller: str | None, request: core_pb2.SendRequest, now: int) -> Result:
    """Send: every refusal but a missing envelope is an Ack."""
    if not request.HasField("envelope"):
        raise MacpRefusedError("INVALID_ENVELOPE", "SendRequest must contain an envelope")
    envelope = request.envelope
    after, events, refusal, duplicate = admit(state, caller, envelope, now)
    if refusal is not None:
        return after, core_pb2.SendResponse(ack=nack(envelope, refusal, now)), events
    session = after.sessions.get(envelope.session_id)
    ack = Ack(
        ok=True,
        duplicate=duplicate,
        message_id=envelope.message_id,
        session_id=envelope.session_id,
        accepted_at_unix_ms=now,
        session_state=_state_after(envelope, session),
    )
    return after, core_pb2.SendResponse(ack=ack), events


def admit(
    state: State, caller: str | None, envelope: Envelope, now: int
) -> tuple[State, tuple[Event, ...], MacpRefusedError | None, bool]:
    """Whether an envelope is accepted: shape, credential, sender, then the rules, in that order (`protocol.md` 2.1).

    Returns:
        The next state, what happened (an overdue session expires even if the message is refused), the refusal, and
        whether the message was accepted before.
    """
    try:
        lifecycle.check_shape(envelope, MAX_PAYLOAD_BYTES)
        said = _bind_sender(caller, envelope)
        if said.message_type in lifecycle.AMBIENT:
            lifecycle.check_ambient(said)
            return state, (Signalled(said),), None, False
        if said.message_type == "SessionStart":
            return _admit_start(state, said, now)
    except MacpRefusedError as refusal:
        return state, (), refusal.as_value(), False
    return _admit_message(state, said, now)


def _bind_sender(caller: str | None, envelope: Envelope) -> Envelope:
    if caller is None:
        raise MacpRefusedError("UNAUTHENTICATED", "no credential")
    if envelope.sender == caller:
        return envelope
    if envelope.sender:
        raise MacpRefusedError("UNAUTHENTICATED", f"the credential speaks for {caller!r}, not for {envelope.sender!r}")
    bound = Envelope()
    bound.CopyFrom(envelope)
    bound.sender = caller
    return bound


def _admit_start(
    state: State, envelope: Envelope, now: int
) -> tuple[State, tuple[Event, ...], MacpRefusedError | None, bool]:
    known = state.sessions.get(envelope.session_id)
    session = lifecycle.start(envelope, now, known=known)
    if session is known:
        return state, (), None, True
    created = Changed(Lifecycle.EVENT_TYPE_CREATED, session.session_id)
    return state.holding(session), (Said(envelope), created), None, False


def _admit_message(
    state: State, envelope: Envelope, now: int
) -> tuple[State, tuple[Event, ...], MacpRefusedError | None, bool]:
    session = state.sessions.get(envelope.session_id)
    if session is None:
        return state, (), MacpRefusedError("SESSION_NOT_FOUND", "UnknownSession"), False
    expired: tuple[Event, ...] = ()
    if envelope.message_id not in session.message_ids and envelope.mode == session.mode:
        state, session, expired = _lapse(state, session, now)
    try:
        after = lifecycle.accept(session, envelope, now)
    except MacpRefusedError as refusal:
        return state, expired, refusal.as_value(), False
    if after is session:
        return state, expired, None, True
    if after.ended:  # the lifecycle event comes before the envelope (`protocol.md` 3.4)
        return (
            state.holding(after),
            (Changed(Lifecycle.EVENT_TYPE_RESOLVED, after.session_id), Said(envelope)),
            None,
            False,
        )
    return state.holding(after), (Said(envelope),), None, False


def _state_after(envelope: Envelope, session: Session | None) -> SessionState.ValueType:
    if envelope.message_type in lifecycle.AMBIENT or session is None:
        return SessionState.SESSION_STATE_OPEN
    return session.state


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


# Sessions


def _lapse(state: State, session: Session, now: int) -> tuple[State, Session, tuple[Event, ...]]:
    """A session, expired if its deadline has passed: the runtime finds out when it looks."""
    if not lifecycle.due(session, now):
        return state, session, ()
    session = lifecycle.expire(session)
    return state.holding(session), session, (Changed(Lifecycle.EVENT_TYPE_EXPIRED, session.session_id),)


def look(state: State, session_id: str, now: int) -> tuple[State, Session, tuple[Event, ...]]:
    """Finds a session, and lets it expire if it is time. Raises SESSION_NOT_FOUND."""
    session = state.sessions.get(session_id)
    if session is None:
        raise MacpRefusedError("SESSION_NOT_FOUND", f"Session '{session_id}' not found")
    return _lapse(state, session, now)


def sweep(state: State, session_id: str, now: int) -> tuple[State, tuple[Event, ...]]:
    """What a timer does at a session's deadline."""
    session = state.sessions.get(session_id)
    if session is None or session.state != SessionState.SESSION_STATE_OPEN:
        return state, ()  # a suspended session expires only when somebody looks
    after, _session, events = _lapse(state, session, now)
    return after, events


def readable(session: Session, caller: str | None) -> None:
    """Raises FORBIDDEN unless the caller may read the session."""
    if caller is None or not lifecycle.may_read(session, caller):
        raise MacpRefusedError("FORBIDDEN", "FORBIDDEN: session access denied")


def get_session(state: State, caller: str | None, request: core_pb2.GetSessionRequest, now: int) -> Result:
    """GetSession."""
    state, session, events = look(state, request.session_id, now)
    readable(session, caller)
    return state, core_pb2.GetSessionResponse(metadata=lifecycle.metadata(session)), events


def cancel_session(state: State, caller: str | None, request: core_pb2.CancelSessionRequest, now: int) -> Result:
    """CancelSession: on a session that has ended it changes nothing."""
    state, session, events = _controlled(state, caller, request.session_id, now, "cancel")
    after = lifecycle.cancel(session)
    if after is not session:
        events = (*events, Changed(Lifecycle.EVENT_TYPE_CANCELLED, session.session_id))
    return state.holding(after), core_pb2.CancelSessionResponse(ack=_control_ack(after, now)), events


def suspend_session(state: State, caller: str | None, request: core_pb2.SuspendSessionRequest, now: int) -> Result:
    """SuspendSession: only an open one."""
    state, session, events = _controlled(state, caller, request.session_id, now, "suspend")
    try:
        after = lifecycle.suspend(session, now)
    except MacpRefusedError as refusal:
        return state, core_pb2.SuspendSessionResponse(ack=_control_nack(session, refusal, now)), events
    events = (*events, Changed(Lifecycle.EVENT_TYPE_SUSPENDED, session.session_id))
    return state.holding(after), core_pb2.SuspendSessionResponse(ack=_control_ack(after, now)), events


def resume_session(state: State, caller: str | None, request: core_pb2.ResumeSessionRequest, now: int) -> Result:
    """ResumeSession: only a suspended one."""
    state, session, events = _controlled(state, caller, request.session_id, now, "resume")
    try:
        after = lifecycle.resume(session, now)
    except MacpRefusedError as refusal:
        return state, core_pb2.ResumeSessionResponse(ack=_control_nack(session, refusal, now)), events
    if after.ended:
        too_long = MacpRefusedError("SESSION_NOT_OPEN", "TtlExpired")
        events = (*events, Changed(Lifecycle.EVENT_TYPE_EXPIRED, session.session_id))
        return state.holding(after), core_pb2.ResumeSessionResponse(ack=_control_nack(after, too_long, now)), events
    events = (*events, Changed(Lifecycle.EVENT_TYPE_RESUMED, session.session_id))
    return state.holding(after), core_pb2.ResumeSessionResponse(ack=_control_ack(after, now)), events


def _controlled(
    state: State, caller: str | None, session_id: str, now: int, verb: str
) -> tuple[State, Session, tuple[Event, ...]]:
    state, session, events = look(state, session_id, now)
    if caller is None or not lifecycle.may_control(session, caller):
        raise MacpRefusedError(
            "FORBIDDEN", f"FORBIDDEN: only the session initiator or policy-delegated roles can {verb}"
        )
    return state, session, events


def _control_ack(session: Session, now: int) -> Ack:
    return Ack(ok=True, session_id=session.session_id, accepted_at_unix_ms=now, session_state=session.state)


def _control_nack(session: Session, refusal: MacpRefusedError, now: int) -> Ack:
    error = MACPError(code=refusal.code, message=refusal.message, session_id=session.session_id)
    return Ack(session_id=session.session_id, accepted_at_unix_ms=now, error=error)


def list_sessions(state: State, caller: str | None, request: core_pb2.ListSessionsRequest, now: int) -> Result:
    """ListSessions: a keyset scan in byte order of the ids; expires nothing."""
    if request.page_size < 0:
        raise MacpRefusedError("INVALID_REQUEST", "INVALID_ARGUMENT: page_size must not be negative")
    size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    after = _cursor(request.page_token) if request.page_token else ""
    ids = sorted((known for known in state.sessions if known > after), key=str.encode)
    page = [lifecycle.metadata(state.sessions[known]) for known in ids[:size]]
    token = _token(page[-1].session_id) if len(ids) > size else ""
    return state, core_pb2.ListSessionsResponse(sessions=page, next_page_token=token), ()


def _token(session_id: str) -> str:
    return base64.urlsafe_b64encode(b"v1:" + session_id.encode()).rstrip(b"=").decode()


def _cursor(token: str) -> str:
    try:
        if len(token) > 1024 or "=" in token:
            raise ValueError
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
        version, _, cursor = raw.partition(":")
        if version != "v1" or not cursor:
            raise ValueError
    except (ValueError, binascii.Error):
        message = "INVALID_ARGUMENT: page_token is not a valid continuation token"
        raise MacpRefusedError("INVALID_REQUEST", message) from None
    return cursor


# Discovery


def _mode_descriptor(mode: Mode) -> core_pb2.ModeDescriptor:
    return core_pb2.ModeDescriptor(
        mode=mode.MODE,
        mode_version=lifecycle.MODE_VERSION,
        determinism_class=mode.DETERMINISM_CLASS,
        participant_model=mode.PARTICIPANT_MODEL,
        message_types=["SessionStart", *mode.MESSAGE_TYPES, "Commitment"],
        terminal_message_types=["Commitment"],
        schema_uris={"protobuf": "buf.build/multiagentcoordinationprotocol/macp"},
    )


def initialize(state: State, caller: str | None, request: core_pb2.InitializeRequest, now: int) -> Result:
    """Initialize: stateless, and no call needs it."""
    if not request.supported_protocol_versions:
        raise MacpRefusedError("INVALID_REQUEST", "supported_protocol_versions must not be empty")
    if MACP_VERSION not in request.supported_protocol_versions:
        raise MacpRefusedError("UNSUPPORTED_PROTOCOL_VERSION", f"this runtime speaks {MACP_VERSION}")
    capabilities = core_pb2.Capabilities(
        sessions=core_pb2.SessionsCapability(stream=True, list_sessions=True, watch_sessions=True),
        cancellation=core_pb2.CancellationCapability(cancel_session=True),
        progress=core_pb2.ProgressCapability(progress=True),
        manifest=core_pb2.ManifestCapability(get_manifest=True),
        mode_registry=core_pb2.ModeRegistryCapability(list_modes=True, list_changed=True),
        roots=core_pb2.RootsCapability(list_roots=True),
        policy_registry=policy_pb2.PolicyRegistryCapability(list_policies=True, list_changed=True),
    )
    reply = core_pb2.InitializeResponse(
        selected_protocol_version=MACP_VERSION,
        runtime_info=core_pb2.RuntimeInfo(name=RUNTIME_NAME, title="macp_rx embedded runtime"),
        capabilities=capabilities,
        supported_modes=sorted(MODES),
        instructions="Authenticate with a bearer token, then Send envelopes.",
    )
    return state, reply, ()


def get_manifest(state: State, caller: str | None, request: core_pb2.GetManifestRequest, now: int) -> Result:
    """GetManifest: the runtime's own."""
    if request.agent_id not in ("", RUNTIME_NAME):
        raise MacpRefusedError("AGENT_NOT_FOUND", f"Agent '{request.agent_id}' not found")
    content = ["application/macp-envelope+proto"]
    manifest = core_pb2.AgentManifest(
        agent_id=RUNTIME_NAME,
        title="macp_rx embedded runtime",
        supported_modes=sorted(MODES),
        input_content_types=content,
        output_content_types=content,
    )
    return state, core_pb2.GetManifestResponse(manifest=manifest), ()


def list_modes(state: State, caller: str | None, request: core_pb2.ListModesRequest, now: int) -> Result:
    """ListModes."""
    return state, core_pb2.ListModesResponse(modes=[_mode_descriptor(MODES[mode]) for mode in STANDARD_MODES]), ()


def list_ext_modes(state: State, caller: str | None, request: core_pb2.ListExtModesRequest, now: int) -> Result:
    """ListExtModes."""
    extensions = [_mode_descriptor(MODES[mode]) for mode in sorted(MODES) if mode not in STANDARD_MODES]
    return state, core_pb2.ListExtModesResponse(modes=extensions), ()


def list_roots(state: State, caller: str | None, request: core_pb2.ListRootsRequest, now: int) -> Result:
    """ListRoots: none, as in the reference runtime."""
    return state, core_pb2.ListRootsResponse(), ()


def policies() -> list[policy_pb2.PolicyDescriptor]:
    """Every policy, in order of its id."""
    return [_descriptor(policy) for _id, policy in sorted(BUILT_IN.items())]


def get_policy(state: State, caller: str | None, request: policy_pb2.GetPolicyRequest, now: int) -> Result:
    """GetPolicy."""
    policy = BUILT_IN.get(request.policy_id)
    if policy is None:
        raise MacpRefusedError("UNKNOWN_POLICY_VERSION", f"policy '{request.policy_id}' not found")
    return state, policy_pb2.GetPolicyResponse(policy_descriptor=_descriptor(policy)), ()


def list_policies(state: State, caller: str | None, request: policy_pb2.ListPoliciesRequest, now: int) -> Result:
    """ListPolicies: those of a mode and those of any mode; all for an empty mode."""
    wanted = [policy for policy in policies() if request.mode in ("", policy.mode) or policy.mode == "*"]
    return state, policy_pb2.ListPoliciesResponse(descriptors=wanted), ()


def _descriptor(policy: Policy) -> policy_pb2.PolicyDescriptor:
    return policy_pb2.PolicyDescriptor(
        policy_id=policy.policy_id,
        mode=policy.mode,
        description=policy.description,
        rules=policy.rules,
        schema_version=policy.schema_version,
    )


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
    "GetPolicy": get_policy,
    "ListPolicies": list_policies,
}
"""The unary RPCs that are served. The others answer UNIMPLEMENTED: extension modes, policy registration, what-if replay and
receipts come with the rest of the protocol."""
