from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from macp.modes.decision.v1.decision_pb2 import VotePayload

from macp_rx import Accepted, MacpClient, MacpSessionError, Runtime
from macp_rx import operators as mo
from macp_rx.protocol.messages import HANDOFF
from macp_rx.protocol.modes import handoff
from macp_rx.protocol.policy import AcceptanceRules, build_handoff_policy
from macp_rx.testing import Marbles
from macp_rx.testing.guard import GuardedClock
from tests.operators.checks import check_redelivery
from tests.operators.voices import LEGEND
from tests.runtime.conversation import OK, Conversation, register

ALL = ["chair", "alice", "bob"]


def spoken(*names: str) -> mo.Participation:
    return mo.Participation(names, tuple(name for name in ALL if name not in names))


def test_it_tells_each_time_somebody_speaks_for_the_first_time(marbles: Marbles) -> None:
    source = marbles.hot("-p-v-v-w-|", LEGEND)
    marbles.expect(source.pipe(mo.participation(ALL))).to_be(
        "-a-b---c-|", {"a": spoken("chair"), "b": spoken("chair", "alice"), "c": spoken("chair", "alice", "bob")}
    )
    marbles.expect_subscriptions(source).to_be("^--------!")


def test_behind_of_type_it_tells_who_has_voted(marbles: Marbles) -> None:
    source = marbles.hot("-p-w-|", LEGEND)
    marbles.expect(source.pipe(mo.of_type(VotePayload), mo.participation(ALL))).to_be("---a-|", {"a": spoken("bob")})


def test_others_do_not_count_and_starting_a_session_is_no_word_in_it(marbles: Marbles) -> None:
    source = marbles.hot("-S-x-|", LEGEND)
    marbles.expect(source.pipe(mo.participation(ALL))).to_be("-----|")


def test_it_is_complete_when_nobody_is_missing() -> None:
    assert not spoken("chair").complete
    assert spoken("chair", "alice", "bob").complete


def test_it_agrees_with_the_activity_that_the_runtime_tells(macp_runtime: Runtime, virtual_time: GuardedClock) -> None:
    """Also about an acceptance that the runtime says for somebody who does not answer."""
    client = MacpClient.embedded(agent="chair", runtime=macp_runtime)
    policy = register(client, build_handoff_policy, acceptance=AcceptanceRules(implicit_accept_timeout_ms=1000))
    talk = Conversation(client, HANDOFF, ALL, policy=policy)
    assert talk.say("chair", handoff.offer("h1", "alice", scope="all")) == OK
    virtual_time.advance_by(2)
    assert talk.kinds()[-1] == "HandoffAccept"
    events = client.history(talk.session_id)
    last = events.pipe(mo.participation(ALL)).run()
    active = {one.participant_id for one in talk.metadata().participant_activity}
    assert set(last.spoken) == active == {"chair"}


@pytest.mark.parametrize(("participants", "says"), [([], "at least one"), ("alice", "not one name")])
def test_somebody_is_expected(participants: list[str], says: str) -> None:
    with pytest.raises(MacpSessionError, match=says):
        mo.participation(participants)


@given(st.lists(st.sampled_from("pvwxyz"), max_size=20), st.data())
def test_redelivery_changes_nothing(letters: list[str], data: st.DataObject) -> None:
    accepted: list[Accepted] = [LEGEND[letter].accepted(number) for number, letter in enumerate(letters, start=1)]
    check_redelivery(mo.participation(ALL), accepted, data)
