from __future__ import annotations

from macp_rx import operators as mo
from macp_rx.testing import Marbles
from tests.operators.voices import LEGEND


def test_the_first_commitment_and_the_end(marbles: Marbles) -> None:
    source = marbles.hot("-p-v-C-C-", LEGEND)
    marbles.expect(source.pipe(mo.commitment())).to_be("-----(C |)", LEGEND)
    marbles.expect_subscriptions(source).to_be("^----!")


def test_a_session_that_ends_without_one(marbles: Marbles) -> None:
    marbles.expect(marbles.hot("-p-v-|", LEGEND).pipe(mo.commitment())).to_be("-----|")
