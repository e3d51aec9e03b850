"""What the State of every mode answers: whether its session was committed to, and with which sign."""

from __future__ import annotations

from dataclasses import dataclass

from macp.v1.core_pb2 import CommitmentPayload

__all__ = ["Projection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What was accepted in a session, as its mode sees it. A value: a step makes a new one, which shares all that did not change.

    Each mode's State is one, and adds its ``phase`` and what else there is to ask. What needs no argument is an attribute, what
    needs one is a method.

    Attributes:
        commitment: what was committed to; None until then.
    """

    commitment: CommitmentPayload | None = None

    @property
    def is_committed(self) -> bool:
        """Whether it was committed to, which ends the session."""
        return self.commitment is not None

    @property
    def is_positive_outcome(self) -> bool | None:
        """The sign of the commitment; None until there is one."""
        return self.commitment.outcome_positive if self.commitment is not None else None
