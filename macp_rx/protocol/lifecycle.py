"""A session's life: how it starts, what it accepts, how it is suspended and resumed, how it ends (`protocol.md` 3).

A `Session` is a value. `start`, `receive`, `suspend`, `resume`, `cancel` and `expire` make the next one. Each adds an `Entry` to
the session's log, and `replay` makes the session again from such a log: that is what a restart does, and what a what-if
replay does under another policy. Time is the argument ``now``, in Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, NamedTuple

from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope, SessionState

from macp_rx.errors import MacpRefusedError, MacpSessionError
from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.commitment import may_commit
from macp_rx.protocol.link import Link
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import HANDOFF, MACP_VERSION, MULTI_ROUND
from macp_rx.protocol.modes import Registered, handoff, multi_round
from macp_rx.protocol.modes.passthrough import Passthrough
from macp_rx.protocol.policy import DEFAULT, Policy
from macp_rx.protocol.refusals import decoded, invalid
from macp_rx.protocol.validation import (
    is_blank,
    is_session_id,
    validate_session_start,
    validate_ttl_ms,
)

__all__ = [
    "AMBIENT",
    "CANCELLED",
    "EXPIRED",
    "OPEN",
    "RESOLVED",
    "SUSPENDED",
    "Activity",
    "Entry",
    "Kind",
    "Session",
    "apply",
    "cancel",
    "check_ambient",
    "check_shape",
    "compact",
    "due",
    "expire",
    "expire_if_due",
    "may_control",
    "may_read",
    "metadata",
    "next_deadline",
    "reapply",
    "receive",
    "replay",
    "resume",
    "start",
    "suspend",
    "synthesize",
]

OPEN: Final = SessionState.SESSION_STATE_OPEN
RESOLVED: Final = SessionState.SESSION_STATE_RESOLVED
EXPIRED: Final = SessionState.SESSION_STATE_EXPIRED
SUSPENDED: Final = SessionState.SESSION_STATE_SUSPENDED
CANCELLED: Final = SessionState.SESSION_STATE_CANCELLED

DEFAULT_MAX_SUSPEND_MS: Final = 7 * 86_400_000
MAX_SUSPENSIONS: Final = 1024
MAX_INT64: Final = 2**63 - 1
AMBIENT: Final = frozenset({"Signal", "Progress"})


class Kind(Enum):
    """What an entry of a session's log says. Only the first three are envelopes, and take a sequence (`protocol.md` 3.6)."""

    START = "start"
    MESSAGE = "message"
    SYNTHETIC = "synthetic"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Entry(NamedTuple):
    """One thing that happened to a session.

    Attributes:
        kind: what.
        at: when it was accepted, Unix milliseconds of the runtime's clock.
        envelope: what was said, if that is what happened; payload bytes as received.
    """

    kind: Kind
    at: int
    envelope: Envelope | None = None


class Activity(NamedTuple):
    """What one sender did in a session.

    Attributes:
        last_message_at: Unix milliseconds.
        messages: accepted messages, the SessionStart not among them.
    """

    last_message_at: int
    messages: int


