from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from reactivex import from_iterable
from reactivex import operators as ops
from reactivex.subject import Subject

from macp_rx import Accepted
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.testing import Marbles, Where, misbehaving
from tests.operators import elections
from tests.operators.checks import check_redelivery
from tests.operators.voices import LEGEND


def counts(approve: int = 0, reject: int = 0, abstain: int = 0, proposal: str = "p1") -> Where:
    expected = mo.Count(approve, reject, abstain)
    return Where(lambda tally: tally.of(proposal) == expected, f"{proposal}: {expected}")


def test_it_emits_after_each_vote(marbles: Marbles) -> None:
    source = marbles.hot("-v-w-x-|", LEGEND)
    marbles.expect(source.pipe(mo.tally())).to_be("-a-b-c-|", {"a": counts(1), "b": counts(1, 1), "c": counts(1, 1, 1)})


def test_the_first_vote_of_a_sender_on_a_proposal_stands(marbles: Marbles) -> None:
    source = marbles.hot("-x-y-|", LEGEND)
    marbles.expect(source.pipe(mo.tally())).to_be("-a---|", {"a": counts(abstain=1)})


def test_proposals_are_counted_apart(marbles: Marbles) -> None:
    source = marbles.hot("-v-z-|", LEGEND)
    marbles.expect(source.pipe(mo.tally())).to_be("-a-b-|", {"a": counts(1), "b": counts(reject=1, proposal="p2")})


def test_two_subscriptions_count_for_themselves(marbles: Marbles) -> None:
    tally = marbles.cold("-v-w-|", LEGEND).pipe(mo.tally())
    for _ in range(2):
        marbles.expect(tally).to_be("-a-b-|", {"a": counts(1), "b": counts(1, 1)})


def test_error_empty_and_early_dispose(marbles: Marbles) -> None:
    failing = marbles.cold("-v-#", LEGEND, error=ValueError("lost"))
    marbles.expect(failing.pipe(mo.tally())).to_be("-a-#", {"a": counts(1)}, error=ValueError("lost"))
    marbles.expect(marbles.cold("--|").pipe(mo.tally())).to_be("--|")
    source = marbles.cold("-v-w-|", LEGEND)
    marbles.expect(source.pipe(mo.tally()), "^-!").to_be("-a", {"a": counts(1)})
    marbles.expect_subscriptions(source).to_be("^-!")


def test_what_comes_after_the_end_is_not_counted() -> None:
    heard: list[object] = []
    mo.tally()(misbehaving("v|w|", LEGEND)).subscribe(heard.append, heard.append, lambda: heard.append("|"))
    assert len(heard) == 2


votes = elections.votes(elections.members(5))


@given(votes, st.data())
def test_redelivery_changes_nothing(cast: list[elections.Cast], data: st.DataObject) -> None:
    accepted = elections.ballots(cast)
    check_redelivery(mo.tally(), accepted, data)


@given(votes, st.data())
def test_how_the_stream_is_chunked_changes_nothing(cast: list[elections.Cast], data: st.DataObject) -> None:
    """In bursts, each of which begins with some of the one before, as after a reconnect; as one burst, and one by one."""
    accepted = elections.ballots(cast)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(accepted)), max_size=4)))
    bounds = [0, *cuts, len(accepted)]
    bursts = [accepted[max(0, begin - data.draw(st.integers(0, 3))) : end] for begin, end in itertools.pairwise(bounds)]
    clock = VirtualClock()
    source: Subject[Accepted] = Subject()
    heard: list[mo.Tally] = []
    source.pipe(mo.tally()).subscribe(heard.append)
    for number, burst in enumerate(bursts):
        clock.run_later(number, lambda burst=burst: [source.on_next(one) for one in burst])  # type: ignore[misc]
    clock.run_until_idle()
    assert heard == from_iterable(accepted).pipe(mo.tally(), ops.to_list()).run()
