from __future__ import annotations

from datetime import timedelta

import pytest
import reactivex as rx
from macp.modes.decision.v1.decision_pb2 import VotePayload

from macp_rx import MacpSessionError
from macp_rx import operators as mo
from macp_rx.testing import Marbles
from tests.operators.checks import check_timers
from tests.operators.voices import LEGEND

ALL = ["alice", "bob", "carol"]


def test_it_names_once_who_has_not_spoken_and_leaves_the_source(marbles: Marbles) -> None:
    source = marbles.hot("-v------w-|", LEGEND)
    marbles.expect(source.pipe(mo.missing_after(0.004, ALL))).to_be("----(m |)", {"m": ("bob", "carol")})
    marbles.expect_subscriptions(source).to_be("^---!")


def test_it_only_completes_when_nobody_is_missing(marbles: Marbles) -> None:
    source = marbles.hot("-v-w-x-----|", LEGEND)
    marbles.expect(source.pipe(mo.missing_after(timedelta(seconds=1), ALL))).to_be("-----|")
    marbles.expect_subscriptions(source).to_be("^----!")
    check_timers(marbles)


def test_a_session_that_has_ended_misses_nobody(marbles: Marbles) -> None:
    marbles.expect(marbles.hot("-v-|", LEGEND).pipe(mo.missing_after(1, ALL))).to_be("---|")


def test_behind_of_type_it_names_who_has_not_voted(marbles: Marbles) -> None:
    source = marbles.hot("-e-v-", LEGEND)
    missing = source.pipe(mo.of_type(VotePayload), mo.missing_after(0.004, ["alice", "bob"]))
    marbles.expect(missing).to_be("----(b |)", {"b": ("bob",)})


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_no_time_is_no_chance(seconds: float) -> None:
    with pytest.raises(MacpSessionError, match="missing_after waits for some seconds"):
        mo.missing_after(seconds, ALL)


def test_on_a_plain_observable_it_asks_for_a_clock() -> None:
    with pytest.raises(MacpSessionError, match="missing_after needs a clock"):
        mo.missing_after(1, ALL)(rx.never())
