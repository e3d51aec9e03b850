"""Whatever happens to the connection, in whatever order, a session stream says what the session accepted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from macp_rx import MacpClient, Runtime
from macp_rx.clock import VirtualClock
from macp_rx.errors import MacpGapError
from macp_rx.protocol.messages import DECISION
from macp_rx.runtime import Settings
from macp_rx.streams.status import Connection, Status
from tests.runtime.conversation import OK, Conversation
from tests.streams.exact import Reader, exact, say
from tests.streams.wire import CUT, INTERNAL, LAGGED, Fault, Wire

SUFFERS = st.builds(
    Fault,
    error=st.sampled_from([None, CUT, INTERNAL, LAGGED]),
    ends=st.booleans(),
    after=st.integers(0, 6),
    redelivers=st.sampled_from([0, 0, 1, 5, 40]),
    doubled=st.booleans(),
    delay=st.sampled_from([0.0, 0.0, 0.01, 0.7]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from([1, 2, 5, 300])),
        st.tuples(st.just("cut"), st.sampled_from([None, CUT, LAGGED])),
        st.tuples(st.just("suffer"), SUFFERS),
        st.tuples(st.sampled_from(["down", "up", "wait", "go on", "suspend", "resume"]), st.none()),
        st.tuples(st.just("pass"), st.sampled_from([0.0, 0.01, 0.3, 4.0])),
    ),
    max_size=25,
)


@given(steps=STEPS, after=st.integers(0, 2), end=st.sampled_from(["commit", "cancel", "expire"]), polls=st.booleans())
def test_whatever_the_connection_does_what_is_heard_is_the_history(
    steps: list[tuple[str, Any]], after: int, end: str, polls: bool
) -> None:
    clock = VirtualClock()
    runtime = Runtime(clock=clock)
    wire = Wire(runtime)
    wire.in_process = not polls
    talk = Conversation(MacpClient.embedded(agent="chair", runtime=runtime), DECISION, ttl_ms=600_000)
    say(talk)
    if after:  # nobody can tell what comes again from what it has never heard
        steps = without_redelivery(steps)
    reader = Reader(wire.client().session_events(talk.session_id, after), clock)
    play(steps, clock, wire, talk, reader)
    wire.up()
    reader.go_on()
    if end == "commit":
        assert talk.commit() == OK
    elif end == "cancel":
        talk.client.cancel_session(talk.session_id)
    clock.advance_by(700 if end == "expire" else 200)
    exact(reader.heard, talk, after)
    assert reader.heard.completed
    talk.client.close()
    wire.close(lambda: None)
    assert runtime.open_calls == 0


@given(steps=STEPS, on_gap=st.sampled_from(["fail", "continue"]))
def test_where_history_is_forgotten_what_is_heard_is_a_beginning_of_it_and_one_gap_is_told(
    steps: list[tuple[str, Any]], on_gap: Any
) -> None:
    clock = VirtualClock()
    runtime = Runtime(clock=clock, settings=Settings(compact_ended=True))
    wire = Wire(runtime)
    talk = Conversation(MacpClient.embedded(agent="chair", runtime=runtime), DECISION, ttl_ms=600_000)
    say(talk)
    events = wire.client().session_events(talk.session_id, on_gap=on_gap)
    told: list[Status] = []
    events.status.subscribe(told.append)
    reader = Reader(events, clock)
    play(without_redelivery(steps), clock, wire, talk, reader)  # what is forgotten does not come again
    said = talk.history()
    assert talk.commit() == OK
    wire.up()
    reader.go_on()
    clock.advance_by(200)
    heard = reader.heard
    assert [one.message_id for one in heard.items][: len(said)] == [
        envelope.message_id for envelope in said[: len(heard.items)]
    ]
    missing = len(said) + 1 - len(heard.items)
    gaps = [status.missing for status in told if status.connection is Connection.GAP]
    if not missing:
        assert (heard.completed, gaps) == (True, [])
    elif on_gap == "fail":
        assert isinstance(heard.error, MacpGapError)
        assert (heard.error.seen, heard.error.lowest) == (len(heard.items), len(said) + 1)
    else:
        assert (heard.completed, gaps) == (True, [missing])
    wire.close(lambda: None)


def without_redelivery(steps: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(step, replace(what, redelivers=0) if step == "suffer" else what) for step, what in steps]


def play(steps: list[tuple[str, Any]], clock: VirtualClock, wire: Wire, talk: Conversation, reader: Reader) -> None:
    """Lets things happen to a session, and to the wire over which it is read."""
    open_ = True
    for step, what in steps:
        if step == "say" and open_:
            say(talk, what)
        elif step == "cut":
            wire.cut(what)
        elif step == "suffer":
            wire.next("StreamSession", what if what.error or what.ends else replace(what, after=0))
        elif step == "down":
            wire.down = CUT
        elif step == "up":
            wire.up()
        elif step == "wait":
            reader.wait()
        elif step == "go on":
            reader.go_on()
        elif step == "suspend" and open_:
            talk.client.suspend_session(talk.session_id)
            open_ = False
        elif step == "resume" and not open_:
            talk.client.resume_session(talk.session_id)
            open_ = True
        elif step == "pass":
            clock.advance_by(what)
    if not open_:
        talk.client.resume_session(talk.session_id)