@dataclass(frozen=True, slots=True)
class Session:
    """A session as the runtime knows it.

    Attributes:
        bound: what it is bound to from its start.
        start: the SessionStart's payload.
        started_at: when it was accepted, Unix milliseconds.
        expires_at: its deadline; moves when it is resumed.
        state: OPEN, SUSPENDED, or one of the three ends.
        mode_state: what was accepted, as the mode sees it.
        accepted: how many envelopes were accepted; the last one's sequence.
        log: what happened, oldest first, as a list that shares structure; None once it is compacted.
        message_ids: ids of accepted messages: an id is never accepted twice.
        activity: sender -> what it did.
        suspended_at: since when it is suspended.
        pauses: (from, to) of each completed suspension.
        suspended_ms: how long those were, in all.
        resolution: what resolved it: the commitment as received, in the standard modes.
        receipt: its decision receipt, once one was issued: the same for ever.
    """

    bound: Binding
    start: core_pb2.SessionStartPayload
    started_at: int
    expires_at: int
    state: SessionState.ValueType
    mode_state: Any
    accepted: int
    log: Link[Entry] | None
    message_ids: Map[str, None]
    activity: Map[str, Activity] = field(default_factory=Map[str, Activity])
    suspended_at: int = 0
    pauses: tuple[tuple[int, int], ...] = ()
    suspended_ms: int = 0
    resolution: bytes = b""
    receipt: str = ""

    @property
    def session_id(self) -> str:
        """Its id."""
        return self.bound.session_id

    @property
    def ended(self) -> bool:
        """Whether it is RESOLVED, EXPIRED or CANCELLED, which it stays."""
        return self.state in (RESOLVED, EXPIRED, CANCELLED)

    @property
    def compacted(self) -> int:
        """How many of its envelopes the log no longer holds: none or, of a session that has ended, all."""
        return self.accepted if self.log is None else 0

    @property
    def newest(self) -> Entry:
        """What happened last."""
        assert self.log is not None
        return self.log.item


def check_shape(envelope: Envelope, max_payload_bytes: int) -> None:
    """Raises MacpRefusedError for an envelope that is refused whoever sends it (`protocol.md` 2.1, 2)."""
    if envelope.macp_version != MACP_VERSION:
        raise MacpRefusedError("UNSUPPORTED_PROTOCOL_VERSION", f"macp_version {envelope.macp_version!r} is not '1.0'")
    if not envelope.message_type or not envelope.message_id:
        raise invalid("message_type and message_id must not be empty")
    has_session, has_mode = bool(envelope.session_id), not is_blank(envelope.mode)
    if envelope.message_type == "Signal":
        fits = not has_session and not has_mode
    elif envelope.message_type == "Progress":
        fits = has_session == has_mode
    else:
        fits = has_session and has_mode
    if not fits:
        raise invalid(f"session_id and mode do not fit a {envelope.message_type}")
    if len(envelope.payload) > max_payload_bytes:
        raise MacpRefusedError("PAYLOAD_TOO_LARGE", f"the payload exceeds {max_payload_bytes} bytes")


def start(
    envelope: Envelope,
    now: int,
    *,
    known: Session | None = None,
    mode: Registered | None,
    policies: Mapping[str, Policy],
) -> Session:
    """The session that a SessionStart opens, after every check of `protocol.md` 3.2 in its order.

    Args:
        envelope: a SessionStart of the right shape, its sender bound.
        now: Unix milliseconds.
        known: the session that has this id already. If it accepted this very message id, it is returned as it is.
        mode: what its mode is registered as; None if it is not.
        policies: policy id -> policy, as the registry has them now.

    Raises:
        MacpRefusedError: what it breaks.
    """
    if not is_session_id(envelope.session_id):
        raise MacpRefusedError("INVALID_SESSION_ID", f"{envelope.session_id!r} is no session id")
    if mode is None:
        raise MacpRefusedError("MODE_NOT_SUPPORTED", f"mode {envelope.mode!r} is not served here")
    if not envelope.sender:
        raise invalid("a SessionStart needs a sender")
    payload = _start_payload(envelope)
    try:
        if mode.strict:
            validate_session_start(envelope.mode, payload)
        else:
            validate_ttl_ms(payload.ttl_ms)
    except MacpSessionError as error:
        raise invalid(str(error)) from None
    version = mode.descriptor.mode_version
    if payload.mode_version and payload.mode_version != version:
        raise invalid(f"mode_version {payload.mode_version!r} is not served; {version!r} is")
    if known is not None:
        if envelope.message_id in known.message_ids:
            return known
        raise MacpRefusedError("SESSION_ALREADY_EXISTS", f"session {envelope.session_id!r} exists already")
    policy = policies.get(payload.policy_version or DEFAULT.policy_id)
    if policy is None:
        raise MacpRefusedError("UNKNOWN_POLICY_VERSION", f"there is no policy {payload.policy_version!r}")
    session = _opened(envelope, payload, now, mode, policy)
    if envelope.mode == HANDOFF:
        handoff.check_client(envelope)
    return session


