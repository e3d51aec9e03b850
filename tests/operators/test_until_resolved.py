from __future__ import annotations

from reactivex import operators as ops

from macp_rx import operators as mo
from macp_rx.testing import Marbles, Where
from tests.operators.voices import LEGEND


def test_everything_up_to_the_commitment_and_with_it(marbles: Marbles) -> None:
    source = marbles.hot("-p-v-C-p-w-", LEGEND)
    marbles.expect(source.pipe(mo.until_resolved())).to_be("-p-v-(C |)", LEGEND)
    marbles.expect_subscriptions(source).to_be("^----!")


def test_a_session_that_ends_otherwise_just_ends(marbles: Marbles) -> None:
    marbles.expect(marbles.hot("-p-v-|", LEGEND).pipe(mo.until_resolved())).to_be("-p-v-|", LEGEND)


def test_it_ends_what_stands_behind_it(marbles: Marbles) -> None:
    source = marbles.hot("-p-v-C-p-w-", LEGEND)
    whole = source.pipe(mo.until_resolved(), ops.to_list())
    marbles.expect(whole).to_be("-----(L |)", {"L": Where(lambda items: len(items) == 3)})
