from __future__ import annotations

import tracemalloc

import pytest
import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from macp.v1.envelope_pb2 import Envelope
from reactivex import operators as ops
from reactivex.subject import Subject

from macp_rx import Accepted
from macp_rx import operators as mo
from macp_rx.testing import Marbles
from tests.operators.voices import LEGEND


def of(session_id: str, sequence: int) -> Accepted:
    return Accepted(sequence, Envelope(session_id=session_id, message_type="Vote", message_id=f"m{sequence}"))


def test_what_comes_again_is_dropped(marbles: Marbles) -> None:
    voices = {"a": of("s", 1), "b": of("s", 2), "c": of("s", 3)}
    source = marbles.hot("-a-b-a-c-b-|", voices)
    marbles.expect(source.pipe(mo.dedupe())).to_be("-a-b---c---|", voices)
    marbles.expect_subscriptions(source).to_be("^----------!")


def test_two_streams_of_one_session_are_one(marbles: Marbles) -> None:
    early = marbles.hot("-p-v-w-------|", LEGEND)
    late = marbles.cold("--p-v-w-x-|", LEGEND)
    marbles.expect(rx.merge(early, late).pipe(mo.dedupe())).to_be("-p-v-w--x----|", LEGEND)


def test_another_session_s_sequences_are_others(marbles: Marbles) -> None:
    voices = {"a": of("s", 1), "b": of("t", 1)}
    source = marbles.hot("-a-b-a-b-|", voices)
    marbles.expect(source.pipe(mo.dedupe())).to_be("-a-b-----|", voices)


@given(st.lists(st.tuples(st.sampled_from("st"), st.integers(1, 12)), max_size=60))
def test_each_once_in_the_order_of_their_first_coming(delivered: list[tuple[str, int]]) -> None:
    envelopes = [of(session_id, sequence) for session_id, sequence in delivered]
    once = rx.from_iterable(envelopes).pipe(mo.dedupe(), ops.to_list()).run()
    assert [(accepted.session_id, accepted.sequence) for accepted in once] == list(dict.fromkeys(delivered))


@pytest.mark.parametrize("order", ["in order", "odd ones first", "from behind"])
def test_a_whole_history_is_one_range_to_remember(order: str) -> None:
    count = 5000
    sequences = {
        "in order": [*range(1, count + 1)],
        "odd ones first": [*range(1, count + 1, 2), *range(2, count + 1, 2)],
        "from behind": [*range(count, 0, -1)],
    }[order]
    source: Subject[Accepted] = Subject()
    heard = 0

    def count_one(_: Accepted) -> None:
        nonlocal heard
        heard += 1

    source.pipe(mo.dedupe()).subscribe(count_one)
    tracemalloc.start()
    try:
        for sequence in sequences:
            source.on_next(of("s", sequence))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert heard == count
    assert kept < 20_000  # a set of them would be some 500,000
