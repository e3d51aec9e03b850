"""A Timeline is one value in three forms: itself, marble text, JSON Lines."""

from __future__ import annotations

import json

import pytest
import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from macp.modes.decision.v1.decision_pb2 import VotePayload
from macp.v1.envelope_pb2 import Ack, Envelope, MACPError
from reactivex import operators as ops

from macp_rx import (
    Accepted,
    DecisionSession,
    MacpAckError,
    MacpClient,
    MacpIdentityMismatchError,
    MacpSessionError,
    MacpStreamError,
    MacpTimeoutError,
    MacpTransportError,
    Runtime,
)
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.protocol.map import Map
from macp_rx.protocol.modes import decision
from macp_rx.timeline import Completed, Event, Failed, Next, Recorder, Span, Timeline, exactly_equal

hashable = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=5) | st.datetimes()
values = st.recursive(
    hashable | st.timedeltas() | st.frozensets(hashable, max_size=3) | st.sets(hashable, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.builds(Map, st.dictionaries(hashable, inner, max_size=3))
    ),
    max_leaves=4,
)
errors = st.builds(ValueError, values) | st.builds(KeyError) | st.builds(ZeroDivisionError, st.text())
notifications = st.builds(Next, values) | st.builds(Failed, errors) | st.just(Completed())
lanes = st.sampled_from(["chair", "alice", "b-ob", "a.b"])


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    times = sorted(draw(st.lists(st.integers(0, 10**9) | st.integers(0, 30).map(lambda ms: ms * 1000), max_size=8)))
    events = tuple(Event(time, draw(lanes), draw(notifications)) for time in times)
    spans = tuple(
        Span(draw(lanes), begin, draw(st.none() | st.integers(begin, begin + 10**7)))
        for begin in draw(st.lists(st.integers(0, 10**6), max_size=3))
    )
    return Timeline(events, spans)


@given(timelines())
def test_text_is_the_same_value(timeline: Timeline) -> None:
    assert Timeline.parse(str(timeline)) == timeline


@given(timelines())
def test_json_lines_are_the_same_value(timeline: Timeline) -> None:
    assert Timeline.from_json_lines(timeline.to_json_lines()) == timeline


def test_a_line_break_of_unicode_is_no_end_of_a_line() -> None:
    timeline = Timeline((Event(0, "a", Next("\x85 \u2028")), Event(1000, "a", Completed())))
    assert Timeline.from_json_lines(timeline.to_json_lines()) == timeline
    assert Timeline.parse(str(timeline)) == timeline


def test_equality_is_exact() -> None:
    assert Next(1) != Next(True)
    assert Next([1]) != Next([True])
    assert Next(1) != Next(1.0)
    assert Failed(ValueError("x")) == Failed(ValueError("x"))
    assert Failed(ValueError("x")) != Failed(TypeError("x"))
    assert Failed(ValueError("x")) != Failed(ValueError("y"))
    assert Failed(MacpTransportError("NOT_FOUND", "m")) != Failed(MacpTransportError("UNAVAILABLE", "m"))
    assert Next(mo.Count(1)) != Next(mo.Count(True))
    assert Next({1}) != Next({True})
    assert Next({1: "a"}) != Next({True: "a"})
    assert Next(Map({"a": 1})) != Next(Map({"a": True}))
    assert Next({(1,): "a"}) != Next({(True,): "a"})
    assert Next({(1, frozenset({2}))}) != Next({(1, frozenset({2.0}))})
    assert Next(float("nan")) == Next(float("nan"))
    assert Next({float("nan"): 1}) == Next({float("nan"): 1}) != Next({float("nan"): 2})
    assert Next({(float("nan"),)}) == Next({(float("nan"),)})
    assert Next({float("nan"): 1, -float("nan"): 2}) == Next({float("nan"): 2, -float("nan"): 1})
    assert Next({float("nan"): 1, -float("nan"): 1}) != Next({float("nan"): 1})
    assert exactly_equal({"a": (1,)}, {"a": (1,)})
    assert not exactly_equal({"a": (1,)}, {"a": [1]})


