"""One mode, one file: its messages, its frozen `State`, its rules. Every file has the shape of `Mode`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from macp.v1.core_pb2 import ModeDescriptor
from macp.v1.envelope_pb2 import Envelope

from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.messages import STANDARD_MODES
from macp_rx.protocol.modes import decision, handoff, multi_round, proposal, quorum, task

__all__ = ["MODES", "Mode", "Registered"]


class Mode(Protocol):
    """What a session needs of its mode; each of the modules beside this one is such a mode."""

    @property
    def MODE(self) -> str:  # noqa: N802 - a module's constant
        """Its identifier."""
        ...

    @property
    def TITLE(self) -> str:  # noqa: N802
        """Its name, for people."""
        ...

    @property
    def DESCRIPTION(self) -> str:  # noqa: N802
        """What it is for, for people."""
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

    def initial(self, session: Binding) -> Any:
        """The state at the start. Raises MacpRefusedError INVALID_ENVELOPE for a roster that the mode refuses."""

    def authorize(self, session: Binding, sender: str, message_type: str) -> None:
        """Raises MacpRefusedError FORBIDDEN unless ``sender`` may say this."""

    def step(self, session: Binding, state: Any, envelope: Envelope, at: Instant) -> Any:
        """The state after one more message of an authorized sender. Raises MacpRefusedError for what it breaks."""

    def as_json(self, state: Any) -> dict[str, object]:
        """The state as the reference runtime keeps it (`protocol.md` 4), for conformance fixtures."""
        ...


@dataclass(frozen=True, slots=True)
class Registered:
    """A mode as a registry has it.

    Attributes:
        mode: its rules.
        descriptor: what ListModes tells of it.
        standards_track: ListModes shows it, not ListExtModes.
        built_in: it cannot be removed.
    """

    mode: Mode
    descriptor: ModeDescriptor
    standards_track: bool = False
    built_in: bool = False

    @property
    def strict(self) -> bool:
        """Whether a SessionStart must fulfil the whole contract of `protocol.md` 3.2, 6."""
        return self.built_in or self.standards_track


def _built_in(mode: Mode) -> Registered:
    descriptor = ModeDescriptor(
        mode=mode.MODE,
        mode_version="1.0.0",
        title=mode.TITLE,
        description=mode.DESCRIPTION,
        determinism_class=mode.DETERMINISM_CLASS,
        participant_model=mode.PARTICIPANT_MODEL,
        message_types=["SessionStart", *mode.MESSAGE_TYPES, "Commitment"],
        terminal_message_types=["Commitment"],
        schema_uris={"protobuf": "buf.build/multiagentcoordinationprotocol/macp"},
    )
    return Registered(mode, descriptor, standards_track=mode.MODE in STANDARD_MODES, built_in=True)


# pyright checks that each module is a Mode; mypy takes no Final constant for a read-only property
MODES: Final[Mapping[str, Registered]] = {
    registered.descriptor.mode: registered
    for registered in (
        _built_in(decision),  # type: ignore[arg-type]
        _built_in(proposal),  # type: ignore[arg-type]
        _built_in(task),  # type: ignore[arg-type]
        _built_in(handoff),  # type: ignore[arg-type]
        _built_in(quorum),  # type: ignore[arg-type]
        _built_in(multi_round),  # type: ignore[arg-type]
    )
}
"""Every mode that is built in: the five of the standards track, then ``ext.multi_round.v1``."""
