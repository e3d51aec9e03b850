"""debounce_tally: the count, when the votes pause."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable, abc
from reactivex import operators as ops

from macp_rx.operators.lift import clock_of, like, seconds_of
from macp_rx.operators.tally import Tally, tally
from macp_rx.protocol.messages import Accepted

__all__ = ["debounce_tally"]


def debounce_tally(
    seconds: float | timedelta, *, scheduler: abc.SchedulerBase | None = None
) -> Callable[[Observable[Accepted[VotePayload]]], Observable[Tally]]:
    """Emits the tally when no vote has counted for so long, and at the end: for what is shown to people, or costs something.

    Args:
        seconds: how long no vote must have counted.
        scheduler: what counts the time; the stream's own clock by default.

    Marble:
        votes  -v-w----x-|
        > mo.debounce_tally(0.003)
        tally  ------2---(3 |)
        2: it.of("p1").cast == 2
        3: it.of("p1").cast == 3
    """
    quiet = seconds_of(seconds, "debounce_tally")

    def operator(source: Observable[Accepted[VotePayload]]) -> Observable[Tally]:
        clock = clock_of(source, scheduler, "debounce_tally")
        return like(source, ops.debounce(quiet, clock)(tally()(source)))

    return operator