def test_a_recording_reads_as_marbles() -> None:
    clock = VirtualClock()
    recorder = Recorder(clock)
    ticks = rx.timer(0.001, 0.002, scheduler=clock).pipe(ops.map(str), ops.map("t".__add__), ops.take(3))
    recorder.record(ticks, "ticks")
    recorder.record(rx.throw(ValueError("no"), scheduler=clock), "broken")
    clock.run_until_idle()
    assert str(recorder.timeline).splitlines() == [
        "ticks^  : ^     - -- -!",
        "broken^ : (^ !) - -- --",
        "broken  : a     - -- --",
        "ticks   : -     t0-t1-(t2 |)",
        'a = # {"@": "error", "type": "builtins.ValueError", "args": ["no"]}',
    ]
    assert [event.time for event in recorder.timeline.lane("ticks").events] == [1000, 3000, 5000, 5000]


def test_the_legend_may_be_in_other_words() -> None:
    timeline = Timeline(
        (Event(0, "a", Next([1])), Event(0, "a", Next("word")), Event(0, "a", Failed(ValueError("no"))))
    )
    told = timeline.marbles(lambda value: f"a {type(value).__name__}")
    assert told.splitlines() == ["a : (a word b)", "a = a list", "b = # a ValueError"]


def test_ten_thousand_values_are_written_and_read() -> None:
    timeline = Timeline(tuple(Event(number, "a", Next([number])) for number in range(10_000)))
    assert Timeline.parse(str(timeline)) == timeline  # in a second: names that are searched one by one take minutes


def test_long_silences_are_written_in_real_units() -> None:
    timeline = Timeline((Event(0, "a", Next("x")), Event(82_801_000_000, "a", Completed())))
    assert str(timeline) == "a : x 23h 999ms |"
    assert Timeline.parse(str(timeline)) == timeline


def test_what_macp_rx_emits_can_be_stored() -> None:
    envelope = Envelope(mode="macp.mode.decision.v1", message_type="Vote", sender="alice", payload=b"\x00\xff")
    verdict = mo.Verdict("p1", True, "because", mo.Count(2, 1))
    stored = Timeline(
        (
            Event(0, "a", Next(Accepted(1, envelope))),
            Event(1000, "a", Next(VotePayload(proposal_id="p1"))),
            Event(2000, "a", Next(verdict)),
            Event(3000, "a", Next(mo.UNDECIDED)),
            Event(3500, "a", Next(mo.Tally(Map({"p1": mo.Count(2, 1)})))),
            Event(4000, "a", Failed(MacpSessionError("no"))),
        )
    )
    assert Timeline.from_json_lines(stored.to_json_lines()) == stored
    assert Timeline.parse(str(stored)) == stored


def test_an_envelope_is_stored_as_macp_canonical_json() -> None:
    vote = VotePayload(proposal_id="p1", vote="APPROVE").SerializeToString()
    envelope = Envelope(mode="macp.mode.decision.v1", message_type="Vote", timestamp_unix_ms=1, payload=vote)
    line = json.loads(Timeline((Event(0, "a", Next(Accepted(7, envelope))),)).to_json_lines())
    assert line["next"]["sequence"] == 7
    assert line["next"]["envelope"]["timestamp"] == "1970-01-01T00:00:00.001Z"
    assert line["next"]["envelope"]["payload"] == {"proposal_id": "p1", "vote": "APPROVE", "reason": ""}


@pytest.mark.parametrize("wire", [b"\xf8\x01\x01", b"\x0a\x03new\xf8\x01\x01"])
def test_a_message_that_json_cannot_say_is_stored_as_bytes(wire: bytes) -> None:
    """A field of a newer protocol, in a message and in an accepted envelope."""
    message, envelope = VotePayload.FromString(wire), Envelope.FromString(wire)
    stored = Timeline((Event(0, "a", Next(message)), Event(0, "a", Next(Accepted(1, envelope)))))
    assert Timeline.from_json_lines(stored.to_json_lines()) == stored
    assert Timeline.parse(str(stored)) == stored


REFUSED = Ack(error=MACPError(code="POLICY_DENIED", message="no", details=b'{"reasons":["a veto"]}'))


