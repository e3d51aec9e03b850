"""Who calls a runtime, what they may do, and how much of it (`protocol.md` 8)."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from macp.v1.envelope_pb2 import Envelope

from macp_rx.errors import MacpRefusedError, MacpSessionError

__all__ = ["Caller", "Identify", "Identity", "Rates", "dev_identity", "static_tokens"]

WINDOW_MS: Final = 60_000
CROWD: Final = 10_000
"""Beyond so many senders those who were silent for a minute are forgotten: in development mode anybody may invent senders."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a credential speaks for, and what it allows.

    Attributes:
        sender: who.
        allowed_modes: the modes it may speak in; None is all. With a set, it cannot send ambient signals either.
        can_start_sessions: it may open sessions.
        max_open_sessions: so many at once; None is no limit.
        can_manage_mode_registry: it may change the registries of modes and of policies.
        is_observer: it may read every session, and act in none that does not name it.
    """

    sender: str
    allowed_modes: frozenset[str] | None = None
    can_start_sessions: bool = True
    max_open_sessions: int | None = None
    can_manage_mode_registry: bool = False
    is_observer: bool = False


Identify = Callable[[str], Identity | None]
"""Whom a token speaks for; None for a token that nobody has."""


def dev_identity(token: str) -> Identity:
    """Development mode: the token itself is the sender, and may do everything but observe."""
    return Identity(token, can_manage_mode_registry=True)


def static_tokens(text: str) -> Identify:
    """Tokens from a file: a JSON list, or an object with such a list under ``tokens``, in the reference runtime's format.

    Args:
        text: the file's content. A token that is listed twice counts as it stands last; one with a dot would be a JWT
            to the reference runtime, which never looks it up.

    Raises:
        MacpSessionError: it is not of that form; the text says which entry.
    """
    try:
        read: object = json.loads(text)
    except ValueError as error:
        raise MacpSessionError(f"the tokens are no JSON: {error}") from None
    entries: object = cast("dict[str, object]", read).get("tokens") if isinstance(read, dict) else read
    if not isinstance(entries, list):
        raise MacpSessionError('the tokens must be a JSON list, or {"tokens": [...]}')
    known = dict(_entry(number, entry) for number, entry in enumerate(cast("list[object]", entries)))

    def identify(token: str) -> Identity | None:
        return None if "." in token else known.get(token)

    return identify


def _entry(number: int, entry: object) -> tuple[str, Identity]:
    def expect(key: str, kind: type, default: object) -> object:
        value = given.get(key, default)
        if value is not default and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
            # the value is not shown: it may be a secret in the wrong place
            raise MacpSessionError(f"tokens[{number}].{key} must be of type {kind.__name__}")
        return value

    if not isinstance(entry, dict):
        raise MacpSessionError(f"tokens[{number}] must be an object")
    given = cast("dict[str, object]", entry)
    token, sender = expect("token", str, ""), expect("sender", str, "")
    if not token or not sender:
        raise MacpSessionError(f"tokens[{number}] needs a token and a sender")
    modes = cast("list[object]", expect("allowed_modes", list, None) or [])
    if not all(isinstance(mode, str) for mode in modes):
        raise MacpSessionError(f"tokens[{number}].allowed_modes must be a list of strings")
    identity = Identity(
        cast("str", sender),
        allowed_modes=frozenset(cast("list[str]", modes)) or None,  # an empty list allows all
        can_start_sessions=cast("bool", expect("can_start_sessions", bool, True)),
        max_open_sessions=cast("int | None", expect("max_open_sessions", int, None)),
        can_manage_mode_registry=cast("bool", expect("can_manage_mode_registry", bool, False)),
        is_observer=cast("bool", expect("is_observer", bool, False)),
    )
    return cast("str", token), identity


class Rates:
    """How much each sender may say in a minute: sessions started, and other messages, each in a sliding window.

    Args:
        starts: sessions a minute; None is no limit.
        messages: other messages a minute, what-if replays and receipts among them; None is no limit.
    """

    def __init__(self, starts: int | None, messages: int | None) -> None:
        self._limits: Mapping[bool, int | None] = {True: starts, False: messages}
        self._windows: dict[tuple[str, bool], deque[int]] = {}

    def take(self, sender: str, *, starts: bool, now: int) -> None:
        """Counts one request. Raises RATE_LIMITED, which counts nothing."""
        limit = self._limits[starts]
        if limit is None:
            return
        if len(self._windows) > CROWD:
            self._windows = {
                key: times for key, times in self._windows.items() if times and times[-1] > now - WINDOW_MS
            }
        times = self._windows.setdefault((sender, starts), deque())
        while times and times[0] <= now - WINDOW_MS:
            times.popleft()
        if len(times) >= limit:
            what = "sessions started" if starts else "messages"
            raise MacpRefusedError("RATE_LIMITED", f"{limit} {what} a minute is the limit for {sender!r}")
        times.append(now)


@dataclass(frozen=True, slots=True)
class Caller:
    """An identity that makes a call, with what it has left to say.

    Attributes:
        identity: who.
        rates: counts what everybody says.
    """

    identity: Identity
    rates: Rates

    @property
    def sender(self) -> str:
        """Whom it speaks for."""
        return self.identity.sender

    def bind(self, envelope: Envelope) -> Envelope:
        """The envelope with its sender filled in. Raises UNAUTHENTICATED for one that names somebody else."""
        if envelope.sender == self.sender:
            return envelope
        if envelope.sender:
            raise MacpRefusedError(
                "UNAUTHENTICATED", f"the credential speaks for {self.sender!r}, not for {envelope.sender!r}"
            )
        bound = Envelope()
        bound.CopyFrom(envelope)
        bound.sender = self.sender
        return bound

    def check_may(self, envelope: Envelope) -> None:
        """Raises FORBIDDEN for a mode that the credential does not allow, or a session that it may not start."""
        identity = self.identity
        if envelope.message_type == "SessionStart" and not identity.can_start_sessions:
            raise MacpRefusedError("FORBIDDEN", f"{self.sender!r} may not start sessions")
        if identity.allowed_modes is not None and envelope.mode not in identity.allowed_modes:
            raise MacpRefusedError("FORBIDDEN", f"{self.sender!r} may not speak in mode {envelope.mode!r}")

    def check_manages(self) -> None:
        """Raises FORBIDDEN without the right to change the registries."""
        if not self.identity.can_manage_mode_registry:
            raise MacpRefusedError("FORBIDDEN", f"{self.sender!r} may not change the registries")

    def take(self, now: int, *, starts: bool = False) -> None:
        """Counts one request. Raises RATE_LIMITED."""
        self.rates.take(self.sender, starts=starts, now=now)
