"""One mode, one file: its messages, its frozen `State`, its rules. Every file has the shape of `Mode`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from macp.v1.envelope_pb2 import Envelope

from macp_rx.protocol.commitment import Bound
from macp_rx.protocol.modes import decision, handoff, multi_round, proposal, quorum, task

__all__ = ["MODES", "Mode"]


class Mode(Protocol):
    """What a session needs of its mode; each of the modules beside this one is such a mode."""

    @property
    def MODE(self) -> str:  # noqa: N802 - a module's constant
        """Its identifier."""
        ...

    @property
    def DETERMINISM_CLASS(self) -> str:  # noqa: N802
        """How far its outcome follows from its history, as ListModes tells it."""
        ...

    @property
    def PARTICIPANT_MODEL(self) -> str:  # noqa: N802
        """How participants relate, as ListModes tells it."""
        ...

    @property
    def MESSAGE_TYPES(self) -> tuple[str, ...]:  # noqa: N802
        """Its message types between SessionStart and Commitment."""
        ...

    def initial(self, session: Bound) -> Any:
        """The state at the start. Raises MacpRefusedError INVALID_ENVELOPE for a roster that the mode refuses."""

    def authorize(self, session: Bound, sender: str, message_type: str) -> None:
        """Raises MacpRefusedError FORBIDDEN unless ``sender`` may say this."""

    def step(self, session: Bound, state: Any, envelope: Envelope) -> Any:
        """The state after one more message of an authorized sender. Raises MacpRefusedError for what it breaks."""

    def as_json(self, state: Any) -> dict[str, object]:
        """The state as the reference runtime keeps it (`protocol.md` 4), for conformance fixtures."""
        ...


# pyright checks that each module is a Mode; mypy takes no Final constant for a read-only property
MODES: Final[Mapping[str, Mode]] = {
    decision.MODE: decision,  # type: ignore[dict-item]
    proposal.MODE: proposal,  # type: ignore[dict-item]
    task.MODE: task,  # type: ignore[dict-item]
    handoff.MODE: handoff,  # type: ignore[dict-item]
    quorum.MODE: quorum,  # type: ignore[dict-item]
    multi_round.MODE: multi_round,  # type: ignore[dict-item]
}
"""Every mode that is built in: the five of the standards track, then ``ext.multi_round.v1``."""