@pytest.mark.parametrize(
    "error",
    [
        MacpAckError(REFUSED, "Commitment"),
        MacpStreamError(MACPError(code="FORBIDDEN", message="Forbidden", message_id="m1", session_id="s1")),
        MacpIdentityMismatchError("alice", "bob"),
        MacpTransportError(
            "NOT_FOUND", "gone", code="SESSION_NOT_FOUND", details=b"{}", trailing_metadata=[("a", b"1")]
        ),
        MacpTimeoutError("nothing came", method="/macp.v1.MACPRuntimeService/Send"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "why"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_stored_with_all_that_it_carries(error: Exception) -> None:
    stored = Timeline((Event(0, "a", Failed(error)),))
    for read in (Timeline.from_json_lines(stored.to_json_lines()), Timeline.parse(str(stored))):
        assert read == stored
        (event,) = read.events
        assert isinstance(event.what, Failed)
        assert (str(event.what.error), vars(event.what.error)) == (str(error), vars(error))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("frame : xus", "'frame' cannot be read"),
        ("a : -(", "'a' cannot be read"),
        ("a^ : !", r"'a\^' cannot be read"),
        ("a : x\nx = {bad", "what 'x' means cannot be read"),
        ('a : x\nx = {"@":"error"}', "what 'x' means cannot be read"),
        ("a : x-y\norder : a", "order names each lane as often as it has events"),
        ("a : x\norder : b", "order names each lane as often as it has events"),
    ],
)
def test_what_is_no_timeline_is_told(text: str, told: str) -> None:
    with pytest.raises(MacpSessionError, match=told):
        Timeline.parse(text)


def test_a_file_does_not_choose_what_is_imported() -> None:
    line = '{"time":0,"lane":"a","next":{"@":"subprocess.Popen","fields":{"args":"true"}}}\n'
    with pytest.raises(MacpSessionError, match=r"subprocess\.Popen"):
        Timeline.from_json_lines(line)
    with pytest.raises(MacpSessionError, match=r"builtins\.eval"):
        Timeline.from_json_lines('{"time":0,"lane":"a","error":{"@":"error","type":"builtins.eval","args":["1"]}}\n')


def test_a_broken_line_is_named() -> None:
    with pytest.raises(MacpSessionError, match=r"line 1 .* no macp\.v1\.Envelope"):
        Timeline.from_json_lines('{"time":0,"lane":"a","next":{"@":"macp.v1.Envelope","message":"/w=="}}\n')
    with pytest.raises(MacpSessionError, match="line 2"):
        Timeline.from_json_lines('{"time":0,"lane":"a","completed":true}\n{"time":')
    with pytest.raises(MacpSessionError, match="no lane"):
        Timeline.parse("what is this")


def test_what_cannot_be_stored_is_shown_all_the_same() -> None:
    drawn = str(Timeline((Event(0, "a", Next(slice(1))),)))
    assert drawn.splitlines() == ["a : a", 'a = {"@": "text", "text": "slice(None, 1, None)"}']
    with pytest.raises(MacpSessionError, match="only the text"):
        Timeline.parse(drawn)


def test_the_states_of_a_session_can_be_stored(macp_runtime: Runtime, virtual_time: VirtualClock) -> None:
    session = DecisionSession(MacpClient.embedded(agent="chair", runtime=macp_runtime))
    session.start(intent="states", participants=["chair"], ttl_ms=60_000)
    recorder = Recorder(virtual_time)
    recorder.record(session.events.pipe(mo.states(decision)), "states")
    recorder.record(session.events.pipe(mo.tally()), "tally")
    session.propose("p1", "one")
    session.evaluate("p1", "APPROVE", confidence=0.5)
    session.vote("p1", "APPROVE")
    session.commit(action="a.b", authority_scope="test", reason="because")
    virtual_time.run_until_idle()
    recorded = recorder.timeline
    assert len(recorded.lane("states").events) > 3
    assert Timeline.from_json_lines(recorded.to_json_lines()) == recorded
    assert Timeline.parse(str(recorded)) == recorded


def test_what_cannot_be_stored_says_so() -> None:
    with pytest.raises(MacpSessionError, match="cannot be written"):
        Timeline((Event(0, "a", Next(object())),)).to_json_lines()
