from __future__ import annotations

from datetime import timedelta

import pytest
import reactivex as rx

from macp_rx import MacpSessionError
from macp_rx import operators as mo
from macp_rx.testing import Marbles, Where
from tests.operators.checks import check_timers
from tests.operators.voices import LEGEND


def counts(*expected: int) -> Where:
    return Where(lambda tally: tally.of("p1") == mo.Count(*expected), f"p1: {expected}")


def test_it_tells_when_the_votes_pause_and_at_the_end(marbles: Marbles) -> None:
    source = marbles.hot("-v-w------x-|", LEGEND)
    marbles.expect(source.pipe(mo.debounce_tally(0.003))).to_be(
        "------a-----(b |)", {"a": counts(1, 1), "b": counts(1, 1, 1)}
    )
    marbles.expect_subscriptions(source).to_be("^-----------!")


def test_a_vote_that_does_not_count_does_not_count_as_one(marbles: Marbles) -> None:
    source = marbles.hot("-v--v-----|", LEGEND)
    marbles.expect(source.pipe(mo.debounce_tally(0.004))).to_be("-----a----|", {"a": counts(1)})


def test_what_waits_is_lost_with_an_error(marbles: Marbles) -> None:
    source = marbles.hot("-v-#", LEGEND, error=ValueError("lost"))
    marbles.expect(source.pipe(mo.debounce_tally(timedelta(seconds=1)))).to_be("---#", error=ValueError("lost"))
    check_timers(marbles)


def test_leaving_stops_the_timer(marbles: Marbles) -> None:
    source = marbles.hot("-v-w-|", LEGEND)
    marbles.expect(source.pipe(mo.debounce_tally(1)), "^-!").to_be("-")
    marbles.expect_subscriptions(source).to_be("^-!")
    check_timers(marbles)


def test_on_a_plain_observable_it_asks_for_a_clock() -> None:
    with pytest.raises(MacpSessionError, match="debounce_tally needs a clock"):
        mo.debounce_tally(1)(rx.never())
