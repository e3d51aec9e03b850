"""The marble language: text for what happens when, and back.

    --a--(b c)--|        two frames, a, two frames, b and c at one instant, two frames, completion
    -a 1.5s b #          progression in real units stands between blanks; `#` is an error
    ^--!                 subscription and disposal

One mark takes one frame, whatever its length: `-` (nothing happens), a name, a group, `|`, `#`, `^`, `!`. What stands in a group
happens at the group's instant. Blanks mean nothing: use them to align lanes. A name is letters, digits and underscores. A frame
is one millisecond unless said otherwise. With `^` the lane's zero is there, and what stands before it has happened before.

It differs from RxJS in two things, both so that what is drawn below each other happens at the same time: a group takes one frame
and not as many as its characters, and a name may have several characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from macp_rx.errors import MacpSessionError

__all__ = ["FRAME", "Mark", "draw", "finest", "parse", "written"]

FRAME: Final = 1000
"""Microseconds of one frame."""

_UNITS: Final[Mapping[str, int]] = {"us": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
_TOKEN: Final = re.compile(
    r"(?P<blank>\s+)|(?P<progress>(?<!\S)(?P<number>\d+(?:\.\d+)?)(?P<unit>us|ms|s|m|h)(?!\S))"
    r"|(?P<gap>-+)|(?P<name>\w+)|(?P<sign>[|#^!])|\((?P<group>[^()]*)\)"
)
_IN_GROUP: Final = re.compile(r"\w+|[|#^!]")


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """One thing that happens.

    Attributes:
        time: microseconds.
        what: a name, or one of ``| # ^ !``.
    """

    time: int
    what: str


def parse(text: str, *, frame: int = FRAME, from_start: bool = False) -> list[Mark]:
    """Reads marbles.

    Args:
        text: the marbles.
        frame: microseconds of one frame.
        from_start: the lane's zero is its first frame, even if there is a ``^``.

    Raises:
        MacpSessionError: what cannot be read, and where.
    """
    marks: list[Mark] = []
    time = position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise MacpSessionError(f"marbles cannot be read at {text[position:]!r} in {text!r}")
        position = found.end()
        if found["blank"]:
            continue
        if found["progress"]:
            time += round(float(found["number"]) * _UNITS[found["unit"]])
        elif found["gap"]:
            time += len(found["gap"]) * frame
        else:
            marks += [Mark(time, what) for what in _happening(found, text)]
            time += frame
    zero = 0 if from_start else next((mark.time for mark in marks if mark.what == "^"), 0)
    return [Mark(mark.time - zero, mark.what) for mark in marks]


def _happening(found: re.Match[str], text: str) -> list[str]:
    group = found["group"]
    if group is None:
        return [found[0]]
    inside = _IN_GROUP.findall(group)
    if not inside or "".join(inside) != "".join(group.split()):
        raise MacpSessionError(
            f"a group holds names and | # ^ !, separated by blanks; {found[0]!r} in {text!r} does not"
        )
    return list(inside)


def draw(lanes: Sequence[Iterable[Mark]], *, frame: int = FRAME) -> list[str]:
    """Writes lanes, aligned: what happens at the same time stands below each other.

    Args:
        lanes: the marks of each lane, from time zero on.
        frame: microseconds of one frame; no two instants may be closer than that.

    Returns:
        One text for each lane, which `parse` reads back.
    """
    at = [_by_time(lane) for lane in lanes]
    times = sorted({time for lane in at for time in lane})
    texts: list[list[str]] = [[] for _ in lanes]
    passed = 0
    for time in times:
        between = _gap(time - passed, frame)
        cells = [_cell(lane.get(time)) for lane in at]
        width = max(map(len, cells))
        for index, cell in enumerate(cells):
            texts[index] += (between or " ", cell.ljust(width))  # the blank keeps two names apart
        passed = time + frame
    ends = [max(lane, default=-1) for lane in at]
    return ["".join(text).strip() if ends[index] >= 0 else "-" for index, text in enumerate(texts)]


def _by_time(lane: Iterable[Mark]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for mark in lane:
        found.setdefault(mark.time, []).append(mark.what)
    return found


def _cell(happening: list[str] | None) -> str:
    if happening is None:
        return "-"
    return happening[0] if len(happening) == 1 else f"({' '.join(happening)})"


def _gap(microseconds: int, frame: int) -> str:
    frames, rest = divmod(microseconds, frame)
    if rest == 0 and frames <= 20:
        return "-" * frames
    return f" {written(microseconds)} "


def written(microseconds: int) -> str:
    """A time in real units, as marbles write it: ``1h 30m 5ms``."""
    parts: list[str] = []
    rest = microseconds
    for unit in ("h", "m", "s", "ms", "us"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts) or "0ms"


def finest(times: Iterable[int]) -> int:
    """The frame in which these instants can be drawn: a millisecond, or a microsecond where two are closer than that."""
    ordered = sorted(set(times))
    closest = min((later - earlier for earlier, later in pairwise(ordered)), default=FRAME)
    return FRAME if closest >= FRAME else 1
