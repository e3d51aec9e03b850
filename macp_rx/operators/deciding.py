"""What the deciding operators say: a `Verdict`, or `UNDECIDED`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from macp_rx.operators.tally import Count

__all__ = ["UNDECIDED", "Undecided", "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision about one proposal that no remaining vote can change.

    Attributes:
        proposal_id: what was decided about.
        positive: for it, or not.
        reason: why, for people.
        tally: the votes when it was decided.
    """

    proposal_id: str
    positive: bool
    reason: str
    tally: Count


class Undecided(Enum):
    """No verdict in time."""

    UNDECIDED = "undecided"


UNDECIDED: Final = Undecided.UNDECIDED
"""What ``within(seconds, otherwise=UNDECIDED)`` says when no verdict came in time."""
