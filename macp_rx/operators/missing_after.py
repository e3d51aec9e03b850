"""missing_after: who has not spoken in time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta

from reactivex import Observable, abc
from reactivex import operators as ops

from macp_rx.operators.lift import like
from macp_rx.operators.remind_every import missing_every
from macp_rx.protocol.messages import Accepted

__all__ = ["missing_after"]


def missing_after(
    seconds: float | timedelta, participants: Collection[str], *, scheduler: abc.SchedulerBase | None = None
) -> Callable[[Observable[Accepted]], Observable[tuple[str, ...]]]:
    """Names those who have not spoken so long after the subscription, and completes; it only completes if nobody is missing.

    What counts as speaking, ``participation`` says: behind ``of_type`` it names those who have not voted, say.

    Args:
        seconds: after which time; more than 0.
        participants: who is expected to speak.
        scheduler: what counts the time; the stream's own clock by default.

    Marble:
        votes    -v-----w-|
        > mo.missing_after(0.004, ["alice", "bob", "carol"])
        missing  ----(m |)
        m: it == ("bob", "carol")

        votes    -v-w-----|
        > mo.missing_after(0.004, ["alice", "bob"])
        missing  ---|
    """
    missing = missing_every("missing_after", seconds, participants, scheduler)

    def operator(source: Observable[Accepted]) -> Observable[tuple[str, ...]]:
        return like(source, ops.take(1)(missing(source)))

    return operator
