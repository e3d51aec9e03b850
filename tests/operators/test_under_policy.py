from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from reactivex import operators as ops

from macp_rx import DecisionSession, MacpClient, Runtime
from macp_rx import operators as mo
from macp_rx.protocol.modes import decision, multi_round, quorum
from macp_rx.protocol.policy import (
    BUILT_IN,
    DEFAULT,
    ObjectionHandlingRules,
    QuorumThreshold,
    VotingRules,
    build_decision_policy,
    build_quorum_policy,
    policy_from,
)
from macp_rx.testing import Marbles, Where, said
from tests.conftest import Connect
from tests.operators.talks import COURSES, Agreement, compare
from tests.operators.voices import LEGEND, start

PEOPLE = ["chair", "alice", "bob", "carol"]
MAJORITY = build_decision_policy("policy.own", voting=VotingRules("majority"))


def permits(*, positive: bool, negative: bool, why: str = "", why_not: str = "") -> Where:
    """Which signs are permitted, and the codes of the denials of each."""

    def test(permitted: mo.Permitted) -> bool:
        codes = [" ".join(denial.code for denial in denials) for denials in permitted.denials]
        return (permitted.positive, permitted.negative, *codes) == (positive, negative, why, why_not)

    return Where(test, f"positive={positive} ({why}), negative={negative} ({why_not})")


def test_what_is_permitted_changes_with_the_votes(marbles: Marbles) -> None:
    source = marbles.hot("-S-p-v-w-f-C|", {**LEGEND, "f": said("chair", decision.vote("p1", "REJECT"))})
    marbles.expect(source.pipe(mo.under_policy(MAJORITY, PEOPLE))).to_be(
        "-a-b-c-d-e--|",
        {
            "a": permits(positive=False, negative=False),  # nothing was proposed: that is not the policy's doing
            "b": permits(positive=False, negative=False, why="no_votes", why_not="decline_not_backed"),
            "c": permits(positive=True, negative=False, why_not="decline_over_approval"),
            "d": permits(positive=True, negative=False, why_not="decline_over_approval"),  # an even split passes
            "e": permits(positive=False, negative=True, why="threshold_not_met"),
        },
    )
    marbles.expect_subscriptions(source).to_be("^-----------!")  # the commitment at the end it would have denied


def test_the_votes_of_all_proposals_are_one_pool_and_the_sign_is_free_without_an_algorithm(marbles: Marbles) -> None:
    source = marbles.hot("-S-p-q-v-z-|", LEGEND)
    tied = source.pipe(mo.under_policy(MAJORITY, PEOPLE), ops.last())
    marbles.expect(tied).to_be(
        "-----------(a |)", {"a": permits(positive=True, negative=False, why_not="decline_over_approval")}
    )
    free = source.pipe(mo.under_policy(DEFAULT, PEOPLE), ops.last())
    marbles.expect(free).to_be("-----------(a |)", {"a": permits(positive=True, negative=True)})


def test_it_speaks_only_when_something_has_changed(marbles: Marbles) -> None:
    source = marbles.hot("-S-p-e-v-|", LEGEND)
    marbles.expect(source.pipe(mo.under_policy(DEFAULT, PEOPLE))).to_be(
        "-a-b-----|", {"a": permits(positive=False, negative=False), "b": permits(positive=True, negative=True)}
    )


def test_a_veto_names_who_has_vetoed(marbles: Marbles) -> None:
    policy = build_decision_policy(
        "policy.own", objection_handling=ObjectionHandlingRules(True, critical_objection_action="finalize_decline")
    )
    source = marbles.hot("-S-p-o-|", LEGEND)
    vetoed = Where(lambda permitted: permitted.negative and permitted.denials.positive[0].participants == ("alice",))
    marbles.expect(source.pipe(mo.under_policy(policy, PEOPLE), ops.last())).to_be("-------(v |)", {"v": vetoed})


def test_after_the_commitment_nothing_is_permitted(marbles: Marbles) -> None:
    source = marbles.hot("-S-p-C-p-|", LEGEND)
    marbles.expect(source.pipe(mo.under_policy(DEFAULT, PEOPLE), ops.last())).to_be(
        "---------(e |)", {"e": permits(positive=False, negative=False)}
    )


def test_what_comes_again_changes_nothing(marbles: Marbles) -> None:
    """An objection that is delivered twice is one of the two that a veto takes."""
    policy = build_decision_policy("policy.own", objection_handling=ObjectionHandlingRules(True, veto_threshold=2))
    words = {name: LEGEND[name].accepted(number) for number, name in enumerate("Spo", start=1)}
    source = marbles.hot("-S-p-o-p-o-|", words)
    marbles.expect(source.pipe(mo.under_policy(policy, PEOPLE))).to_be(
        "-a-b-------|", {"a": permits(positive=False, negative=False), "b": permits(positive=True, negative=True)}
    )


