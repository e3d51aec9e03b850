"""What macp_rx costs, beside its peers in the same run: `python -m benchmarks`.

These machines are noisy, so a figure is a median over interleaved rounds, and what counts is the ratio within a round.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Row", "cpu_rounds", "ratio"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured, with its unit.
        ours: our figure.
        peer: the peer's.
        peer_name: who that is.
        ratio: ours through the peer's, the median of the rounds' ratios; None where a ratio says nothing.
        bar: what was set as the goal, as text.
        holds: whether it is met; None where none was set.
    """

    what: str
    ours: str
    peer: str
    peer_name: str
    ratio: float | None
    bar: str
    holds: bool | None


def cpu_rounds(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of this process for each contestant, per round, in an order that changes from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        contestant()  # warm: imports, code paths, connections of the server
    order = list(contestants)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            began = time.process_time()
            contestants[name]()
            seconds[name].append(time.process_time() - began)
    return seconds


def ratio(ours: list[float], peer: list[float]) -> float:
    """The median of the ratios within each round."""
    return statistics.median(one / other for one, other in zip(ours, peer, strict=True))
