from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from macp.modes.decision.v1.decision_pb2 import ObjectionPayload
from reactivex import operators as ops

from macp_rx import Accepted, MacpRefusedError, MacpSessionError, Message
from macp_rx import operators as mo
from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision
from macp_rx.protocol.policy import DEFAULT
from macp_rx.testing import Marbles, said
from tests.operators.checks import NO, YES, check_redelivery
from tests.operators.voices import LEGEND, commit

VOICES = {
    **LEGEND,
    "h": said("bob", decision.raise_objection("p1", reason="slow", severity="high")),
    "b": said("bob", decision.raise_objection("p1", reason="risky", severity="critical")),
    "m": said("mallory", decision.raise_objection("p1", reason="mine", severity="critical")),
}


def test_an_objection_decides_at_once(marbles: Marbles) -> None:
    source = marbles.hot("-p-o-b-v-|", VOICES)
    marbles.expect(source.pipe(mo.vetoed(3))).to_be("---N-----|", {"N": NO})
    marbles.expect_subscriptions(source).to_be("^--------!")


def test_without_one_the_first_vote_decides_for_every_proposal(marbles: Marbles) -> None:
    source = marbles.hot("-p-q-o-v-w-|", VOICES)
    first = mo.Verdict("p1", False, "vetoed by alice", mo.Count())
    reason = "nobody can veto it any more: 0 of 3 object, and 1 would have to"
    second = mo.Verdict("p2", True, reason, mo.Count())
    marbles.expect(source.pipe(mo.vetoed(3))).to_be("-----a-b---|", {"a": first, "b": second})


def test_a_commitment_ends_it_too(marbles: Marbles) -> None:
    source = marbles.hot("-p-C|", VOICES)
    marbles.expect(source.pipe(mo.vetoed(3))).to_be("---Y|", {"Y": YES})


def test_who_objects_twice_counts_once(marbles: Marbles) -> None:
    source = marbles.hot("-p-o-o-b-|", VOICES)
    marbles.expect(source.pipe(mo.vetoed(3, threshold=2))).to_be("-------N-|", {"N": NO})


def test_only_the_electorate_and_only_what_is_severe_enough(marbles: Marbles) -> None:
    source = marbles.hot("-p-m-h-v-|", VOICES)
    marbles.expect(source.pipe(mo.vetoed(["alice", "bob"]))).to_be("-------Y-|", {"Y": YES})
    both = mo.vetoed(["alice", "bob"], severities=["high", "critical"])
    marbles.expect(source.pipe(both)).to_be("-----N---|", {"N": NO})


def test_what_is_delivered_again_behind_the_first_vote_changes_nothing(marbles: Marbles) -> None:
    p, o, v = (VOICES[name].accepted(number) for number, name in enumerate("pov", start=1))
    source = marbles.hot("-p-o-v-p-o-b-v|", {"p": p, "o": o, "v": v, "b": VOICES["b"]})
    marbles.expect(source.pipe(mo.vetoed(3, threshold=2))).to_be("-----Y--------|", {"Y": YES})


def test_objections_alone_tell_only_of_vetoes(marbles: Marbles) -> None:
    source = marbles.hot("-p-o-v-|", VOICES)
    marbles.expect(source.pipe(mo.of_type(ObjectionPayload), mo.vetoed(3))).to_be("---N---|", {"N": NO})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"severities": ["Critical"]}, "severity"),
        ({"severities": "critical"}, "not one name"),
        ({"severities": []}, "at least one"),
        ({"threshold": 0}, "from 1 to 3"),
        ({"threshold": 4}, "from 1 to 3"),
    ],
)
def test_what_cannot_be_meant(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(MacpSessionError, match=says):
        mo.vetoed(3, **arguments)


MEMBERS = ("alice", "bob", "carol")
BOUND = Binding("s", DECISION, "chair", MEMBERS, "1.0.0", "config.default", DEFAULT)


def steps(state: decision.State, sender: str, message: Message) -> decision.State | None:
    """The state after it; None if it is refused."""
    envelope = said(sender, message).accepted(1).envelope
    try:
        decision.authorize(BOUND, sender, envelope.message_type)
        return decision.step(BOUND, state, envelope, Instant(0))
    except MacpRefusedError:
        return None


def objects(proposal_id: str, severity: str = "critical") -> Message:
    return decision.raise_objection(proposal_id, reason="no", severity=severity)


WORDS = [
    *(
        (name, objects(proposal_id, severity))
        for name in MEMBERS
        for proposal_id in ("p1", "p2")
        for severity in ("low", "critical")
    ),
    *(("alice", decision.propose(proposal_id, "one")) for proposal_id in ("p1", "p2")),
    ("bob", decision.vote("p1", "APPROVE")),
    ("chair", commit()),
]


def outcomes(state: decision.State, proposal_id: str, threshold: int) -> set[bool]:
    """Whether it is carried or vetoed, whoever of the others may still object and does."""
    found: set[bool] = set()
    for others in itertools.chain.from_iterable(itertools.combinations(MEMBERS, n) for n in range(len(MEMBERS) + 1)):
        after = state
        for name in others:
            after = steps(after, name, objects(proposal_id)) or after
        objectors = {
            said.sender
            for said in after.objections or ()
            if (said.proposal_id, said.severity) == (proposal_id, "critical")
        }
        found.add(len(objectors) < threshold)
    return found


def play(words: list[tuple[str, Message]]) -> Iterator[tuple[decision.State, Accepted]]:
    """What is accepted of these, and the state behind each."""
    state, sequence = decision.initial(BOUND), 0
    for sender, message in words:
        after = steps(state, sender, message)
        if after is not None and not state.is_committed:
            state, sequence = after, sequence + 1
            yield state, said(sender, message).accepted(sequence)


@given(st.lists(st.sampled_from(WORDS), max_size=12), st.integers(1, 3), st.data())
def test_redelivery_changes_nothing(words: list[tuple[str, Message]], threshold: int, data: st.DataObject) -> None:
    votes = [(name, decision.vote("p1", "APPROVE")) for name in MEMBERS]
    history = [accepted for _, accepted in play([("alice", decision.propose("p1", "one")), *words, *votes])]
    check_redelivery(mo.vetoed(MEMBERS, threshold=threshold), history, data)


@given(st.lists(st.sampled_from(WORDS), max_size=12), st.integers(1, 3))
def test_a_verdict_is_what_every_continuation_would_say(words: list[tuple[str, Message]], threshold: int) -> None:
    history: list[Accepted] = []
    expected: dict[str, tuple[int, bool]] = {}
    for state, accepted in play(words):
        history.append(accepted)
        for proposal_id in state.proposals:
            certain = outcomes(state, proposal_id, threshold)
            if len(certain) == 1 and proposal_id not in expected:
                expected[proposal_id] = (len(history), certain.pop())
    heard: dict[str, tuple[int, bool]] = {}
    number = 0

    def count(_: Accepted) -> None:
        nonlocal number
        number += 1

    def note(verdict: mo.Verdict) -> None:
        assert verdict.proposal_id not in heard
        heard[verdict.proposal_id] = (number, verdict.positive)

    rx.from_iterable(history).pipe(ops.do_action(count), mo.vetoed(MEMBERS, threshold=threshold)).subscribe(note)
    assert heard == expected