def test_a_quorum_s_sign_does_not_matter_to_its_mode(marbles: Marbles) -> None:
    policy = build_quorum_policy("policy.own", threshold=QuorumThreshold("n_of_m", 2))
    words = {
        "S": said("chair", start(*PEOPLE, mode=quorum.MODE)),
        "r": said("chair", quorum.request_approval("r1", "deploy", required_approvals=4)),
        "a": said("alice", quorum.approve("r1")),
        "b": said("bob", quorum.approve("r1")),
    }
    source = marbles.hot("-S-r-a-b-|", words)
    marbles.expect(source.pipe(mo.under_policy(policy, PEOPLE))).to_be(
        "-x-----y-|", {"x": permits(positive=False, negative=False), "y": permits(positive=True, negative=True)}
    )


def test_a_mode_that_no_policy_governs(marbles: Marbles) -> None:
    words = {
        "S": said("chair", start("alice", "bob", mode=multi_round.MODE)),
        "a": said("alice", multi_round.contribute("yes")),
        "b": said("bob", multi_round.contribute("yes")),
    }
    source = marbles.hot("-S-a-b-|", words)
    marbles.expect(source.pipe(mo.under_policy(DEFAULT, ["alice", "bob"]))).to_be(
        "-x---y-|", {"x": permits(positive=False, negative=False), "y": permits(positive=True, negative=True)}
    )


@pytest.mark.parametrize(
    ("letters", "policy", "participants", "says"),
    [
        ("p", DEFAULT, PEOPLE, "under_policy needs a session's history from its SessionStart on"),
        ("S", DEFAULT, ["alice"], "participants are chair, alice, bob, carol, and under_policy was given alice"),
        ("S", build_quorum_policy("q"), PEOPLE, "policy 'q' is for macp.mode.quorum.v1"),
        ("X", DEFAULT, PEOPLE, "'ext.own.v1' is none"),
    ],
)
def test_what_cannot_be_judged(letters: str, policy: Any, participants: list[str], says: str, marbles: Marbles) -> None:
    words = {**LEGEND, "X": said("chair", start(*PEOPLE, mode="ext.own.v1"))}
    heard: list[Exception] = []
    marbles.hot(f"-{letters}-|", words).pipe(mo.under_policy(policy, participants)).subscribe(on_error=heard.append)
    marbles.check(lambda: None if len(heard) == 1 and says in str(heard[0]) else str(heard))


def test_a_policy_or_its_descriptor(marbles: Marbles) -> None:
    for policy in (MAJORITY, policy_from(MAJORITY)):
        source = marbles.hot("-S-p-v-|", LEGEND)
        last = source.pipe(mo.under_policy(policy, PEOPLE), ops.last())
        expected = permits(positive=True, negative=False, why_not="decline_over_approval")
        marbles.expect(last).to_be("-------(a |)", {"a": expected})


def test_it_follows_a_session_live(macp_runtime: Runtime) -> None:
    with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client:
        session = DecisionSession(client, policy_version="policy.std.majority")
        session.start(intent="live", participants=PEOPLE, ttl_ms=60_000)
        heard: list[mo.Permitted] = []
        session.events.pipe(mo.under_policy(BUILT_IN["policy.std.majority"], PEOPLE)).subscribe(heard.append)
        session.propose("p1", "canary")
        session.acting_as("alice").vote("p1", "APPROVE")
        session.commit(action="decision.approved", authority_scope="session", reason="carried")
        session.outcome.run()
    assert [(one.positive, one.negative) for one in heard] == [
        (False, False),
        (False, False),
        (True, False),
        (False, False),
    ]


# Differential: what the runtimes do.

SESSIONS = 1000
"""So many on the embedded runtime; each costs some milliseconds there."""

FEW = 200
"""So many on a port, and on the real server."""


def seeds(sessions: int) -> list[str]:
    return [f"{mode}#{number}" for number in range(sessions // len(COURSES)) for mode in COURSES]


def check(client: MacpClient, sessions: int) -> None:
    agreement = Agreement()
    for seed in seeds(sessions):
        try:
            compare(client, seed, agreement)
        except AssertionError as error:
            raise AssertionError(f"session {seed}: {error}") from error
    enough(agreement.commitments, sessions, accepted=0.7, denied=0.3)
    enough(agreement.replayed, sessions, accepted=1.0, denied=0.2)


def enough(found: Counter[str], sessions: int, *, accepted: float, denied: float) -> None:
    """That they agree says something only if both happen often."""
    assert found["ok"] >= accepted * sessions, found
    assert found["POLICY_DENIED"] >= denied * sessions, found


def test_it_agrees_with_the_embedded_runtime_and_its_what_if_replay(macp_runtime: Runtime) -> None:
    with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client:
        check(client, SESSIONS)


@pytest.mark.parametrize("connect", ["port", pytest.param("server", marks=pytest.mark.server)], indirect=True)
def test_it_agrees_with_a_server_and_its_what_if_replay(connect: Connect) -> None:
    check(connect("chair"), FEW)
