"""What-if replay: what holds of every history."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from macp.v1.policy_pb2 import WhatIfEntryOutcome

from macp_rx.protocol.policy import policy_from
from macp_rx.protocol.what_if import what_if
from tests.protocol.plays import ALL_MODES, REGISTRY, perform, plays
from tests.protocol.policies import descriptors

every_mode = pytest.mark.parametrize("mode", ALL_MODES)


@every_mode
@given(data=st.data())
def test_under_its_own_policy_nothing_would_have_been_different(mode: str, data: st.DataObject) -> None:
    play = data.draw(plays(mode).filter(lambda play: play.steps))
    *_, last = perform(play)
    reply = what_if(last.after, REGISTRY[mode], last.after.bound.policy)
    assert not reply.HasField("first_divergence")
    assert reply.recorded == reply.candidate
    assert reply.recorded.state == last.after.state
    assert reply.recorded.resolution == last.after.resolution
    assert [entry.history_index for entry in reply.entries] == list(range(last.after.accepted))
    assert {entry.candidate.kind for entry in reply.entries} == {WhatIfEntryOutcome.KIND_APPLIED}


@every_mode
@given(data=st.data())
def test_the_recorded_side_is_what_happened_whatever_the_candidate(mode: str, data: st.DataObject) -> None:
    """And the first divergence is the first entry that differs."""
    play = data.draw(plays(mode).filter(lambda play: play.steps))
    *_, last = perform(play)
    reply = what_if(last.after, REGISTRY[mode], policy_from(data.draw(descriptors(mode, "candidate"))))
    assert (reply.candidate_policy_id, reply.recorded_policy_id) == ("candidate", "policy.test")
    assert {entry.recorded.kind for entry in reply.entries} == {WhatIfEntryOutcome.KIND_APPLIED}
    assert reply.recorded.state == last.after.state
    differing = [entry.history_index for entry in reply.entries if entry.recorded != entry.candidate]
    assert reply.HasField("first_divergence") == bool(differing)
    assert differing[:1] in ([], [reply.first_divergence])
