from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from macp.v1.envelope_pb2 import Envelope
from reactivex import operators as ops

from macp_rx import Accepted, MacpClient, MacpSessionError, Message, Runtime
from macp_rx import operators as mo
from macp_rx.protocol.messages import PROPOSAL
from macp_rx.protocol.modes import MODES, decision, proposal, quorum, task
from macp_rx.protocol.policy import (
    BUILT_IN,
    AcceptanceRules,
    VotingRules,
    build_decision_policy,
    build_proposal_policy,
    build_quorum_policy,
    policy_from,
)
from macp_rx.testing import Marbles, Where, said
from tests.operators.checks import redelivered
from tests.operators.voices import LEGEND, commit, start
from tests.protocol.plays import perform, plays
from tests.runtime.conversation import OK, Conversation

PHASES = (decision.Phase.PROPOSAL, decision.Phase.EVALUATION, decision.Phase.VOTING)


def history(*words: tuple[str, Message]) -> list[Accepted]:
    return [said(sender, message).accepted(number) for number, (sender, message) in enumerate(words, start=1)]


def last_of(words: Sequence[Accepted], operator: Any) -> Any:
    return rx.from_iterable(words).pipe(operator).run()


def test_a_state_after_each_accepted_message(marbles: Marbles) -> None:
    source = marbles.hot("-S-p-v-w-C|", LEGEND)
    phases = {
        name: Where(lambda state, phase=phase: state.phase is phase, f"a state in phase {phase}")
        for name, phase in zip("abcde", [*PHASES, decision.Phase.VOTING, decision.Phase.COMMITTED], strict=True)
    }
    marbles.expect(source.pipe(mo.states(decision))).to_be("-a-b-c-d-e|", phases)
    marbles.expect_subscriptions(source).to_be("^---------!")


def test_what_comes_again_changes_nothing(marbles: Marbles) -> None:
    one = LEGEND["S"].accepted(1)
    two = LEGEND["p"].accepted(2)
    source = marbles.hot("-a-b-a-b-|", {"a": one, "b": two})
    state = Where(lambda state: isinstance(state, decision.State))
    marbles.expect(source.pipe(mo.states(decision))).to_be("-s-s-----|", {"s": state})


def test_a_history_without_its_beginning_is_none(marbles: Marbles) -> None:
    source = marbles.hot("-p-v-|", LEGEND)
    expected = MacpSessionError(
        "states needs a session's history from its SessionStart on, and heard Proposal 'm1' (sequence 1) first; "
        "subscribe to session.events, after_sequence=0"
    )
    marbles.expect(source.pipe(mo.states(decision))).to_be("-#", error=expected)


def wrong(operator: Any, words: Sequence[Accepted]) -> str:
    with pytest.raises(MacpSessionError) as error:
        last_of(words, operator)
    return str(error.value)


def test_another_mode_s_rules_are_an_error() -> None:
    said_so = wrong(mo.states(task), history(("chair", start("alice"))))
    assert said_so == "states was given the rules of macp.mode.task.v1, and the session is one of macp.mode.decision.v1"


def test_a_second_session_is_an_error() -> None:
    first, second = history(("chair", start("alice")), ("chair", start("alice")))
    other = Envelope()
    other.CopyFrom(second.envelope)
    other.session_id = "another"
    assert "mo.in_session" in wrong(mo.states(decision), [first, Accepted(1, other)])


def test_the_session_s_built_in_policy_is_taken() -> None:
    words = history(("chair", start("alice", policy="policy.std.majority")), ("alice", decision.propose("p1", "one")))
    assert last_of(words, mo.states(decision)).phase is decision.Phase.EVALUATION


def test_any_other_must_be_handed_over() -> None:
    words = history(("chair", start("alice", policy="policy.own")))
    assert "'policy.own', which is not built in" in wrong(mo.states(decision), words)
    assert (
        last_of(words, mo.states(decision, policy=build_decision_policy("policy.own"))).phase is decision.Phase.PROPOSAL
    )


def test_and_must_be_the_one_that_it_is_bound_to() -> None:
    words = history(("chair", start("alice", policy="policy.own")))
    said_so = wrong(mo.states(decision, policy=BUILT_IN["policy.std.majority"]), words)
    assert said_so == "the session is bound to policy 'policy.own', and states was given 'policy.std.majority'"


def test_one_of_another_mode_is_an_error() -> None:
    words = history(("chair", start("alice", policy="policy.own")))
    assert "is for macp.mode.quorum.v1" in wrong(mo.states(decision, policy=build_quorum_policy("policy.own")), words)


def test_a_policy_of_the_same_name_that_refuses_what_was_accepted_is_not_the_session_s() -> None:
    strict = build_decision_policy("policy.own", voting=VotingRules("unanimous"))
    words = history(
        ("chair", start("alice", "bob", policy="policy.own")),
        ("alice", decision.propose("p1", "one")),
        ("alice", decision.vote("p1", "REJECT")),
        ("chair", commit()),
    )
    said_so = wrong(mo.states(decision, policy=strict), words)
    assert said_so.startswith(
        "Commitment 'm4' (sequence 4) was accepted, and the policy 'policy.own' that states was given"
    )
    assert "POLICY_DENIED" in said_so


def test_the_policy_counts() -> None:
    """A proposal that the initiator alone must accept."""
    policy = build_proposal_policy("policy.own", acceptance=AcceptanceRules("initiator"))
    words = history(
        ("alice", start("alice", "bob", mode=PROPOSAL, policy="policy.own")),
        ("bob", proposal.propose("p1", "one")),
        ("alice", proposal.accept("p1")),
    )
    assert last_of(words, mo.states(proposal, policy=policy)).phase == "Converged"
    assert last_of(words, mo.states(proposal, policy=policy_from(policy))).phase == "Converged"


def test_a_quorum_as_the_runtime_has_it(macp_runtime: Runtime) -> None:
    client = MacpClient.embedded(agent="chair", runtime=macp_runtime)
    talk = Conversation(client, quorum.MODE)
    assert talk.say("chair", quorum.request_approval("r1", "deploy", required_approvals=2)) == OK
    assert talk.say("alice", quorum.approve("r1")) == OK
    assert talk.say("alice", quorum.approve("r1")) == "INVALID_ENVELOPE"  # refused, so it is in no state
    state = client.history(talk.session_id).pipe(mo.states(quorum)).run()
    assert (state.approval_count, state.remaining_votes_needed) == (1, 1)


@pytest.mark.parametrize("mode", MODES)
@given(data=st.data())
def test_it_is_the_state_that_the_runtime_has(mode: str, data: st.DataObject) -> None:
    """Of every accepted history, whatever else was tried, however it is delivered."""
    play = data.draw(plays(mode))
    session = None
    for moment in perform(play):
        session = moment.after
    if session is None:
        return
    accepted = [
        Accepted(number, entry.envelope)
        for number, entry in enumerate((entry for entry in session.log or () if entry.envelope), start=1)
        if entry.envelope
    ]
    rules = MODES[mode].mode
    policy = policy_from(play.policy)
    states = rx.from_iterable(redelivered(accepted, data)).pipe(mo.states(rules, policy=policy), ops.to_list()).run()
    assert len(states) == len(accepted)
    assert comparable(rules.as_json(states[-1])) == comparable(rules.as_json(session.mode_state))


def comparable(state: Any) -> Any:
    """Without the times of the runtime's own clock, which a history does not tell."""
    for offer in state.get("offers", {}).values():
        offer.pop("offered_at_ms", None)
        offer.pop("suspended_ms_at_offer", None)
    return state
