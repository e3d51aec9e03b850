"""The runtime's decisions: a state and a request in, a state, a reply and what happened out. No clock, no I/O, no thread.

One function per unary RPC, all of one shape, in `HANDLERS`; those about modes and policies stand in `registries`. A refusal is
a MacpRefusedError; only `send` and the lifecycle calls turn theirs into an Ack, and the registries theirs into a field, because
the protocol does (`protocol.md` 1.2, 12.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Final, cast

from google.protobuf.message import Message as Protobuf
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Ack, Envelope, MACPError

from macp_rx.errors import MacpRefusedError, MacpSessionError
from macp_rx.protocol import lifecycle
from macp_rx.protocol.encoding import base64url, unbase64url
from macp_rx.protocol.lifecycle import Entry, Kind, Session
from macp_rx.protocol.messages import MACP_VERSION
from macp_rx.protocol.policy import DEFAULT, policy_from
from macp_rx.protocol.receipt import SemanticsRev, build_receipt, public_jwks
from macp_rx.protocol.what_if import what_if
from macp_rx.runtime import registries
from macp_rx.runtime.identity import Identity
from macp_rx.runtime.state import (
    RUNTIME_NAME,
    Changed,
    Compacted,
    Event,
    Issued,
    Kept,
    Lifecycle,
    Logged,
    PolicyAdded,
    PolicyRemoved,
    Result,
    Signalled,
    State,
)

__all__ = [
    "HANDLERS",
    "OPEN_TO_ALL",
    "admit",
    "answer",
    "check_credential",
    "error_of",
    "look",
    "may_read",
    "not_kept",
    "rebuild",
    "sweep",
]

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

COUNTED: Final = frozenset({"WhatIfReplay", "GetDecisionReceipt"})
"""RPCs that count as a message, whatever comes of them, once it is clear that the caller may read the session."""

TITLE: Final = "macp_rx embedded runtime"
MAX_TOKEN: Final = 1024

Handler = Callable[[State, Identity | None, Any, int], Result]

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


def send(state: State, caller: Identity | None, request: core_pb2.SendRequest, now: int) -> Result:
    """Send: every refusal but a missing envelope is an Ack."""
    if not request.HasField("envelope"):
        raise MacpRefusedError("INVALID_ENVELOPE", "SendRequest must contain an envelope")
    envelope = request.envelope
    events: tuple[Event, ...] = ()
    try:
        lifecycle.check_shape(envelope, state.settings.max_payload_bytes)
        if caller is None:
            raise MacpRefusedError("UNAUTHENTICATED", "no credential, or one that nobody has")
        envelope = caller.bind(envelope)
        caller.check_may(envelope)
        state = state.counting(caller, now, starts=envelope.message_type == "SessionStart")
        state, events, refusal = admit(state, caller, envelope, now)
    except MacpRefusedError as error:
        refusal = error.as_value()
    if refusal is not None:
        ack = _nack(refusal, now, envelope.session_id, envelope.message_id)
        return Result(state, core_pb2.SendResponse(ack=ack), events)
    session = None if envelope.message_type in lifecycle.AMBIENT else state.sessions.get(envelope.session_id)
    ack = Ack(
        ok=True,
        duplicate=not events,
        message_id=envelope.message_id,
        session_id=envelope.session_id,
        accepted_at_unix_ms=now,
        session_state=lifecycle.OPEN if session is None else session.state,
    )
    return Result(state, core_pb2.SendResponse(ack=ack), events)


def admit(
    state: State, caller: Identity, envelope: Envelope, now: int
) -> tuple[State, tuple[Event, ...], MacpRefusedError | None]:
    """Whether an envelope of the right shape, from whom it says, is accepted (`protocol.md` 2.1, 8).

    Returns:
        The next state, what happened (an overdue session expires even if the message is refused), and the refusal. Nothing
        happens without a refusal if the message was accepted before.
    """
    known = state.sessions.get(envelope.session_id)
    try:
        if envelope.message_type in lifecycle.AMBIENT:
            lifecycle.check_ambient(envelope)
            return state, (Signalled(envelope),), None
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
        return state, (), refused.as_value()
    return *_held(state, known, after), refusal


def _check_open_sessions(state: State, caller: Identity, now: int) -> None:
    most = caller.max_open_sessions
    if most is None:
        return
    open_now = sum(
        session.bound.initiator == caller.sender and session.state == lifecycle.OPEN and not lifecycle.due(session, now)
        for session in state.sessions.values()
    )
    if open_now >= most:
        raise MacpRefusedError("RATE_LIMITED", f"{caller.sender!r} has {open_now} open sessions and may have {most}")


def _nack(refusal: MacpRefusedError, now: int, session_id: str, message_id: str = "") -> Ack:
    """The Ack that says no."""
    error = error_of(refusal, session_id, message_id)
    return Ack(message_id=message_id, session_id=session_id, accepted_at_unix_ms=now, error=error)


def error_of(refusal: MacpRefusedError, session_id: str, message_id: str) -> MACPError:
    """A refusal as it stands in an Ack or on a stream."""
    return MACPError(
        code=refusal.code,
        message=refusal.message,
        session_id=session_id,
        message_id=message_id,
        details=refusal.details,
    )


def not_kept(request: Protobuf, now: int) -> Protobuf | MacpRefusedError:
    """The answer to a request that was granted, but whose outcome the store could not keep."""
    refusal = MacpRefusedError("INTERNAL_ERROR", "what it leads to could not be kept; try again")
    match request:
        case core_pb2.SendRequest():
            return core_pb2.SendResponse(
                ack=_nack(refusal, now, request.envelope.session_id, request.envelope.message_id)
            )
        case core_pb2.CancelSessionRequest():
            return core_pb2.CancelSessionResponse(ack=_nack(refusal, now, request.session_id))
        case core_pb2.SuspendSessionRequest():
            return core_pb2.SuspendSessionResponse(ack=_nack(refusal, now, request.session_id))
        case core_pb2.ResumeSessionRequest():
            return core_pb2.ResumeSessionResponse(ack=_nack(refusal, now, request.session_id))
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


def may_read(session: Session, caller: Identity | None) -> bool:
    """Whether the caller may read the session: its initiator, its participants, observers."""
    return caller is not None and (caller.is_observer or lifecycle.may_read(session, caller.sender))


def _readable(state: State, session_id: str, caller: Identity | None) -> Session:
    session = _find(state, session_id)
    if not may_read(session, caller):
        raise MacpRefusedError("FORBIDDEN", "FORBIDDEN: session access denied")
    return session


def get_session(state: State, caller: Identity | None, request: core_pb2.GetSessionRequest, now: int) -> Result:
    """GetSession."""
    session = _readable(state, request.session_id, caller)
    return Result(state, core_pb2.GetSessionResponse(metadata=lifecycle.metadata(session)))


def cancel_session(state: State, caller: Identity | None, request: core_pb2.CancelSessionRequest, now: int) -> Result:
    """CancelSession: on a session that has ended it changes nothing."""
    state, ack, events = _control(state, caller, request.session_id, now, "cancel", lifecycle.cancel)
    return Result(state, core_pb2.CancelSessionResponse(ack=ack), events)


def suspend_session(state: State, caller: Identity | None, request: core_pb2.SuspendSessionRequest, now: int) -> Result:
    """SuspendSession: only an open one."""
    state, ack, events = _control(state, caller, request.session_id, now, "suspend", lifecycle.suspend)
    return Result(state, core_pb2.SuspendSessionResponse(ack=ack), events)


def resume_session(state: State, caller: Identity | None, request: core_pb2.ResumeSessionRequest, now: int) -> Result:
    """ResumeSession: only a suspended one."""
    state, ack, events = _control(state, caller, request.session_id, now, "resume", lifecycle.resume)
    return Result(state, core_pb2.ResumeSessionResponse(ack=ack), events)


def _control(
    state: State,
    caller: Identity | None,
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
        return state, _nack(refusal, now, session_id), ()
    state, events = _held(state, session, after)
    if verb == "resume" and after.ended:
        over = MacpRefusedError("SESSION_NOT_OPEN", "it was suspended too long or too often, and has expired")
        return state, _nack(over, now, session_id), events
    ack = Ack(ok=True, session_id=session_id, accepted_at_unix_ms=now, session_state=after.state)
    return state, ack, events


def list_sessions(state: State, caller: Identity | None, request: core_pb2.ListSessionsRequest, now: int) -> Result:
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
    return base64url(b"v1:" + session_id.encode())


def _cursor(token: str) -> str:
    try:
        version, _, cursor = unbase64url(token).decode().partition(":")
    except (MacpSessionError, UnicodeDecodeError):
        version = cursor = ""
    if len(token) > MAX_TOKEN or version != "v1" or not cursor:
        raise MacpRefusedError("INVALID_REQUEST", "INVALID_ARGUMENT: page_token is not a valid continuation token")
    return cursor


# Discovery


def initialize(state: State, caller: Identity | None, request: core_pb2.InitializeRequest, now: int) -> Result:
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


def get_manifest(state: State, caller: Identity | None, request: core_pb2.GetManifestRequest, now: int) -> Result:
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


def list_roots(state: State, caller: Identity | None, request: core_pb2.ListRootsRequest, now: int) -> Result:
    """ListRoots: none, as in the reference runtime."""
    return Result(state, core_pb2.ListRootsResponse())


def what_if_replay(state: State, caller: Identity | None, request: policy_pb2.WhatIfReplayRequest, now: int) -> Result:
    """WhatIfReplay: changes nothing."""
    session = _readable(state, request.session_id, caller)
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

SEMANTICS: Final = SemanticsRev(RUNTIME_NAME, 1)
"""Which rules sessions here are decided by. A new number when a rule changes what a history leads to."""


def get_decision_receipt(
    state: State, caller: Identity | None, request: core_pb2.GetDecisionReceiptRequest, now: int
) -> Result:
    """GetDecisionReceipt: made at the first call, the same ever after."""
    session = _readable(state, request.session_id, caller)
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


def get_receipt_keys(
    state: State, caller: Identity | None, request: core_pb2.GetReceiptKeysRequest, now: int
) -> Result:
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
    "ListModes": registries.list_modes,
    "ListExtModes": registries.list_ext_modes,
    "ListRoots": list_roots,
    "RegisterExtMode": registries.register_ext_mode,
    "UnregisterExtMode": registries.unregister_ext_mode,
    "PromoteMode": registries.promote_mode,
    "RegisterPolicy": registries.register_policy,
    "UnregisterPolicy": registries.unregister_policy,
    "GetPolicy": registries.get_policy,
    "ListPolicies": registries.list_policies,
    "WhatIfReplay": what_if_replay,
    "GetDecisionReceipt": get_decision_receipt,
    "GetReceiptKeys": get_receipt_keys,
}
"""Every unary RPC of the service."""


def answer(state: State, name: str, caller: Identity | None, request: Protobuf, now: int) -> Result:
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
            session_id = cast("core_pb2.GetSessionRequest", request).session_id
            state, events = look(state, session_id, now)
            if name in COUNTED and caller is not None:
                _readable(state, session_id, caller)
                state = state.counting(caller, now)
        state, reply, more = _handler(name)(state, caller, request, now)
    except MacpRefusedError as refusal:
        return Result(state, refusal.as_value(), events)
    return Result(state, reply, (*events, *more))


def _handler(name: str) -> Handler:
    return HANDLERS[name]  # looked up in place, pyright would take each for its own request only


def check_credential(state: State, name: str, caller: Identity | None) -> None:
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
        case PolicyAdded() | PolicyRemoved() if state.settings.policies_read_only:
            return state  # the policies are those given at the start; a session carries its own
        case _:
            return registries.changed(state, one)


def _relogged(state: State, logged: Logged) -> Session:
    entry = logged.entry
    if entry.kind is not Kind.START or entry.envelope is None:
        session = state.sessions[logged.session_id]
        return lifecycle.reapply(session, state.modes.get(session.bound.mode), entry)
    known = state.sessions.get(logged.session_id)
    if known is not None and not known.ended:  # one that was forgotten may have started anew
        raise MacpRefusedError("SESSION_ALREADY_EXISTS", f"session {logged.session_id!r} starts twice")
    policy = logged.policy or DEFAULT
    return lifecycle.replay([entry], state.modes[entry.envelope.mode], policy)
