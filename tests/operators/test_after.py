from __future__ import annotations

from macp_rx import operators as mo
from macp_rx.testing import Marbles
from tests.operators.voices import LEGEND


def test_what_is_behind_a_position(marbles: Marbles) -> None:
    source = marbles.hot("-p-v-w-|", LEGEND)
    marbles.expect(source.pipe(mo.after(0))).to_be("-p-v-w-|", LEGEND)
    marbles.expect(source.pipe(mo.after(2))).to_be("-----w-|", LEGEND)
    marbles.expect(source.pipe(mo.after(3))).to_be("-------|")
    marbles.expect_subscriptions(source).to_be("^------!", "^------!", "^------!")
