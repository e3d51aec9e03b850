"""A session's life: how it starts, what it accepts, how it is suspended and resumed, how it ends (`protocol.md` 3).

A `Session` is a value. `start`, `accept`, `suspend`, `resume`, `cancel` and `expire` make the next one, or raise a
MacpRefusedError and leave the old one as it was. Time is the argument ``now``, in Unix milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

from google.protobuf.message import DecodeError
from immutables import Map
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope, SessionState

from macp_rx.errors import MacpRefusedError, MacpSessionError
from macp_rx.protocol.commitment import may_commit
from macp_rx.protocol.messages import MACP_VERSION
from macp_rx.protocol.modes import MODES, handoff
from macp_rx.protocol.policy import BUILT_IN, Policy
from macp_rx.protocol.validation import (
    is_session_id,
    validate_required_field,
    validate_session_start,
)

__all__ = [
    "Activity",
    "Session",
    "accept",
    "cancel",
    "check_ambient",
    "check_shape",
    "due",
    "expire",
    "may_control",
    "may_read",
    "metadata",
    "resume",
    "start",
    "suspend",
]

OPEN: Final = SessionState.SESSION_STATE_OPEN
RESOLVED: Final = SessionState.SESSION_STATE_RESOLVED
EXPIRED: Final = SessionState.SESSION_STATE_EXPIRED
SUSPENDED: Final = SessionState.SESSION_STATE_SUSPENDED
CANCELLED: Final = SessionState.SESSION_STATE_CANCELLED

MODE_VERSION: Final = "1.0.0"
DEFAULT_MAX_SUSPEND_MS: Final = 7 * 86_400_000
MAX_SUSPENSIONS: Final = 1024
AMBIENT: Final = frozenset({"Signal", "Progress"})


@dataclass(frozen=True, slots=True)
class Activity:
    """What one sender did in a session.

    Attributes:
        last_message_at: Unix milliseconds.
        count: accepted messages, the SessionStart not among them.
    """

    last_message_at: int
    count: int


@dataclass(frozen=True, slots=True)
class Session:
    """A session as the runtime knows it.

    Attributes:
        session_id: its id.
        mode: its mode.
        initiator: who started it.
        payload: the SessionStart as received.
        policy: the governance policy as it was at the start; later changes of the registry do not touch it.
        started_at: when it was accepted, Unix milliseconds.
        expires_at: its deadline; moves when it is resumed.
        state: OPEN, SUSPENDED, or one of the three ends.
        mode_state: what was accepted, as the mode sees it.
        accepted: how many envelopes were accepted; the last one's sequence.
        message_ids: ids of accepted messages: an id is never accepted twice.
        activity: sender -> what it did.
        suspended_at: since when it is suspended.
        suspended_ms: how long it was suspended before that, in all.
        suspensions: how often it was.
        resolution: the commitment that resolved it, as received.
    """

    session_id: str
    mode: str
    initiator: str
    payload: core_pb2.SessionStartPayload
    policy: Policy
    started_at: int
    expires_at: int
    state: SessionState.ValueType
    mode_state: Any = None
    accepted: int = 1
    message_ids: Map[str, None] = field(default_factory=Map[str, None])
    activity: Map[str, Activity] = field(default_factory=Map[str, Activity])
    suspended_at: int = 0
    suspended_ms: int = 0
    suspensions: int = 0
    resolution: bytes = b""
    participants: tuple[str, ...] = ()

    @property
    def mode_version(self) -> str:
        """Version of the mode that it is bound to."""
        return self.payload.mode_version

    @property
    def configuration_version(self) -> str:
        """Version of the configuration that it is bound to."""
        return self.payload.configuration_version

    @property
    def ended(self) -> bool:
        """Whether it is RESOLVED, EXPIRED or CANCELLED, which it stays."""
        return self.state in (RESOLVED, EXPIRED, CANCELLED)


def check_shape(envelope: Envelope, max_payload_bytes: int) -> None:
    """Raises MacpRefusedError for an envelope that is refused whoever sends it (`protocol.md` 2.1, 2)."""
    if envelope.macp_version != MACP_VERSION:
        raise MacpRefusedError("UNSUPPORTED_PROTOCOL_VERSION", f"macp_version {envelope.macp_version!r} is not '1.0'")
    if not envelope.message_type or not envelope.message_id:
        raise _invalid("message_type and message_id must not be empty")
    has_session, has_mode = bool(envelope.session_id), bool(envelope.mode.strip())
    if envelope.message_type == "Signal":
        fits = not has_session and not has_mode
    elif envelope.message_type == "Progress":
        fits = has_session == has_mode
    else:
        fits = has_session and has_mode
    if not fits:
        raise _invalid(f"session_id and mode do not fit a {envelope.message_type}")
    if len(envelope.payload) > max_payload_bytes:
        raise MacpRefusedError("PAYLOAD_TOO_LARGE", f"the payload exceeds {max_payload_bytes} bytes")


def start(envelope: Envelope, now: int, *, known: Session | None) -> Session:
    """The session that a SessionStart opens, after every check of `protocol.md` 3.2 in its order.

    Args:
        envelope: a SessionStart of the right shape, its sender bound.
        now: Unix milliseconds.
        known: the session that has this id already. If it accepted this very message id, it is returned as it is.

    Raises:
        MacpRefusedError: what it breaks.
    """
    if not is_session_id(envelope.session_id):
        raise MacpRefusedError("INVALID_SESSION_ID", f"{envelope.session_id!r} is no session id")
    mode = MODES.get(envelope.mode)
    if mode is None:
        raise MacpRefusedError("MODE_NOT_SUPPORTED", f"mode {envelope.mode!r} is not served here")
    if not envelope.sender:
        raise _invalid("a SessionStart needs a sender")
    payload = _start_payload(envelope)
    try:
        validate_session_start(envelope.mode, payload)
    except MacpSessionError as error:
        raise _invalid(str(error)) from None
    if payload.mode_version != MODE_VERSION:
        raise _invalid(f"mode_version {payload.mode_version!r} is not served; {MODE_VERSION!r} is")
    if known is not None:
        if envelope.message_id in known.message_ids:
            return known
        raise MacpRefusedError("SESSION_ALREADY_EXISTS", f"session {envelope.session_id!r} exists already")
    policy = BUILT_IN.get(payload.policy_version or "policy.default")
    if policy is None:
        raise MacpRefusedError("UNKNOWN_POLICY_VERSION", f"there is no policy {payload.policy_version!r}")
    if policy.mode not in ("*", envelope.mode):
        raise MacpRefusedError("INVALID_POLICY_DEFINITION", f"policy {policy.policy_id!r} is for {policy.mode!r}")
    stamped = envelope.timestamp_unix_ms  # the client's clock is the deadline's base, if it says anything
    session = Session(
        session_id=envelope.session_id,
        mode=envelope.mode,
        initiator=envelope.sender,
        payload=payload,
        policy=policy,
        started_at=now,
        expires_at=(stamped if stamped > 0 else now) + payload.ttl_ms,
        state=OPEN,
        message_ids=Map[str, None]({envelope.message_id: None}),
        participants=tuple(payload.participants),
    )
    session = replace(session, mode_state=mode.initial(session))
    if envelope.mode == handoff.MODE and envelope.message_id.startswith(handoff.RESERVED):
        raise _invalid(f"message ids that begin with {handoff.RESERVED!r} are the runtime's own")
    return session


def _start_payload(envelope: Envelope) -> core_pb2.SessionStartPayload:
    if not envelope.payload:
        raise _invalid("a SessionStart needs a payload")
    try:
        return core_pb2.SessionStartPayload.FromString(envelope.payload)
    except DecodeError:
        raise _invalid("the payload is no SessionStartPayload") from None


def accept(session: Session, envelope: Envelope, now: int) -> Session:
    """The session after one more message, in the order of `protocol.md` 3.4 from the dedupe on.

    Args:
        session: the session as it is; expire it first if it is `due`.
        envelope: a message of the right shape, its sender bound.
        now: Unix milliseconds.

    Returns:
        The same object for a message id that was accepted before, whoever sends it and whatever else it says.

    Raises:
        MacpRefusedError: what it breaks; the id stays free.
    """
    if envelope.message_id in session.message_ids:
        return session
    if envelope.mode != session.mode:
        raise _invalid(f"the session's mode is {session.mode!r}, not {envelope.mode!r}")
    if session.state != OPEN:
        raise MacpRefusedError("SESSION_NOT_OPEN", SessionState.Name(session.state))
    mode = MODES[session.mode]
    mode.authorize(session, envelope.sender, envelope.message_type)
    mode_state = mode.step(session, session.mode_state, envelope)
    before = session.activity.get(envelope.sender)
    commits = envelope.message_type == "Commitment"
    return replace(
        session,
        state=RESOLVED if commits else session.state,
        resolution=envelope.payload if commits else b"",
        mode_state=mode_state,
        accepted=session.accepted + 1,
        message_ids=session.message_ids.set(envelope.message_id, None),
        activity=session.activity.set(envelope.sender, Activity(now, before.count + 1 if before else 1)),
    )


def due(session: Session, now: int) -> bool:
    """Whether a deadline has passed: of its life while it is open, of its suspension while it is suspended."""
    if session.state == OPEN:
        return now > session.expires_at
    if session.state == SUSPENDED:
        return session.suspended_ms + max(0, now - session.suspended_at) > _max_suspend(session)
    return False


def expire(session: Session) -> Session:
    """The session, expired."""
    return replace(session, state=EXPIRED)


def cancel(session: Session) -> Session:
    """The session, cancelled; as it is if it has ended already."""
    return session if session.ended else replace(session, state=CANCELLED)


def suspend(session: Session, now: int) -> Session:
    """The session, suspended: it accepts nothing, and its deadline stands still. Raises SESSION_NOT_OPEN."""
    if session.state != OPEN:
        raise MacpRefusedError("SESSION_NOT_OPEN", "only an open session can be suspended")
    return replace(session, state=SUSPENDED, suspended_at=now)


def resume(session: Session, now: int) -> Session:
    """The session, open again, its deadline moved by the pause; expired beyond the caps. Raises SESSION_NOT_OPEN."""
    if session.state != SUSPENDED:
        raise MacpRefusedError("SESSION_NOT_OPEN", "only a suspended session can be resumed")
    banked = max(0, now - session.suspended_at)
    total, times = session.suspended_ms + banked, session.suspensions + 1
    over = times > MAX_SUSPENSIONS or total > _max_suspend(session)
    return replace(
        session,
        state=EXPIRED if over else OPEN,
        expires_at=session.expires_at if over else session.expires_at + banked,
        suspended_at=0,
        suspended_ms=total,
        suspensions=times,
    )


def _max_suspend(session: Session) -> int:
    return session.payload.max_suspend_ms or DEFAULT_MAX_SUSPEND_MS


def may_read(session: Session, sender: str) -> bool:
    """Whether ``sender`` may read the session: its initiator and its participants."""
    return sender == session.initiator or sender in session.participants


def may_control(session: Session, sender: str) -> bool:
    """Whether ``sender`` may cancel, suspend and resume: the initiator, and whoever may commit."""
    return sender == session.initiator or may_commit(session, sender)


def metadata(session: Session) -> core_pb2.SessionMetadata:
    """The session as GetSession, ListSessions and WatchSessions show it."""
    return core_pb2.SessionMetadata(
        session_id=session.session_id,
        mode=session.mode,
        state=session.state,
        started_at_unix_ms=session.started_at,
        expires_at_unix_ms=session.expires_at,
        mode_version=session.mode_version,
        configuration_version=session.configuration_version,
        policy_version=session.policy.policy_id,
        participants=session.participants,
        participant_activity=[
            core_pb2.ParticipantActivity(
                participant_id=sender, last_message_at_unix_ms=activity.last_message_at, message_count=activity.count
            )
            for sender, activity in sorted(session.activity.items())
        ],
        initiator=session.initiator,
        context_id=session.payload.context_id,
        extension_keys=sorted(session.payload.extensions),
    )


def _invalid(message: str) -> MacpRefusedError:
    return MacpRefusedError("INVALID_ENVELOPE", message)


def check_ambient(envelope: Envelope) -> None:
    """Raises MacpRefusedError for a Signal or Progress whose payload does not decode or says nothing (2.5)."""
    if not envelope.payload:
        return
    try:
        if envelope.message_type == "Signal":
            validate_required_field("signal_type", core_pb2.SignalPayload.FromString(envelope.payload).signal_type)
        else:
            core_pb2.ProgressPayload.FromString(envelope.payload)
    except (DecodeError, MacpSessionError) as error:
        raise _invalid(str(error)) from None
