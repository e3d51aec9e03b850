"""A timeline as a picture."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from macp.modes.decision.v1.decision_pb2 import VotePayload
from macp.v1.envelope_pb2 import Envelope

from macp_rx import (
    Accepted,
    Connection,
    Denial,
    MacpGapError,
    MacpSessionError,
    MacpTimeoutError,
    Outcome,
    Status,
    diagrams,
)
from macp_rx import operators as mo
from macp_rx.protocol.modes import decision
from macp_rx.simulation import Refusal
from macp_rx.timeline import Completed, Event, Failed, Next, Notification, Span, Timeline
from tests.diagrams.reading import SVG, Drawn
from tests.diagrams.stories import long, reconnected, rollout
from tests.operators.voices import LEGEND

HOUR = 3_600_000_000


def timeline(*events: tuple[int, str, object], spans: tuple[Span, ...] = ()) -> Timeline:
    """Events as (microseconds, lane, item or notification)."""
    notified = (Event(at, lane, what if isinstance(what, Notification) else Next(what)) for at, lane, what in events)
    return Timeline(tuple(notified), spans)


def drawn(*events: tuple[int, str, object], spans: tuple[Span, ...] = ()) -> Drawn:
    return Drawn(diagrams.svg(timeline(*events, spans=spans)))


# What is in it.

VALUES = st.one_of(
    st.integers(),
    st.text(),
    st.none(),
    st.sampled_from(
        [
            LEGEND["v"].accepted(1),
            LEGEND["C"].accepted(2),
            Refusal("alice", "Vote", "FORBIDDEN"),
            Status(Connection.GAP, 4, missing=2),
            mo.Verdict("p1", True, "because", mo.Count(2)),
            mo.Tally().plus("p1", "APPROVE"),
            object(),
            {1, 2},
            [object()],
        ]
    ),
)
NOTIFICATIONS = st.one_of(
    VALUES.map(Next),
    st.just(Completed()),
    st.text().map(ValueError).map(Failed),
    st.just(Failed(MacpTimeoutError("x"))),
)
EVENTS = st.builds(
    Event,
    st.one_of(st.integers(-1_000, 2_000), st.integers(-HOUR, 30 * HOUR)),
    st.one_of(st.sampled_from(["alice", "bob", "carol"]), st.text(max_size=3)),
    NOTIFICATIONS,
)
SPANS = st.builds(
    Span, st.sampled_from(["alice", "bob", "nobody"]), st.integers(0, 2_000), st.none() | st.integers(2_000)
)
TIMELINES = st.builds(Timeline, st.lists(EVENTS, max_size=200).map(tuple), st.lists(SPANS, max_size=60).map(tuple))


@settings(max_examples=150, deadline=None)
@given(TIMELINES, st.integers(320, 1_200))
def test_every_event_is_drawn_or_counted_once(recorded: Timeline, width: int) -> None:
    picture = diagrams.svg(recorded, width=width)
    found = Drawn(picture)
    assert found.events == len(recorded.events)
    assert len(set(found.ids)) == len(found.ids)
    assert found.width <= width
    assert picture == diagrams.svg(recorded, width=width)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5_000), st.sampled_from("ab"), st.sampled_from("Spvwxoe")), max_size=150))
def test_no_label_covers_another_and_none_leaves_the_picture(said: list[tuple[int, str, str]]) -> None:
    found = drawn(*((at, lane, LEGEND[name].accepted(number)) for number, (at, lane, name) in enumerate(said, start=1)))
    labels = sorted(found.labels, key=lambda label: (label.y, label.left))
    for one, other in pairwise(labels):
        assert one.y != other.y or one.right <= other.left, (one, other)
    assert all(label.left >= 0 and label.right <= found.width and label.y < found.height for label in labels)


def test_an_empty_timeline_is_a_picture_too() -> None:
    found = Drawn(diagrams.svg(Timeline()))
    assert found.marks == []


def test_each_participant_has_a_lane_and_each_message_its_name() -> None:
    run = rollout()
    assert run.timeline is not None
    texts = Drawn(diagrams.svg(run.timeline)).texts
    for name in ("chair", "alice", "bob", "carol", "dave"):
        assert texts.count(name) == 1
    for text in ("SessionStart", "Proposal", "Objection", "Evaluation", "Commitment", "FORBIDDEN", "p1: canary"):
        assert text in texts
    assert texts.count("Vote") == 4


def test_a_tooltip_tells_all() -> None:
    found = drawn((1_500, "alice", LEGEND["v"].accepted(7)))
    assert found.tips == [
        'alice at 1ms 500us: Vote p1: approve\n#7 Vote {"proposal_id": "p1", "vote": "APPROVE", "reason": ""}'
    ]


def test_a_tooltip_of_a_value_has_no_names_of_classes_and_no_addresses() -> None:
    (tip,) = drawn((0, "a", Refusal("a", "Vote", "POLICY_DENIED", (Denial("veto", "bob objects"),)))).tips
    assert tip.splitlines()[1].endswith('"denials": [{"code": "veto", "message": "bob objects", "participants": []}]}')
    (tip,) = drawn((0, "a", object())).tips
    assert tip == "a at 0ms: object\nobject"


# Never by colour alone.


def test_signs_of_votes_differ_in_shape_and_in_words() -> None:
    found = drawn(*((1, name, LEGEND[name].accepted(1)) for name in "vwx"))
    looks = [found.look(f"p1: {word}") for word in ("approve", "reject", "abstain")]
    assert looks[0] != looks[1] != looks[2] != looks[0]


def test_what_is_not_a_vote_differs_in_shape() -> None:
    positive = LEGEND["C"].accepted(1)

    found = drawn(
        (1, "a", positive),
        (1, "b", mo.Verdict("p1", True, "because", mo.Count(2))),
        (1, "c", mo.Verdict("p1", False, "because", mo.Count(0, 2))),
        (1, "d", mo.UNDECIDED),
        (1, "e", Refusal("e", "Signal", "POLICY_DENIED")),
        (1, "f", Failed(ValueError("broken"))),
        (1, "g", Failed(MacpTimeoutError("late"))),
        (1, "h", Failed(MacpGapError(3, 9, "s1"))),
        (1, "i", LEGEND["o"].accepted(1)),
        (1, "j", LEGEND["e"].accepted(1)),
        (1, "k", LEGEND["p"].accepted(1)),
        (1, "l", Outcome("EXPIRED", None, "its deadline has passed")),
        (1, "m", Status(Connection.LOST, 5)),
        (1, "n", LEGEND["v"].message),
    )
    names = [
        "Commitment",
        "for p1",
        "against p1",
        "undecided",
        "POLICY_DENIED",
        "ValueError",
        "timeout",
        "gap",
        "Objection",
        "Evaluation",
        "Proposal",
        "EXPIRED",
        "lost",
        "Vote",
    ]
    looks = {name: tuple(found.look(name)) for name in names}
    looks.pop("undecided"), looks.pop("lost")  # a clock, and a break, as two others; their words differ
    assert len(set(looks.values())) == len(looks)


def test_a_negative_commitment_has_another_sign() -> None:
    payload = LEGEND["C"].accepted(1).payload
    payload.outcome_positive = False
    envelope = Envelope(mode=decision.MODE, message_type="Commitment", payload=payload.SerializeToString())
    assert drawn((1, "a", Accepted(1, envelope))).look("Commitment") != drawn((1, "a", LEGEND["C"].accepted(1))).look(
        "Commitment"
    )


def test_bytes_that_are_no_payload_are_drawn_as_what_they_claim_to_be() -> None:
    broken = Accepted(1, Envelope(mode=decision.MODE, message_type="Vote", payload=b"\xff\xff"))
    strange = Accepted(2, Envelope(mode="ext.auction.v1", message_type="Bid", payload=b"\xff\xff"))
    texts = drawn((1, "a", broken), (2, "a", strange)).texts
    assert "Vote" in texts
    assert "Bid" in texts


# Connections and subscriptions.


def test_what_happens_to_a_connection_is_told() -> None:
    found = Drawn(diagrams.svg(reconnected()))
    for text in ("connected", "lost", "reconnecting", "caught up"):
        assert text in found.texts
    assert "12 missing" in drawn((1, "a", Status(Connection.GAP, 5, missing=12))).texts


def test_a_subscription_is_a_span() -> None:
    found = drawn((1_000, "a", 1), (5_000, "a", 2), spans=(Span("a", 0, 3_000), Span("a", 2_000, None)))
    assert "subscribed from 0 to 3 ms" in found.tips
    assert "subscribed from 2 ms to the end" in found.tips


def test_only_an_end_ends_a_lane() -> None:
    def goes_on(*events: tuple[int, str, object]) -> bool:
        return any(line.attrib["d"].count("L") == 2 for line in drawn(*events).root.iter(f"{SVG}path") if is_line(line))

    def is_line(element: Any) -> bool:
        return bool(element.attrib.get("class") == "line")

    assert goes_on((1, "a", 1))
    assert goes_on((1, "a", mo.UNDECIDED))
    assert goes_on((1, "a", Status(Connection.GAP, 5, missing=12)))
    assert goes_on((1, "a", Failed(ValueError("x"))), (2, "a", "and again"))
    assert not goes_on((1, "a", Failed(MacpTimeoutError("late"))))
    assert not goes_on((1, "a", Completed()))


# Time.


def test_a_long_silence_is_cut_and_the_cut_says_how_long_it_was() -> None:
    found = drawn(*((number * 1_000, "a", number) for number in range(6)), (23 * HOUR, "a", "late"))
    assert found.tips.count("nothing for 22 h 59 min") + found.tips.count("nothing for 23 h") == 1
    assert "23 h" in found.texts


def test_the_axis_is_in_real_units() -> None:
    times = (1, 1_000, 1_500_000, 65_000_000, 2 * HOUR + 300_000_000)
    texts = drawn(*((at, "a", at) for at in times)).texts
    for text in ("1 µs", "1 ms", "1.5 s", "1 min 5 s", "2 h 5 min"):
        assert text in texts


def test_what_comes_at_one_instant_keeps_its_order() -> None:
    found = drawn(*((0, lane, LEGEND["v"].accepted(number)) for number, lane in enumerate(("alice", "bob"), start=1)))
    assert [mark.attrib["id"] for mark in found.marks] == ["event-0", "event-1"]
    assert found.texts.count("0") == 1


# What is hostile.


def test_an_envelope_full_of_html_is_text() -> None:
    bad = "</text><script>alert(1)</script>&amp;\"'<![CDATA["
    vote = VotePayload(proposal_id=bad, vote="APPROVE", reason=bad)
    envelope = Envelope(mode=decision.MODE, message_type="Vote", sender=bad, payload=vote.SerializeToString())
    picture = diagrams.svg(timeline((1, bad, Accepted(1, envelope)), (2, bad, Failed(ValueError(bad)))), title=bad)
    assert "<script" not in str(picture)
    assert bad in Drawn(picture).texts
    assert any(bad in tip for tip in Drawn(picture).tips)
    assert "<script" not in diagrams.html(timeline((1, bad, bad)), title=bad)


def test_what_xml_cannot_say_is_replaced() -> None:
    bad = "\x00\x1b[31m\ud800\u202e\ufffe"
    texts = Drawn(diagrams.svg(timeline((1, bad, bad), (2, bad, Failed(ValueError(bad)))), title=bad)).texts
    assert all("\x00" not in text and "\ud800" not in text and "\u202e" not in text for text in texts)
    assert any("\ufffd" in text for text in texts)


# Size.


def test_ten_thousand_events_give_a_picture_that_opens() -> None:
    recorded = long(10_000)
    begin = time.process_time()
    picture = diagrams.svg(recorded)
    assert time.process_time() - begin < 5
    found = Drawn(picture)
    assert found.events == 10_000
    assert len(picture.text) < 500_000
    assert found.height < 6_000
    assert found.texts.count("RATE_LIMITED") == 2
    assert picture.plain == "a Timeline of 10000 events on 3 lanes"


def test_what_is_counted_has_the_colours_of_what_it_is() -> None:
    votes = (LEGEND["v"].accepted(number) for number in range(1, 1_001))
    events = tuple(Event(accepted.sequence, "alice", Next(accepted)) for accepted in votes)
    tiles = [
        tile.attrib["class"] for mark in Drawn(diagrams.svg(Timeline(events))).marks for tile in mark.iter(f"{SVG}path")
    ]
    assert set(tiles) == {"good"}


def test_a_title_has_the_room_that_it_needs() -> None:
    for length in range(40, 80):
        title = "a majority approves: 2 approve, 1 reject, 0 abstain of 3, and more of it"[:length].strip()
        assert title in Drawn(diagrams.svg(Timeline((Event(0, "a", Next(1)),)), title=title)).texts


def test_a_thousand_lanes_and_subscriptions_are_bounded_too() -> None:
    events = (Event(number, f"agent-{number % 1_000}", Next("x" * 100_000)) for number in range(10_000))
    spans = (Span("agent-0", number, number + 1) for number in range(10_000))
    picture = diagrams.svg(Timeline(tuple(events), tuple(spans)))
    assert Drawn(picture).events == 10_000
    assert len(picture.text) < 500_000
    assert "977 more lanes" in Drawn(picture).texts
    assert "10000 subscriptions" in Drawn(picture).texts


def test_a_picture_has_a_width_that_can_be_drawn_in() -> None:
    with pytest.raises(MacpSessionError, match="at least 320 pixels wide, not 10"):
        diagrams.svg(Timeline(), width=10)


# The value.


def test_a_picture_is_saved_as_svg_or_png(tmp_path: Path) -> None:
    picture = diagrams.svg(timeline((1, "a", 1)))
    picture.save(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text() == str(picture)
    picture.save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(MacpSessionError, match=r"saved as \.svg or \.png, not as \.gif"):
        picture.save(tmp_path / "a.gif")


def test_png_without_cairosvg_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cairosvg", None)
    with pytest.raises(MacpSessionError, match=r"pip install macp-rx\[png\]"):
        diagrams.svg(timeline((1, "a", 1))).png()


def test_a_notebook_gets_the_picture_and_the_marbles() -> None:
    recorded = timeline((1_000, "a", "x"))
    bundle = diagrams.svg(recorded)._repr_mimebundle_()
    assert bundle == {"image/svg+xml": str(diagrams.svg(recorded)), "text/plain": str(recorded)}


def test_themes_change_the_colours_and_nothing_else() -> None:
    recorded = timeline((1, "a", 1))
    follows = diagrams.svg(recorded)
    assert "prefers-color-scheme" in follows.text
    for theme in ("light", "dark"):
        fixed = follows.themed(theme)
        assert fixed == diagrams.svg(recorded, theme=theme)
        assert "var(" not in fixed.text
        assert fixed.themed("auto") == follows
    with pytest.raises(MacpSessionError, match="no theme 'blue', only auto, light, dark"):
        follows.themed("blue")  # type: ignore[arg-type]
