from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from macp_rx import MacpSessionError, MacpTimeoutError
from macp_rx import operators as mo
from macp_rx.testing import Marbles


def in_ms(marbles: Marbles, milliseconds: int) -> datetime:
    return marbles.clock.now + timedelta(milliseconds=milliseconds)


def test_a_first_item_by_then_opens_the_way_for_the_rest(marbles: Marbles) -> None:
    source = marbles.hot("--a 10s b|")
    marbles.expect(source.pipe(mo.deadline(in_ms(marbles, 5)))).to_be("--a 10s b|")
    marbles.expect_subscriptions(source).to_be("^-- 10s - !")


def test_without_one_it_says_otherwise_and_leaves_the_source(marbles: Marbles) -> None:
    source = marbles.hot("------a-|")
    marbles.expect(source.pipe(mo.deadline(in_ms(marbles, 4), otherwise="none"))).to_be("----(none |)")
    marbles.expect_subscriptions(source).to_be("^---!")


def test_or_fails(marbles: Marbles) -> None:
    at = in_ms(marbles, 4)
    source = marbles.hot("------a-|")
    marbles.expect(source.pipe(mo.deadline(at))).to_be("----#", error=MacpTimeoutError(f"nothing came by {at}"))


def test_whoever_comes_later_has_less_time(marbles: Marbles) -> None:
    source = marbles.cold("------a-|")
    waiting = source.pipe(mo.deadline(in_ms(marbles, 4), otherwise="none"))
    marbles.expect(waiting, "---^").to_be("----(none |)")
    marbles.expect(waiting, "------^").to_be("------(none |)")
    marbles.expect_subscriptions(source).to_be("---^!", "------(^ !)")


def test_unix_seconds_will_do(marbles: Marbles) -> None:
    source = marbles.hot("--a--b-|")
    at = marbles.clock.now.timestamp() + 0.001
    marbles.expect(source.pipe(mo.deadline(at, otherwise="none"))).to_be("-(none |)")


def test_a_time_without_a_zone_means_nothing() -> None:
    naive = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    with pytest.raises(MacpSessionError, match="which time zone"):
        mo.deadline(naive)
