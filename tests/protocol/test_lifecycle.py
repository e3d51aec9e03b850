"""What holds of every session, in every mode, whatever is said in it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macp_rx.protocol import lifecycle
from macp_rx.protocol.lifecycle import Kind, Session
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.policy import policy_from
from tests.protocol.plays import ALL_MODES, REGISTRY, Play, Say, perform, plays

every_mode = pytest.mark.parametrize("mode", ALL_MODES)


def entries(session: Session) -> tuple[lifecycle.Entry, ...]:
    return tuple(session.log or ())


def image(session: Session) -> str:
    """Everything a session shows, as a text that nothing can change any more."""
    return json.dumps(
        [
            lifecycle.metadata(session).SerializeToString(deterministic=True).hex(),
            REGISTRY[session.bound.mode].mode.as_json(session.mode_state),
            [
                (e.kind.value, e.at, e.envelope.SerializeToString().hex() if e.envelope else "")
                for e in entries(session)
            ],
            sorted(session.message_ids),
            [session.accepted, session.suspended_at, session.suspended_ms, session.pauses, session.resolution.hex()],
        ]
    )


@every_mode
@given(data=st.data())
def test_a_log_makes_its_session_again(mode: str, data: st.DataObject) -> None:
    """After every step, so that a runtime may stop at any."""
    play = data.draw(plays(mode))
    for moment in perform(play):
        session = moment.after
        if session is not moment.before:
            assert lifecycle.replay(entries(session), REGISTRY[mode], session.bound.policy) == session


@every_mode
@given(data=st.data())
def test_a_refused_message_changes_nothing(mode: str, data: st.DataObject) -> None:
    """But that whoever looks finds out what time has done: the session is over, or an offer is accepted (3.4, 5 and 10)."""
    for moment in perform(data.draw(plays(mode))):
        if moment.refusal and isinstance(moment.step, Say) and moment.after is not moment.before:
            before = moment.before
            by_itself = (
                lifecycle.expire_if_due(before, moment.now),
                lifecycle.synthesize(before, REGISTRY[mode], moment.now),
            )
            assert moment.after in by_itself
            assert moment.step.envelope.message_id not in moment.after.message_ids


@every_mode
@given(data=st.data())
def test_a_known_message_id_changes_nothing(mode: str, data: st.DataObject) -> None:
    """Whatever else the message says, and whatever has become of the session."""
    play = data.draw(plays(mode))
    for moment in perform(play):
        if isinstance(moment.step, Say) and moment.step.envelope.message_id in moment.before.message_ids:
            assert moment.after is moment.before
            assert moment.refusal is None


@every_mode
@given(data=st.data())
def test_an_accepted_message_is_the_next_of_the_history(mode: str, data: st.DataObject) -> None:
    """As it was received; its sender is credited with one more, and the sequence has no gap."""
    for moment in perform(data.draw(plays(mode))):
        before, after = moment.before, moment.after
        assert entries(after)[: len(entries(before))] == entries(before)
        new = entries(after)[len(entries(before)) :]
        said = [entry.envelope for entry in new if entry.envelope is not None]
        assert after.accepted == before.accepted + len(said)
        assert after.accepted == sum(entry.envelope is not None for entry in entries(after))
        assert set(after.message_ids) == set(before.message_ids) | {envelope.message_id for envelope in said}
        if isinstance(moment.step, Say) and moment.refusal is None and new:
            envelope = moment.step.envelope
            assert new[-1] == (Kind.MESSAGE, moment.now, envelope)
            known = before.activity.get(envelope.sender)
            assert after.activity[envelope.sender] == (moment.now, known.messages + 1 if known else 1)
            assert after.ended == (envelope.message_type == "Commitment")
            assert [entry.kind for entry in new[:-1]] in ([], [Kind.SYNTHETIC])


@every_mode
@given(data=st.data())
def test_a_session_that_has_ended_stays_as_it_is(mode: str, data: st.DataObject) -> None:
    for moment in perform(data.draw(plays(mode))):
        if moment.before.ended:
            assert moment.after is moment.before


@every_mode
@given(data=st.data())
def test_a_session_is_a_value(mode: str, data: st.DataObject) -> None:
    """Whatever follows, an earlier state stays what it was: steps share structure, and change none."""
    kept: list[tuple[Session, str]] = []
    for moment in perform(data.draw(plays(mode))):
        kept += [(moment.before, image(moment.before)), (moment.after, image(moment.after))]
    for session, then in kept:
        assert image(session) == then


@every_mode
@given(data=st.data())
def test_a_play_is_a_function_of_its_steps(mode: str, data: st.DataObject) -> None:
    """Twice the same steps, twice the same sessions and refusals."""
    play: Play = data.draw(plays(mode))
    assert list(perform(play)) == list(perform(play))


@given(plays(DECISION, length=0), st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 20_000)), max_size=40))
def test_pauses_move_the_deadline_until_there_are_too_many(play: Play, spans: list[tuple[int, int]]) -> None:
    """Whatever a session had left of its time it has left after a pause."""
    policies = {play.policy.policy_id: policy_from(play.policy)}
    session = lifecycle.start(play.opening, 0, mode=REGISTRY[DECISION], policies=policies)
    deadline, now, paused = session.expires_at, 0, 0
    for open_ms, pause_ms in spans:
        session = lifecycle.suspend(session, now + open_ms)
        now += open_ms + pause_ms
        paused += pause_ms
        session = lifecycle.resume(session, now)
        assert session.ended == (paused > (session.start.max_suspend_ms or 7 * 86_400_000))
        if session.ended:
            break
        assert session.expires_at == deadline + paused
