"""What macp_rx costs, beside its peers in the same run: `python -m benchmarks`.

These machines are noisy, so a figure is a median over interleaved rounds, and what counts is the ratio within a round.
"""

from __future__ import annotations

import math
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Row", "against", "interval", "measured", "ratio", "timed", "wait_for"]

PATIENCE = 120.0
"""Seconds after which a benchmark that waits has failed, not measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured, with its unit.
        ours: our figure.
        peer: the peer's; empty where there is none.
        peer_name: who that is.
        ratio: ours through the peer's, the median of the rounds' ratios; None where a ratio says nothing.
        bar: what was set as the goal, as text.
        holds: whether it is met; None where none was set.
        spread: 95 % interval of that median; None where it was not taken.
    """

    what: str
    ours: str
    peer: str
    peer_name: str
    ratio: float | None
    bar: str
    holds: bool | None
    spread: tuple[float, float] | None = None


def measured(suite: Callable[[int], Iterable[Row]], rounds: int) -> list[Row]:
    """All rows of a suite: what another process can be asked for."""
    return list(suite(rounds))


def timed(
    contestants: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """CPU seconds of this process, or what another clock counts: per contestant and round, in changing order."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        contestant()  # warm: imports, code paths, connections of the server
    order = list(contestants)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            began = clock()
            contestants[name]()
            seconds[name].append(clock() - began)
    return seconds


def against(
    what: str,
    ours: Sequence[float],
    peer: Sequence[float],
    peer_name: str,
    *,
    most: float | None,
    show: Callable[[float], str],
) -> Row:
    """The row that compares two contestants of the same rounds.

    Args:
        what: what was measured.
        ours: our figure of each round.
        peer: the peer's.
        peer_name: who that is.
        most: the bar: how many times the peer's ours may be; None where none was set.
        show: writes a figure with its unit.
    """
    times = ratio(ours, peer)
    bar, holds = ("", None) if most is None else (f"≤ {most:.3g}x", times <= most)
    shown = show(statistics.median(ours)), show(statistics.median(peer))
    return Row(what, *shown, peer_name, times, bar, holds, interval(_ratios(ours, peer)))


def ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """The median of the ratios within each round."""
    return statistics.median(_ratios(ours, peer))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of such values lies with 95 % confidence: two of the values themselves, by rank."""
    ranked = sorted(values)
    reach = 0.98 * math.sqrt(len(ranked))
    low, high = math.floor(len(ranked) / 2 - reach), math.ceil(len(ranked) / 2 + reach)
    return ranked[max(low, 0)], ranked[min(high, len(ranked) - 1)]


def wait_for(done: threading.Event) -> None:
    """Waits for the end of what is measured; a benchmark that would wait for ever has failed."""
    if not done.wait(PATIENCE):
        raise SystemExit(f"benchmarks: not done within {PATIENCE:g} s")


def _ratios(ours: Sequence[float], peer: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, peer, strict=True)]