def _opened(
    envelope: Envelope, payload: core_pb2.SessionStartPayload, now: int, mode: Registered, policy: Policy
) -> Session:
    if policy.mode not in ("*", envelope.mode):
        raise MacpRefusedError("INVALID_POLICY_DEFINITION", f"policy {policy.policy_id!r} is for {policy.mode!r}")
    bound = Binding(
        session_id=envelope.session_id,
        mode=envelope.mode,
        initiator=envelope.sender,
        participants=tuple(payload.participants),
        mode_version=payload.mode_version or mode.descriptor.mode_version,
        configuration_version=payload.configuration_version,
        policy=policy,
    )
    stamped = envelope.timestamp_unix_ms  # the client's clock is the deadline's base, if it says anything
    return Session(
        bound=bound,
        start=payload,
        started_at=now,
        expires_at=min((stamped if stamped > 0 else now) + payload.ttl_ms, MAX_INT64),
        state=OPEN,
        mode_state=mode.mode.initial(bound),
        accepted=1,
        log=Link(Entry(Kind.START, now, envelope), None),
        message_ids=Map[str, None]({envelope.message_id: None}),
    )


def _start_payload(envelope: Envelope) -> core_pb2.SessionStartPayload:
    if not envelope.payload:
        raise invalid("a SessionStart needs a payload")
    return decoded(envelope.payload, core_pb2.SessionStartPayload)


def receive(
    session: Session, mode: Registered | None, envelope: Envelope, now: int
) -> tuple[Session, MacpRefusedError | None]:
    """The session after a message came, in the order of `protocol.md` 3.4 from the dedupe on.

    A refused message may have changed the session all the same: whoever looks finds out that it has expired, or that a handoff
    was accepted because nobody answered.

    Args:
        session: the session as it is.
        mode: what its mode is registered as; None if it no longer is.
        envelope: a message of the right shape, its sender bound.
        now: Unix milliseconds.

    Returns:
        The session, and why the message was refused, if it was: then its id stays free. The same session and no refusal for
        a message id that was accepted before, whoever sends it and whatever else it says.
    """
    if envelope.message_id in session.message_ids:
        return session, None
    try:
        if envelope.mode != session.bound.mode:
            raise invalid(f"the session's mode is {session.bound.mode!r}, not {envelope.mode!r}")
        session = expire_if_due(session, now)
        if session.state != OPEN:
            raise MacpRefusedError("SESSION_NOT_OPEN", f"the session is {SessionState.Name(session.state)}")
        if mode is None:
            raise MacpRefusedError("MODE_NOT_SUPPORTED", f"mode {session.bound.mode!r} is no longer served here")
        mode.mode.authorize(session.bound, envelope.sender, envelope.message_type)
        if envelope.mode == HANDOFF:
            handoff.check_client(envelope)
            session = synthesize(session, mode, now)
        return apply(session, mode, Entry(Kind.MESSAGE, now, envelope)), None
    except MacpRefusedError as refusal:
        return session, refusal.as_value()


def synthesize(session: Session, mode: Registered, now: int) -> Session:
    """The session with what the runtime itself has to say by now: a handoff that nobody answered in time is accepted.

    The same object if there is nothing.
    """
    if session.bound.mode != HANDOFF or session.state != OPEN:
        return session
    instant = Instant(now, session.suspended_ms)
    envelope = handoff.implicit_accept(session.bound, session.mode_state, instant, session.pauses)
    if envelope is None:
        return session
    return apply(session, mode, Entry(Kind.SYNTHETIC, envelope.timestamp_unix_ms, envelope))


