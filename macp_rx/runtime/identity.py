"""Who calls a runtime, what they may do, and how much of it (`protocol.md` 8)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, cast

from macp.v1.envelope_pb2 import Envelope

from macp_rx.errors import MacpRefusedError, MacpSessionError
from macp_rx.protocol.map import Map

__all__ = ["Identify", "Identity", "Rates", "dev_identity", "static_tokens"]

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
        if envelope.message_type == "SessionStart" and not self.can_start_sessions:
            raise MacpRefusedError("FORBIDDEN", f"{self.sender!r} may not start sessions")
        if self.allowed_modes is not None and envelope.mode not in self.allowed_modes:
            raise MacpRefusedError("FORBIDDEN", f"{self.sender!r} may not speak in mode {envelope.mode!r}")

    def check_manages(self) -> None:
        """Raises FORBIDDEN without the right to change the registries."""
        if not self.can_manage_mode_registry:
            raise MacpRefusedError("FORBIDDEN", f"{self.sender!r} may not change the registries")


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


class _Window(NamedTuple):
    """When somebody spoke within the last minute: a queue that costs the same however long it is.

    Attributes:
        times: a number that grows by one with each request -> when it came, in Unix milliseconds.
        first: the number of the oldest.
    """

    times: Map[int, int] = Map()
    first: int = 0

    def since(self, moment: int) -> _Window:
        times, first = self
        while times and times[first] <= moment:
            times, first = times.delete(first), first + 1
        return self if first == self.first else _Window(times, first)

    def and_at(self, moment: int) -> _Window:
        return _Window(self.times.set(self.first + len(self.times), moment), self.first)


@dataclass(frozen=True, slots=True)
class Rates:
    """How much each sender has said within a minute, in sliding windows of its own. A value."""

    _windows: Map[tuple[str, bool], _Window] = field(default_factory=Map[tuple[str, bool], _Window])

    def counting(self, sender: str, limit: int, now: int, *, starts: bool = False) -> Rates:
        """These with one request more.

        Args:
            sender: whose.
            limit: how many a minute are allowed.
            now: Unix milliseconds.
            starts: it starts a session, which is counted apart.

        Raises:
            MacpRefusedError: RATE_LIMITED; what is refused does not count.
        """
        moment, key = now - WINDOW_MS, (sender, starts)
        window = self._windows.get(key, _Window()).since(moment)
        if len(window.times) >= limit:
            what = "sessions started" if starts else "messages"
            raise MacpRefusedError("RATE_LIMITED", f"{limit} {what} a minute is the limit for {sender!r}")
        windows = self._windows
        if len(windows) > CROWD:
            windows = Map[tuple[str, bool], _Window](
                {who: said for who, said in windows.items() if said.since(moment).times}
            )
        return Rates(windows.set(key, window.and_at(now)))
