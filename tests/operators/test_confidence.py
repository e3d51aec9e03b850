from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactivex import operators as ops

from macp_rx import Accepted
from macp_rx import operators as mo
from macp_rx.protocol.modes import decision
from macp_rx.testing import Marbles, Where, said
from tests.operators.checks import check_redelivery
from tests.operators.voices import LEGEND

VOICES = {
    **LEGEND,
    "g": said("bob", decision.evaluate("p1", "REJECT", confidence=0.25)),
    "h": said("bob", decision.evaluate("p2", "BLOCK", confidence=0.75)),
}


def sure(*confidences: float, proposal: str = "p1") -> Where:
    return Where(
        lambda confidence: (confidence.proposal_id, confidence.of()) == (proposal, confidences),
        f"{proposal}: {confidences}",
    )


def test_it_tells_after_each_evaluation_what_was_said_of_its_proposal(marbles: Marbles) -> None:
    source = marbles.hot("-e-f-h-|", VOICES)
    marbles.expect(source.pipe(mo.confidence())).to_be(
        "-a-b-c-|", {"a": sure(0.5), "b": sure(0.5, 1.0), "c": sure(0.75, proposal="p2")}
    )
    marbles.expect_subscriptions(source).to_be("^------!")


def test_of_a_sender_s_evaluations_the_latest_stands(marbles: Marbles) -> None:
    source = marbles.hot("-e-g-|", VOICES)
    marbles.expect(source.pipe(mo.confidence())).to_be("-a-b-|", {"a": sure(0.5), "b": sure(0.25)})


def test_a_review_says_nothing(marbles: Marbles) -> None:
    source = marbles.hot("-r-e-|", VOICES)
    marbles.expect(source.pipe(mo.confidence())).to_be("---a-|", {"a": sure(0.5)})


def test_by_recommendation(marbles: Marbles) -> None:
    source = marbles.hot("-e-f-|", VOICES)
    last = source.pipe(mo.confidence(), ops.last())
    told = Where(
        lambda confidence: (
            (
                confidence.mean("APPROVE"),
                confidence.mean("REJECT", "BLOCK"),
                confidence.mean(),
                confidence.mean("BLOCK"),
            )
            == (0.5, 1.0, 0.75, 0.0)
        )
    )
    marbles.expect(last).to_be("-----(a |)", {"a": told})


evaluations = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["p1", "p2"]),
        st.sampled_from(["APPROVE", "REVIEW", "REJECT", "BLOCK"]),
        st.floats(0, 1),
    ),
    min_size=1,
    max_size=15,
)


@given(evaluations, st.data())
def test_redelivery_changes_nothing(said_so: list[tuple[str, str, str, float]], data: st.DataObject) -> None:
    accepted: list[Accepted] = [
        said(sender, decision.evaluate(proposal, recommendation, confidence=confidence)).accepted(number)
        for number, (sender, proposal, recommendation, confidence) in enumerate(said_so, start=1)
    ]
    check_redelivery(mo.confidence(), accepted, data)


def test_the_mean_is_the_same_in_whatever_order(marbles: Marbles) -> None:
    """Floats are added in ascending order: a map iterates in the order of its hashes, which differ from process to process."""
    values = [0.1, 0.7, 0.2, 0.3]
    for order in itertools.permutations(values):
        confidence = mo.Confidence("p1")
        for name, value in zip("abcd", order, strict=True):
            payload = decision.evaluate("p1", "APPROVE", confidence=value).payload
            confidence = mo.Confidence("p1", confidence.evaluations.set(name, payload))
        assert confidence.mean() == pytest.approx(0.325)
        assert confidence.mean() == sum(sorted(values)) / 4