def next_deadline(session: Session) -> int | None:
    """When something happens to the session by itself, Unix milliseconds: its expiry, or an implicit accept; None if never.

    Earlier than in the reference runtime, which sweeps once a minute, and a suspended session never (`protocol.md` 3.3).
    """
    if session.state == SUSPENDED:
        return session.suspended_at + _max_suspend(session) - session.suspended_ms + 1
    if session.state != OPEN:
        return None
    expiry = session.expires_at + 1  # the deadline itself is still in time
    if session.bound.mode != HANDOFF:
        return expiry
    accepted = handoff.implicit_accept_at(session.bound, session.mode_state, session.pauses)
    return expiry if accepted is None else min(expiry, accepted)


def reapply(session: Session, mode: Registered | None, entry: Entry) -> Session:
    """The session after one entry of a log: what `apply` does, after who said it was authorized again."""
    envelope = entry.envelope
    if envelope is None:
        return _LIFECYCLE[entry.kind](session, entry.at)
    if mode is None:
        raise MacpRefusedError("MODE_NOT_SUPPORTED", f"mode {session.bound.mode!r} is no longer served here")
    if entry.kind is Kind.MESSAGE:
        mode.mode.authorize(session.bound, envelope.sender, envelope.message_type)
    return apply(session, mode, entry)


def apply(session: Session, mode: Registered, entry: Entry) -> Session:
    """The session after one more envelope, whose sender is authorized. Raises MacpRefusedError for what the mode refuses."""
    envelope = entry.envelope
    assert envelope is not None
    mode_state = mode.mode.step(session.bound, session.mode_state, envelope, Instant(entry.at, session.suspended_ms))
    activity = session.activity
    if entry.kind is Kind.MESSAGE:
        sender = envelope.sender
        before = activity.get(sender)
        activity = activity.set(sender, Activity(entry.at, before.messages + 1 if before else 1))
    commits = envelope.message_type == "Commitment"
    # in one piece, not by replace(): this is the way of every message, and costs a third of it
    return Session(
        session.bound,
        session.start,
        session.started_at,
        session.expires_at,
        RESOLVED if commits else session.state,
        mode_state,
        session.accepted + 1,
        Link(entry, session.log),
        session.message_ids.set(envelope.message_id, None),
        activity,
        session.suspended_at,
        session.pauses,
        session.suspended_ms,
        _resolution(mode, mode_state, envelope) if commits else b"",
        session.receipt,
    )


def _resolution(mode: Registered, mode_state: Any, envelope: Envelope) -> bytes:
    if isinstance(mode.mode, Passthrough):
        return mode.mode.resolution(mode_state)
    return multi_round.resolution(mode_state) if envelope.mode == MULTI_ROUND else envelope.payload


def replay(entries: Iterable[Entry], mode: Registered, policy: Policy) -> Session:
    """The session that a log made, from its SessionStart on: every message is judged again, at the time it was accepted.

    Args:
        entries: the log, oldest first.
        mode: what its mode is registered as.
        policy: the policy that the session is bound to.

    Raises:
        MacpRefusedError: the log holds what its own rules refuse.
    """
    log = iter(entries)
    first = next(log)
    assert first.envelope is not None
    session = _opened(first.envelope, _start_payload(first.envelope), first.at, mode, policy)
    for entry in log:
        session = reapply(session, mode, entry)
    return session


def due(session: Session, now: int) -> bool:
    """Whether a deadline has passed: of its life while it is open, of its suspension while it is suspended."""
    if session.state == OPEN:
        return now > session.expires_at
    if session.state == SUSPENDED:
        return session.suspended_ms + max(0, now - session.suspended_at) > _max_suspend(session)
    return False


def expire_if_due(session: Session, now: int) -> Session:
    """The session, expired if its deadline has passed: a runtime finds out when it looks."""
    return expire(session, now) if due(session, now) else session


