"""StreamSession, the server's side: frames in, a feed out (`protocol.md` 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope

from macp_rx.errors import MacpRefusedError
from macp_rx.protocol import lifecycle
from macp_rx.protocol.validation import is_blank
from macp_rx.runtime import kernel
from macp_rx.runtime.feeds import SessionFeed
from macp_rx.runtime.identity import Identity

if TYPE_CHECKING:
    from macp_rx.runtime.runtime import Runtime

__all__ = ["SessionCall"]

TERMINAL: Final = frozenset(
    {
        "UNAUTHENTICATED",
        "PAYLOAD_TOO_LARGE",
        "RATE_LIMITED",
        "INTERNAL_ERROR",
        "INVALID_SESSION_ID",
        "INVALID_POLICY_DEFINITION",
        "SESSION_ALREADY_EXISTS",
    }
)
"""Refusals of a frame that end its stream; the others are told inline (`protocol.md` 6.3)."""


class SessionCall:
    """The server's side of one StreamSession call: one caller, one session, frames in, a feed out."""

    def __init__(self, runtime: Runtime, caller: Identity) -> None:
        self.feed: SessionFeed = SessionFeed(lambda session: kernel.may_read(session, caller))
        self._runtime = runtime
        self._caller = caller
        self._bound = ""
        self._following = False

    def frame(self, request: core_pb2.StreamSessionRequest) -> None:
        """Takes one frame. What ends the call ends its feed."""
        if self.feed.ended:
            return
        try:
            self._take(request)
        except MacpRefusedError as refusal:
            self.feed.end(refusal)

    def half_close(self) -> None:
        """The client sends no more: what is held is said, then the call ends with OK."""
        self.feed.end()

    def _take(self, request: core_pb2.StreamSessionRequest) -> None:
        subscribes, speaks = bool(request.subscribe_session_id), request.HasField("envelope")
        if subscribes == speaks:
            raise MacpRefusedError("INVALID_ENVELOPE", "a frame carries an envelope or a subscription, one of them")
        if subscribes:
            self._subscribe(request.subscribe_session_id, request.after_sequence)
        else:
            self._speak(request.envelope)

    def _subscribe(self, session_id: str, after: int) -> None:
        self._check_bound(session_id)
        session = self._runtime.look(session_id)
        if session is None:
            raise MacpRefusedError("SESSION_NOT_FOUND", f"there is no session {session_id!r}")
        if not kernel.may_read(session, self._caller):
            self._refuse(MacpRefusedError("FORBIDDEN", "the session is not this caller's to read"), "")
            return
        self._follow(session_id, after)

    def _speak(self, envelope: Envelope) -> None:
        settings = self._runtime.state.settings
        try:
            lifecycle.check_shape(envelope, settings.max_payload_bytes)
        except MacpRefusedError as refusal:
            if refusal.code in TERMINAL:
                raise
            self._refuse(refusal, envelope.message_id)
            return
        if is_blank(envelope.session_id) or is_blank(envelope.mode):
            raise MacpRefusedError("INVALID_ENVELOPE", "StreamSession requires a non-empty session_id and mode")
        self._check_bound(envelope.session_id)
        said = self._caller.bind(envelope)
        self._check_open(said)
        refused = self._admit(said)
        if refused is None:
            return
        if refused.code in TERMINAL:
            raise refused
        self._refuse(refused, envelope.message_id)

    def _admit(self, envelope: Envelope) -> MacpRefusedError | None:
        try:
            self._caller.check_may(envelope)
        except MacpRefusedError as refusal:
            return refusal
        self._runtime.count(self._caller, starts=envelope.message_type == "SessionStart")
        session_id = self._bound = envelope.session_id
        before = self._runtime.accepted(session_id)
        session = self._runtime.state.sessions.get(session_id)
        # The stream hears the session from this envelope on, even if it is refused; unless its caller is an outsider. The
        # reference runtime attaches whoever speaks, and so feeds outsiders (`protocol.md` 6.7). Who may read a session that
        # has yet to start is asked when it starts.
        if not self._following and (session is None or kernel.may_read(session, self._caller)):
            self._follow(session_id, before, live=True)
        refused = self._runtime.submit(self._caller, envelope)
        if not self._following and self._runtime.accepted(session_id) > before:
            self._follow(session_id, before, live=True)
        return refused

    def _check_bound(self, session_id: str) -> None:
        if self._bound not in ("", session_id):
            message = "StreamSession may only carry envelopes for one session_id"
            raise MacpRefusedError("INVALID_ENVELOPE", message)

    def _check_open(self, envelope: Envelope) -> None:
        if envelope.message_type == "SessionStart":
            return
        session = self._runtime.look(envelope.session_id)
        if session is None:
            return  # told inline, by the kernel
        if envelope.mode != session.bound.mode:
            raise MacpRefusedError("INVALID_ENVELOPE", f"the session's mode is {session.bound.mode!r}")
        if session.state != lifecycle.OPEN:
            raise MacpRefusedError("INVALID_ENVELOPE", "SESSION_NOT_OPEN")

    def _follow(self, session_id: str, after: int, *, live: bool = False) -> None:
        self._bound = session_id
        self._following = True
        self._runtime.follow(session_id, self.feed, after, live=live)

    def _refuse(self, refusal: MacpRefusedError, message_id: str) -> None:
        self.feed.refuse(kernel.error_of(refusal, self._bound, message_id))
