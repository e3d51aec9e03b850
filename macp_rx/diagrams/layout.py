"""Where things stand: which of them share an instant, how far apart they are, where a row ends and the next begins."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from macp_rx.diagrams.picture import width_of
from macp_rx.diagrams.symbols import Symbol, said
from macp_rx.timeline import Completed, Event, Next

__all__ = ["RADIUS", "Layout", "Mark", "Row", "Stop", "laid_out", "stops_of"]

RADIUS: Final = 10.0
"""Of a mark."""

ROOM: Final = 132.0
"""How wide a label may be."""

STOPS: Final = 120
MARKS: Final = 480
"""So many stops and marks at the most; where there are more events, they are counted."""

BESIDE: Final = 12.0
"""Between two labels."""

STEP: Final = 30.0
"""Between two stops, at least."""

USUAL: Final = 48.0
"""Between two stops that are as far apart as three in four at the most: the scale of the axis, where labels leave it."""

SILENCE: Final = 4.0
"""What is so many times longer than that is cut."""

CUT: Final = 84.0
"""How wide a cut is drawn."""


@dataclass(slots=True)
class Mark:
    """One event, or several of one lane that are only counted.

    Attributes:
        lane: the number of its lane.
        symbol: how it is drawn, if it is one.
        events: the number of each event, and the event.
        kinds: what they are, and how often.
        said: what they say, and how often.
        hues: in which colours, and how often.
        ends: its lane ends with it.
    """

    lane: int
    symbol: Symbol
    events: list[tuple[int, Event]]
    kinds: Counter[str] = field(default_factory=Counter[str])
    said: Counter[str] = field(default_factory=Counter[str])
    hues: Counter[str] = field(default_factory=Counter[str])
    ends: bool = False

    @property
    def count(self) -> int:
        """How many events it stands for."""
        return len(self.events)

    @property
    def label(self) -> str:
        """What is written below it."""
        return self._most[0] if self.count > 1 else self.symbol.label

    @property
    def detail(self) -> str:
        """What is written below that."""
        return f"{self._most[1]} of {self.count}" if self.count > 1 else self.symbol.detail

    @property
    def _most(self) -> tuple[str, int]:
        return self.kinds.most_common(1)[0]

    @property
    def half(self) -> float:
        """Half of its width, labels included."""
        inside = self.inside
        labels = max(min(width_of(self.label, 11), ROOM), min(width_of(self.detail, 10), ROOM))
        return max(RADIUS + 2, labels / 2, inside / 2 + 2)

    @property
    def inside(self) -> float:
        """The width of a pill."""
        if self.count > 1:
            return max(2 * RADIUS, width_of(str(self.count), 11) + 14)
        if self.symbol.shape == "pill":
            return max(2 * RADIUS, min(width_of(self.symbol.glyph, 11), ROOM) + 14)
        return 2 * RADIUS


@dataclass(slots=True)
class Stop:
    """What stands at one place of the axis.

    Attributes:
        time: microseconds; of several events, the time of the first.
        until: the time of the last.
        marks: one for each lane at the most.
        row: which row it is in.
        x: where.
    """

    time: int
    until: int
    marks: list[Mark]
    row: int = 0
    x: float = 0.0


def stops_of(events: Sequence[tuple[int, Event]], lanes: Sequence[str], looks: Sequence[Symbol]) -> list[Stop]:
    """The stops of a timeline's events: each event by itself, or, where there are too many, counted.

    Args:
        events: in order of time, each with its number.
        lanes: the names of the lanes, from top to bottom; what is on others belongs to the last.
        looks: how each event is drawn.
    """
    index = {name: number for number, name in enumerate(lanes)}
    speaking = frozenset(event.lane for _number, event in events if _is_speech(event))
    last = {event.lane: number for number, event in events}
    marks: list[tuple[Event, Mark]] = []
    for (number, event), look in zip(events, looks, strict=True):
        ends = last[event.lane] == number and not isinstance(event.what, Next)
        marks.append((event, Mark(index.get(event.lane, len(lanes) - 1), look, [(number, event)], ends=ends)))
    alone = sum(look.stands_out for look in looks) <= STOPS // 2
    size = 1
    while True:
        stops = list(_single(marks, speaking) if size == 1 else _counted(marks, size, alone))
        if len(stops) <= STOPS and sum(len(stop.marks) for stop in stops) <= MARKS:
            return stops
        size *= 2


def _is_speech(event: Event) -> bool:
    return getattr(getattr(event.what, "value", None), "sender", None) == event.lane


def _single(marks: Sequence[tuple[Event, Mark]], speaking: Set[str]) -> Iterator[Stop]:
    """Each event by itself. What operators make of an item at once stands below it; who speaks, speaks for themselves."""
    stop: Stop | None = None
    for event, mark in marks:
        if stop is not None and event.time == stop.time:
            lanes = [other.lane for other in stop.marks]
            flows = event.lane not in speaking and mark.lane > max(lanes)
            ending = isinstance(event.what, Completed) and all(_completes(other) for other in stop.marks)
            if flows or (ending and mark.lane not in lanes):
                stop.marks.append(mark)
                continue
        if stop is not None:
            yield stop
        stop = Stop(event.time, event.time, [mark])
    if stop is not None:
        yield stop


def _completes(mark: Mark) -> bool:
    return isinstance(mark.events[0][1].what, Completed)


def _counted(marks: Sequence[tuple[Event, Mark]], size: int, alone: bool) -> Iterator[Stop]:
    """So many events in a stop, those of a lane as one mark; what stands out alone, if there is not too much of it."""
    gathered: dict[int, Mark] = {}
    begin = until = 0
    left = 0
    for event, mark in marks:
        stands_out = alone and mark.symbol.stands_out
        if gathered and (stands_out or left == 0):
            yield Stop(begin, until, _together(gathered))
            gathered = {}
        if stands_out:
            yield Stop(event.time, event.time, [mark])
            continue
        if not gathered:
            begin, left = event.time, size
        until = event.time
        left -= 1
        group = gathered.setdefault(mark.lane, Mark(mark.lane, mark.symbol, []))
        group.events.extend(mark.events)
        group.kinds[mark.symbol.label or "value"] += 1
        group.said[said(mark.symbol)] += 1
        group.hues[mark.symbol.hue] += 1
        group.ends = mark.ends
    if gathered:
        yield Stop(begin, until, _together(gathered))


def _together(gathered: dict[int, Mark]) -> list[Mark]:
    return [gathered[lane] for lane in sorted(gathered)]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the picture; what does not fit goes on in the next one.

    Attributes:
        begin: where its lines begin.
        end: where they end.
        stops: what stands in it.
        cuts: where silence is cut out, and for how long it lasted, in microseconds.
    """

    begin: float
    end: float
    stops: tuple[Stop, ...]
    cuts: tuple[tuple[float, int], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything stands.

    Attributes:
        rows: from top to bottom.
        stops: all of them.
    """

    rows: tuple[Row, ...]
    stops: tuple[Stop, ...]

    def place(self, time: int, *, end: bool = False) -> tuple[int, float]:
        """Row and position of a time; between two stops, in proportion.

        Args:
            time: microseconds.
            end: of several stops at that time, the last one.
        """
        stops = self.stops
        if not stops:
            return 0, self.rows[0].begin
        times = [stop.time for stop in stops]
        after = bisect_right(times, time) if end else bisect_left(times, time)
        if end and after and times[after - 1] == time:
            return stops[after - 1].row, stops[after - 1].x
        if after == len(stops):
            row = self.rows[-1]
            return len(self.rows) - 1, (stops[-1].x + row.end) / 2
        following = stops[after]
        if following.time == time:
            return following.row, following.x
        if after == 0 or stops[after - 1].row != following.row:
            return following.row, (self.rows[following.row].begin + following.x) / 2
        before = stops[after - 1]
        share = (time - before.time) / (following.time - before.time)
        return following.row, before.x + share * (following.x - before.x)


def laid_out(stops: Sequence[Stop], left: float, right: float) -> Layout:
    """Gives each stop its place: time to scale, as far as labels leave room and silences are not too long.

    Several rows are made as long as one another, as far as that goes.

    Args:
        stops: in order.
        left: where rows begin.
        right: where they end at the latest.
    """
    rows = len(_filled(stops, left, right).rows)
    if rows > 1:
        too_narrow = left + (right - left) / 2
        while right - too_narrow > 8:
            middle = (too_narrow + right) / 2
            if len(_filled(stops, left, middle).rows) == rows:
                right = middle
            else:
                too_narrow = middle
    return _filled(stops, left, right)


def _filled(stops: Sequence[Stop], left: float, right: float) -> Layout:
    """One row after the other, each as full as it gets."""
    gaps = sorted(later.time - earlier.time for earlier, later in pairwise(stops) if later.time > earlier.time)
    usual = gaps[(len(gaps) - 1) * 3 // 4] if gaps else 1
    rows: list[Row] = []
    begun: list[Stop] = []
    cuts: list[tuple[float, int]] = []
    edges: dict[int, float] = {}
    previous: Stop | None = None
    for stop in stops:
        silence = stop.time - previous.until if previous else 0
        cut = silence > SILENCE * usual
        passed = stop.time - previous.time if previous else 0
        gap = CUT if cut else max(STEP, USUAL * min(passed / usual, SILENCE))
        at = previous.x + gap if begun and previous else left + RADIUS + 12
        x = max([at, *(edges.get(mark.lane, left) + BESIDE + mark.half for mark in stop.marks)])
        if begun and x + max(mark.half for mark in stop.marks) > right:
            rows.append(Row(left, right, tuple(begun), tuple(cuts)))
            begun, cuts, edges = [], [], {}
            at = left + (CUT if cut else RADIUS + 12)
            x = max([at, *(left + BESIDE + mark.half for mark in stop.marks)])
        if cut:
            from_x = begun[-1].x if begun else left
            cuts.append(((from_x + x) / 2, silence))
        stop.row, stop.x = len(rows), x
        begun.append(stop)
        edges |= {mark.lane: x + mark.half for mark in stop.marks}
        previous = stop
    # one row is as wide as it need be
    end = right if rows else min(right, max(edges.values(), default=left) + 24)
    rows.append(Row(left, end, tuple(begun), tuple(cuts)))
    return Layout(tuple(rows), tuple(stops))
