"""What a session is bound to from its start, and the instant at which something is accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from macp_rx.protocol.policy import Policy

__all__ = ["Binding", "Instant"]


@dataclass(frozen=True, slots=True)
class Binding:
    """What a session is bound to; nothing changes it later.

    Attributes:
        session_id: its id.
        mode: its mode.
        initiator: who started it.
        participants: who may act; the initiator is not one by itself.
        mode_version: version of the mode, which a commitment must repeat.
        configuration_version: version of the configuration, likewise.
        policy: the governance policy as it was at the start; later changes of the registry do not touch it.
    """

    session_id: str
    mode: str
    initiator: str
    participants: tuple[str, ...]
    mode_version: str
    configuration_version: str
    policy: Policy


class Instant(NamedTuple):
    """When something is accepted.

    Attributes:
        now: Unix milliseconds of the runtime's clock.
        suspended_ms: for how long the session had been suspended before, in all.
    """

    now: int
    suspended_ms: int = 0
