"""What the specs of several operators look for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from reactivex import Observable, from_iterable
from reactivex import operators as ops

from macp_rx import Accepted
from macp_rx.testing import Marbles, Where

__all__ = ["NO", "YES", "check_redelivery", "check_timers", "redelivered"]

YES = Where(lambda verdict: verdict.positive, "a positive verdict")
NO = Where(lambda verdict: not verdict.positive, "a negative verdict")


def check_timers(marbles: Marbles) -> None:
    """Fails at the end of the run if a timer of a second or more was left running."""
    marbles.check(lambda: None if marbles.clock.time < 1_000_000 else "a timer was left")


def redelivered(accepted: Sequence[Accepted], data: st.DataObject) -> list[Accepted]:
    """The same envelopes, behind each of which some of those before it come again."""
    again = (
        [one, *(earlier for earlier in accepted[:number] if data.draw(st.booleans()))]
        for number, one in enumerate(accepted)
    )
    return list(itertools.chain.from_iterable(again))


def check_redelivery(
    operator: Callable[[Observable[Any]], Observable[Any]], accepted: Sequence[Accepted], data: st.DataObject
) -> None:
    """Fails unless an operator says the same of envelopes that are delivered again and again."""
    once, again = (
        from_iterable(delivered).pipe(operator, ops.to_list()).run()
        for delivered in (accepted, redelivered(accepted, data))
    )
    assert once == again