def expire(session: Session, now: int) -> Session:
    """The session, expired."""
    return replace(session, state=EXPIRED, log=Link(Entry(Kind.EXPIRED, now), session.log))


def cancel(session: Session, now: int) -> Session:
    """The session, cancelled; as it is if it has ended already."""
    if session.ended:
        return session
    return replace(session, state=CANCELLED, log=Link(Entry(Kind.CANCELLED, now), session.log))


def suspend(session: Session, now: int) -> Session:
    """The session, suspended: it accepts nothing, and its deadline stands still. Raises SESSION_NOT_OPEN."""
    if session.state != OPEN:
        raise MacpRefusedError("SESSION_NOT_OPEN", "only an open session can be suspended")
    return replace(session, state=SUSPENDED, suspended_at=now, log=Link(Entry(Kind.SUSPENDED, now), session.log))


def resume(session: Session, now: int) -> Session:
    """The session, open again, its deadline moved by the pause; expired beyond the caps. Raises SESSION_NOT_OPEN."""
    if session.state != SUSPENDED:
        raise MacpRefusedError("SESSION_NOT_OPEN", "only a suspended session can be resumed")
    paused = max(0, now - session.suspended_at)
    pauses, total = (*session.pauses, (session.suspended_at, now)), session.suspended_ms + paused
    over = len(pauses) > MAX_SUSPENSIONS or total > _max_suspend(session)
    return replace(
        session,
        state=EXPIRED if over else OPEN,
        expires_at=session.expires_at if over else min(session.expires_at + paused, MAX_INT64),
        suspended_at=0,
        pauses=pauses,
        suspended_ms=total,
        log=Link(Entry(Kind.RESUMED, now), session.log),
    )


_LIFECYCLE: Final = {Kind.SUSPENDED: suspend, Kind.RESUMED: resume, Kind.CANCELLED: cancel, Kind.EXPIRED: expire}


def compact(session: Session) -> Session:
    """A session that has ended, without its history: what it came to is kept, how is not."""
    return replace(session, log=None)


def _max_suspend(session: Session) -> int:
    return session.start.max_suspend_ms if session.start.max_suspend_ms > 0 else DEFAULT_MAX_SUSPEND_MS


def may_read(session: Session, sender: str) -> bool:
    """Whether ``sender`` may read the session: its initiator and its participants."""
    return sender == session.bound.initiator or sender in session.bound.participants


def may_control(session: Session, sender: str) -> bool:
    """Whether ``sender`` may cancel, suspend and resume: the initiator, and whoever may commit."""
    return sender == session.bound.initiator or may_commit(session.bound, sender)


def metadata(session: Session) -> core_pb2.SessionMetadata:
    """The session as GetSession, ListSessions and WatchSessions show it."""
    return core_pb2.SessionMetadata(
        session_id=session.session_id,
        mode=session.bound.mode,
        state=session.state,
        started_at_unix_ms=session.started_at,
        expires_at_unix_ms=session.expires_at,
        mode_version=session.bound.mode_version,
        configuration_version=session.bound.configuration_version,
        policy_version=session.bound.policy.policy_id,
        participants=session.bound.participants,
        participant_activity=[
            core_pb2.ParticipantActivity(
                participant_id=sender, last_message_at_unix_ms=activity.last_message_at, message_count=activity.messages
            )
            for sender, activity in sorted(session.activity.items())
        ],
        initiator=session.bound.initiator,
        context_id=session.start.context_id,
        extension_keys=sorted(session.start.extensions),
    )


def check_ambient(envelope: Envelope) -> None:
    """Raises MacpRefusedError for a Signal or Progress whose payload does not decode or says nothing (2.5)."""
    if not envelope.payload:
        return
    if envelope.message_type == "Progress":
        decoded(envelope.payload, core_pb2.ProgressPayload)
    elif is_blank(decoded(envelope.payload, core_pb2.SignalPayload).signal_type):
        raise invalid("signal_type must not be blank")
