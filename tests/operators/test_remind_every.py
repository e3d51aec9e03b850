from __future__ import annotations

import pytest
import reactivex as rx
from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import operators as ops

from macp_rx import MacpSessionError
from macp_rx import operators as mo
from macp_rx.testing import Marbles
from tests.operators.checks import check_timers
from tests.operators.voices import LEGEND

ALL = ["alice", "bob", "carol"]
MISSING = {"a": ("alice", "bob", "carol"), "b": ("bob", "carol"), "c": ("carol",)}


def test_it_names_who_is_missing_until_nobody_is(marbles: Marbles) -> None:
    source = marbles.hot("---v---w---x---", LEGEND)
    marbles.expect(source.pipe(mo.remind_every(0.002, ALL))).to_be("--a-b-b-c-c|", MISSING)
    marbles.expect_subscriptions(source).to_be("^----------!")


def test_it_ends_with_its_source(marbles: Marbles) -> None:
    source = marbles.hot("---v-|", LEGEND)
    marbles.expect(source.pipe(mo.remind_every(0.002, ALL))).to_be("--a-b|", MISSING)
    failing = marbles.cold("---#", error=ValueError("lost"))
    marbles.expect(failing.pipe(mo.remind_every(0.002, ALL))).to_be("--a#", MISSING, error=ValueError("lost"))
    check_timers(marbles)


def test_whoever_leaves_on_being_reminded_leaves_no_timer(marbles: Marbles) -> None:
    source = marbles.hot("-")
    marbles.expect(source.pipe(mo.remind_every(0.002, ALL), ops.take(2))).to_be("--a-(a |)", MISSING)
    marbles.expect_subscriptions(source).to_be("^---!")
    check_timers(marbles)


def test_behind_of_type_it_names_who_has_not_voted(marbles: Marbles) -> None:
    source = marbles.hot("-e-v-", LEGEND)
    reminders = source.pipe(mo.of_type(VotePayload), mo.remind_every(0.004, ["alice", "bob"]), ops.take(1))
    marbles.expect(reminders).to_be("----(b |)", {"b": ("bob",)})


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_no_time_is_no_pause(seconds: float) -> None:
    with pytest.raises(MacpSessionError, match="remind_every waits for some seconds"):
        mo.remind_every(seconds, ALL)


def test_on_a_plain_observable_it_asks_for_a_clock() -> None:
    with pytest.raises(MacpSessionError, match="remind_every needs a clock"):
        mo.remind_every(1, ALL)(rx.never())
