"""How a session is opened, as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self, cast

from macp.v1.core_pb2 import Root, SessionStartPayload

from macp_rx.errors import MacpSessionError
from macp_rx.protocol import jcs
from macp_rx.protocol.canonical import from_json, to_json
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import MULTI_ROUND, STANDARD_MODES, Message
from macp_rx.protocol.validation import validate_required_field, validate_session_start, validate_ttl_ms

__all__ = ["CONFIGURATION_VERSION", "MODE_VERSION", "POLICY_VERSION", "SessionStart"]

MODE_VERSION: Final = "1.0.0"
CONFIGURATION_VERSION: Final = "config.default"
POLICY_VERSION: Final = "policy.default"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStart:
    """What a session is opened with: a value to compare, to store, to vary with ``dataclasses.replace``, to simulate and to run.

    Args:
        mode: the mode's identifier, such as ``macp.mode.decision.v1``.
        intent: what the session is about.
        participants: who may act; the initiator is not one by itself.
        ttl_ms: milliseconds until it expires, 1 to 86,400,000.
        mode_version: version of the mode that messages are bound to.
        configuration_version: version of the configuration.
        policy_version: id of the governance policy.
        context_id: what it belongs to; stored, not interpreted.
        extensions: anything else; the runtime shows the keys, not the values.
        roots: coordination roots; stored, not interpreted.
        max_suspend_ms: how many milliseconds it may be suspended in all; 0 is the runtime's 7 days.

    Raises:
        MacpSessionError: for what the protocol would refuse (`protocol.md` 3.2).
    """

    mode: str
    intent: str
    participants: Sequence[str]
    ttl_ms: int
    mode_version: str = MODE_VERSION
    configuration_version: str = CONFIGURATION_VERSION
    policy_version: str = POLICY_VERSION
    context_id: str = ""
    extensions: Mapping[str, bytes] = field(default_factory=Map[str, bytes])
    roots: Sequence[Root] = field(default=(), hash=False)
    max_suspend_ms: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.participants, str):  # a tuple of it would be its letters
            raise MacpSessionError(f"participants is a collection of names, not one name ({self.participants!r})")
        try:
            object.__setattr__(self, "participants", tuple(self.participants))
            object.__setattr__(self, "extensions", Map(dict(self.extensions)))
            validate_ttl_ms(self.ttl_ms)
            payload = self.message.payload
        except (TypeError, ValueError) as error:
            if isinstance(error, MacpSessionError):
                raise
            raise MacpSessionError(f"a SessionStart cannot say this: {error}") from error
        object.__setattr__(self, "roots", tuple(payload.roots))  # copies: what was handed in may be changed later
        validate_required_field("mode", self.mode)
        if self.mode in (*STANDARD_MODES, MULTI_ROUND):  # of a registered mode the runtime demands nothing but the ttl
            validate_session_start(self.mode, payload)

    @property
    def message(self) -> Message[SessionStartPayload]:
        """It as a message."""
        payload = SessionStartPayload(
            intent=self.intent,
            participants=self.participants,
            mode_version=self.mode_version,
            configuration_version=self.configuration_version,
            policy_version=self.policy_version,
            ttl_ms=self.ttl_ms,
            roots=self.roots,
            context_id=self.context_id,
            extensions=self.extensions,
            max_suspend_ms=self.max_suspend_ms,
        )
        return Message(self.mode, payload)

    @classmethod
    def of(cls, mode: str, payload: SessionStartPayload) -> Self:
        """What a payload says, such as that of the first envelope of a history."""
        return cls(
            mode=mode,
            intent=payload.intent,
            participants=payload.participants,
            ttl_ms=payload.ttl_ms,
            mode_version=payload.mode_version,
            configuration_version=payload.configuration_version,
            policy_version=payload.policy_version,
            context_id=payload.context_id,
            extensions=payload.extensions,
            roots=payload.roots,
            max_suspend_ms=payload.max_suspend_ms,
        )

    def to_json(self) -> str:
        """It as MACP canonical JSON: the payload's members, and ``mode``."""
        return jcs.encode({"mode": self.mode, **to_json(self.message.payload)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote; what is missing has its default.

        Raises:
            MacpSessionError: it is no such JSON, or the protocol would refuse it.
        """
        members = jcs.decode(text)
        said = cast("dict[str, object]", members) if isinstance(members, dict) else {}
        mode = said.get("mode")
        if not isinstance(mode, str):
            raise MacpSessionError('a SessionStart is a JSON object with a "mode", such as "macp.mode.decision.v1"')
        defaults = {
            "mode_version": MODE_VERSION,
            "configuration_version": CONFIGURATION_VERSION,
            "policy_version": POLICY_VERSION,
        }
        return cls.of(mode, from_json({**defaults, **said}, SessionStartPayload))
