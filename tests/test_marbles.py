"""The marble language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macp_rx import MacpSessionError
from macp_rx.marbles import Mark, draw, finest, parse, written


def marks(*pairs: tuple[float, str]) -> list[Mark]:
    return [Mark(round(milliseconds * 1000), what) for milliseconds, what in pairs]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--a--b-|", marks((2, "a"), (5, "b"), (7, "|"))),
        ("-(a b)-c", marks((1, "a"), (1, "b"), (3, "c"))),  # a group takes one frame: what follows is not shifted
        ("-(v C)|", marks((1, "v"), (1, "C"), (2, "|"))),
        ("(a |)", marks((0, "a"), (0, "|"))),
        ("-vote-no", marks((1, "vote"), (3, "no"))),  # a name takes one frame
        ("-a   -b", marks((1, "a"), (3, "b"))),  # blanks align
        ("a b", marks((0, "a"), (1, "b"))),
        ("a 10ms b", marks((0, "a"), (11, "b"))),
        ("1.5s a 2m b 500us #", marks((1500, "a"), (121_501, "b"), (121_502.5, "#"))),
        ("-a-^-b", marks((-2, "a"), (0, "^"), (2, "b"))),
        ("", []),
    ],
)
def test_what_marbles_mean(text: str, expected: list[Mark]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["-(a", "-a)", "-?-", "-()", "-(a,b)", "-(a-b)"])
def test_what_cannot_be_read_is_shown(text: str) -> None:
    with pytest.raises(MacpSessionError, match=r"cannot be read at|a group holds"):
        parse(text)


def test_a_frame_may_be_something_else() -> None:
    assert parse("--a", frame=1_000_000) == [Mark(2_000_000, "a")]


def test_lanes_are_aligned() -> None:
    lanes = [marks((2, "a"), (5, "|")), marks((2, "b"), (2, "c"), (3, "|")), marks((5, "x"))]
    assert draw(lanes) == [
        "--a     --|",
        "--(b c) |--",
        "---     --x",
    ]


names = st.from_regex(r"[a-zA-Z_]\w{0,4}", fullmatch=True) | st.sampled_from(["|", "#"])
lanes = st.lists(st.builds(Mark, st.integers(0, 10**8), names), max_size=6).map(lambda lane: sorted(lane, key=_time))


def _time(mark: Mark) -> int:
    return mark.time


@given(st.lists(lanes, max_size=3))
def test_what_is_drawn_reads_back(drawn: list[list[Mark]]) -> None:
    frame = finest(mark.time for lane in drawn for mark in lane)
    assert [parse(text, frame=frame) for text in draw(drawn, frame=frame)] == drawn


def test_times_in_real_units() -> None:
    assert written(0) == "0ms"
    assert written(5_430_000_007) == "1h 30m 30s 7us"
