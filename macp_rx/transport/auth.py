"""Who is calling: credentials, and the sender they speak for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from macp_rx.errors import MacpIdentityMismatchError, MacpSessionError

__all__ = ["AuthConfig", "TokenProvider"]

TokenProvider = Callable[[], "str | Awaitable[str]"]
"""Asked for a token once per call, on the client's clock: a plain function must not block, an async one may wait."""


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """A bearer credential. Its token is never shown in a repr, a log or an error.

    Attributes:
        token: the bearer token, or a provider that is asked for one per call (a JWT that must be renewed).
        sender_hint: sender to write into envelopes; the runtime binds the true one in any case.
        expected_sender: refuse here, before the wire, to speak for anybody else.
    """

    token: str | TokenProvider = field(repr=False)
    sender_hint: str | None = None
    expected_sender: str | None = None

    def __post_init__(self) -> None:
        token: object = self.token  # whatever an untyped caller has handed over, such as an unset environment variable
        if not isinstance(token, str):
            if not callable(token):
                raise MacpSessionError(
                    f"a token is a string, or a function that returns one, not {type(token).__name__}"
                )
        elif not token.strip():
            raise MacpSessionError("an empty token identifies nobody; give the agent's id or its bearer token")
        elif token != token.strip():
            raise MacpSessionError(
                "the token begins or ends with a blank or a line break, as a file's content may; strip it"
            )

    @classmethod
    def for_dev_agent(cls, agent_id: str, *, expected_sender: str | None = None) -> AuthConfig:
        """The dev credential: the runtime takes the bearer value itself as the sender.

        Args:
            agent_id: the agent's id, such as ``coordinator`` or ``agent://planner``.
            expected_sender: sender that messages must name; the agent itself by default.
        """
        return cls(agent_id, sender_hint=agent_id, expected_sender=expected_sender or agent_id)

    @classmethod
    def for_bearer(
        cls, token: str | TokenProvider, *, sender_hint: str | None = None, expected_sender: str | None = None
    ) -> AuthConfig:
        """A bearer token, static or from a provider.

        Args:
            token: the token, or a function (plain or async) that returns a fresh one.
            sender_hint: sender to write into envelopes.
            expected_sender: sender that messages must name.
        """
        return cls(token, sender_hint=sender_hint, expected_sender=expected_sender)

    @property
    def sender(self) -> str:
        """The sender to write into an envelope; empty lets the runtime fill it in from the credential."""
        return self.expected_sender or self.sender_hint or ""

    def check_sender(self, sender: str) -> None:
        """Raises MacpIdentityMismatchError if this credential does not speak for ``sender``."""
        if self.expected_sender and sender and sender != self.expected_sender:
            raise MacpIdentityMismatchError(self.expected_sender, sender)

    def expecting(self, sender: str) -> AuthConfig:
        """The same credential, bound to one sender."""
        return replace(self, expected_sender=sender)
