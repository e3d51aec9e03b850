"""Sessions as marbles: what the embedded runtime accepts and refuses, in lanes. tests/conformance does it with every fixture."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from macp.modes.decision.v1.decision_pb2 import VotePayload
from macp.v1.core_pb2 import CommitmentPayload
from macp.v1.policy_pb2 import PolicyDescriptor

from macp_rx import MacpSessionError, Message, SessionStart
from macp_rx import operators as mo
from macp_rx.protocol.commitment import commit
from macp_rx.protocol.modes import decision, handoff
from macp_rx.testing import Exactly, Marbles, Where, from_fixture, said
from macp_rx.timeline import Completed, Event, Next, Timeline

START = SessionStart(mode=decision.MODE, intent="lanes", participants=["chair", "alice"], ttl_ms=60_000)
LEGEND: dict[str, Any] = {
    "S": START,
    "p": decision.propose("p1", "canary"),
    "v": decision.vote("p1", "APPROVE"),
    "C": commit(action="decision.selected", authority_scope="team", reason="why"),
    "suspend": lambda session: session.suspend(),
    "resume": lambda session: session.resume(),
    "cancel": lambda session: session.cancel(),
}


def failure(lanes: str, legend: dict[str, Any] = LEGEND) -> str:
    """What marbles that are wrong about a session say."""
    marbles = Marbles()
    marbles.session(lanes, legend)
    with pytest.raises(AssertionError) as raised:
        marbles.run()
    return str(raised.value)


def test_it_plays_what_the_lanes_say(marbles: Marbles) -> None:
    played = marbles.session(
        """
        chair : S-p-------C|
        alice : ---v-(v INVALID_ENVELOPE)
        """,
        LEGEND,
    )
    marbles.run()
    assert [(one.sequence, one.sender, one.message_type) for one in played.accepted] == [
        (1, "chair", "SessionStart"),
        (2, "chair", "Proposal"),
        (3, "alice", "Vote"),
        (4, "chair", "Commitment"),
    ]
    assert [(one.sender, one.name, one.error.code) for one in played.refused] == [("alice", "v", "INVALID_ENVELOPE")]
    assert played.state == "Resolved"
    vote = Next(LEGEND["v"])
    assert played.timeline.lane("alice").events == (
        Event(3000, "alice", vote),
        Event(5000, "alice", vote),
        Event(5000, "alice", Next("INVALID_ENVELOPE")),
    )
    assert played.timeline.events[-1] == Event(11_000, "chair", Completed())


def test_pipelines_run_on_its_events(marbles: Marbles) -> None:
    voices = {**LEGEND, "v": said("alice", LEGEND["v"])}
    played = marbles.session("chair : S-p---C\nalice : ----v-|", voices)
    votes = played.session.events.pipe(mo.of_type(VotePayload))
    marbles.expect(votes).to_be("----v-|", voices)
    marbles.expect(votes.pipe(mo.majority(electorate=1))).to_be("----V-|", {"V": Where(lambda one: one.positive)})


def test_what_is_done_to_a_session_stands_in_its_lane(marbles: Marbles) -> None:
    played = marbles.session(
        """
        chair : S-p-suspend---resume-cancel|
        alice : ------(v SESSION_NOT_OPEN)-(cancel FORBIDDEN)
        """,
        LEGEND,
    )
    marbles.run()
    assert played.state == "Cancelled"
    with pytest.raises(MacpSessionError, match="only messages, and cannot say 'suspend'"):
        played.to_fixture()


def test_days_pass(marbles: Marbles) -> None:
    long = {**LEGEND, "S": SessionStart(mode=decision.MODE, intent="x", participants=["chair"], ttl_ms=86_400_000)}
    played = marbles.session("chair : S-p 24h (p SESSION_NOT_OPEN)|", long)
    marbles.run()
    assert (played.state, len(played.accepted)) == ("Expired", 2)
    fixture = json.loads(played.to_fixture("expired"))
    assert [message["accepted_at_ms"] for message in fixture["messages"]] == [2, 86_400_003]


def test_policies_are_registered_in_a_lane(marbles: Marbles) -> None:
    majority = PolicyDescriptor(
        policy_id="policy.majority", mode=decision.MODE, schema_version=3, rules='{"voting":{"algorithm":"majority"}}'
    )
    legend = {
        **LEGEND,
        "P": majority,
        "Q": PolicyDescriptor(policy_id="policy.q", mode=decision.MODE, schema_version=9, rules="{}"),
        "S": SessionStart(
            mode=decision.MODE,
            intent="x",
            participants=["chair", "alice"],
            ttl_ms=60_000,
            policy_version="policy.majority",
        ),
    }
    played = marbles.session(
        """
        admin : P-(Q INVALID_POLICY_DEFINITION)
        chair : S-p-(C POLICY_DENIED)---C|
        alice : ------v
        """,
        legend,
    )
    marbles.run()
    with pytest.raises(MacpSessionError, match=r"not policy\.q"):
        played.to_fixture()


def test_what_the_runtime_itself_says_is_accepted_and_in_no_lane(marbles: Marbles) -> None:
    policy = PolicyDescriptor(
        policy_id="policy.silence",
        mode=handoff.MODE,
        schema_version=3,
        rules='{"acceptance":{"implicit_accept_timeout_ms":2000}}',
    )
    start = SessionStart(
        mode=handoff.MODE, intent="x", participants=["a", "b"], ttl_ms=60_000, policy_version="policy.silence"
    )
    legend = {
        "P": policy,
        "S": start,
        "o": handoff.offer("h1", "b"),
        "C": commit(action="handoff.accepted", authority_scope="team", reason="silence"),
    }
    played = marbles.session("a : (P S)-o 2s C|\nb : -", legend)
    marbles.run()
    assert [(one.sender, one.message_type) for one in played.accepted][2:] == [
        ("b", "HandoffAccept"),
        ("a", "Commitment"),
    ]
    fixture = json.loads(played.to_fixture())
    assert fixture["expected_history"][1]["synthetic"] is True
    assert [message["accepted_at_ms"] for message in fixture["messages"]] == [2, 2003]


def test_a_hash_is_any_code_and_what_is_said_exactly_goes_out_just_so(marbles: Marbles) -> None:
    blank = Message(
        decision.MODE, CommitmentPayload(action="decision.selected", authority_scope="team", reason="blank")
    )
    legend = {**LEGEND, "e": Exactly(blank), "f": Exactly(LEGEND["v"], {"macp_version": "2.0"})}
    played = marbles.session("chair : S-p-v-(e #)-(f UNSUPPORTED_PROTOCOL_VERSION)-(v #)-C|", legend)
    marbles.run()
    assert [one.error.code for one in played.refused] == [
        "INVALID_ENVELOPE",
        "UNSUPPORTED_PROTOCOL_VERSION",
        "INVALID_ENVELOPE",
    ]


def test_at_one_instant_it_goes_from_lane_to_lane(marbles: Marbles) -> None:
    marbles.session("chair : (S p v)-C|\nalice : (v p INVALID_ENVELOPE v INVALID_ENVELOPE)", LEGEND)


def test_a_session_stands_in_a_text_with_its_legend(marbles: Marbles) -> None:
    happened = [("chair", START), ("chair", LEGEND["p"]), ("alice", LEGEND["p"]), ("alice", "INVALID_ENVELOPE")]
    lanes = Timeline(tuple(Event(0, sender, Next(what)) for sender, what in happened))
    played = marbles.session(str(lanes))
    marbles.run()
    assert played.timeline == lanes


@given(st.lists(st.tuples(st.sampled_from(["chair", "alice", "bob"]), st.sampled_from("pvC")), min_size=1, max_size=8))
def test_what_happened_is_what_lanes_expect(said: list[tuple[str, str]]) -> None:
    asked = Marbles()
    happened = [Event(2000 * number, sender, Next(LEGEND[name])) for number, (sender, name) in enumerate(said, start=1)]
    played = asked.session(Timeline((Event(0, "chair", Next(START)), *happened)))
    with suppress(AssertionError):  # lanes without codes: what is refused is not expected
        asked.run()
    for lanes in (played.timeline, str(played.timeline), from_fixture(played.to_fixture())):
        again = Marbles()
        again.session(lanes)
        again.run()


class TestFailures:
    def test_a_refusal_that_was_not_expected(self) -> None:
        told = failure("chair : S-p-----C|\nalice : ---v-v")
        place, *lines = told.splitlines()
        assert place.startswith("the marbles differ (test_sessions.py:")
        assert lines == [
            "lane alice",
            "expected  ---v-v",
            "actual    ---v-(v INVALID_ENVELOPE)",
            "               ^ first difference",
            "at 5ms: expected nothing more, got 'INVALID_ENVELOPE' at 5ms",
            '  v = Vote(proposal_id: "p1" vote: "APPROVE")',
            "  v was refused: INVALID_ENVELOPE: Vote was refused: 'alice' has voted on 'p1' already",
        ]

    @pytest.mark.parametrize(
        ("lanes", "told"),
        [
            ("chair : S-(p FORBIDDEN)", "at 2ms: expected 'FORBIDDEN' at 2ms, got nothing more"),
            ("chair : S-p-(v #)", "at 4ms: expected any code at 4ms, got nothing more"),
            ("chair : S-p|", "at 3ms: expected completion at 3ms, got nothing more"),
            ("chair : S-p-C", "at 4ms: expected nothing more, got completion at 4ms"),
            ("chair : (S FORBIDDEN)-(p SESSION_NOT_FOUND)", "at 0ms: expected 'FORBIDDEN' at 0ms, got Proposal"),
            ("chair : S\nbob : -(p SESSION_NOT_OPEN)", "expected 'SESSION_NOT_OPEN' at 1ms, got 'FORBIDDEN' at 1ms"),
        ],
    )
    def test_what_is_expected_and_does_not_come(self, lanes: str, told: str) -> None:
        assert told in failure(lanes)

    def test_a_message_of_another_mode(self) -> None:
        marbles = Marbles()
        marbles.session("chair : S-o", {**LEGEND, "o": handoff.offer("h1", "alice")})
        with pytest.raises(MacpSessionError, match=r"HandoffOffer of .* cannot be said in a session of"):
            marbles.run()

    @pytest.mark.parametrize(
        ("lanes", "told"),
        [
            ("chair : p-S", "a session begins with a SessionStart, in the lane of who opens it"),
            ("chair : |", "a session begins with a SessionStart"),
            ("chair : S-x", "'x' is neither in the legend (S, p, v, C, suspend, resume, cancel, bad, his) nor a code"),
            ("chair : S-FORBIDDEN", "FORBIDDEN at 2ms stands behind nothing that is refused: write (v FORBIDDEN)"),
            ("chair : S-(p FORBIDDEN FORBIDDEN)", "stands behind nothing that is refused"),
            ("chair : S-bad", "bad means 7; in a session it is a SessionStart, a Message"),
            ("chair : S-his", "his is said by 'alice', and stands in the lane of 'chair'"),
            ("chair S-p", "no lane and no legend"),
        ],
    )
    def test_lanes_that_mean_nothing(self, lanes: str, told: str) -> None:
        legend = {**LEGEND, "bad": 7, "his": said("alice", LEGEND["v"])}
        with pytest.raises(MacpSessionError) as raised:
            Marbles().session(lanes, legend)
        assert told in str(raised.value)

    def test_a_fixture_of_a_session_that_never_was(self) -> None:
        marbles = Marbles()
        legend = {"S": SessionStart(mode="ext.none.v1", intent="x", participants=["chair"], ttl_ms=1000)}
        played = marbles.session("chair : (S MODE_NOT_SUPPORTED)", legend)
        for run in (lambda: None, marbles.run):
            run()
            with pytest.raises(MacpSessionError, match="there is no session"):
                played.to_fixture()

    def test_a_text_that_is_no_fixture(self) -> None:
        with pytest.raises(MacpSessionError, match="a conformance fixture is a JSON object"):
            from_fixture("[]")
