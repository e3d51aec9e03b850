"""svg: a Timeline as a picture, a lane for each of those who say something, time from left to right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from xml.etree.ElementTree import Element

from macp_rx.diagrams.layout import RADIUS, ROOM, Layout, Mark, Row, laid_out, stops_of
from macp_rx.diagrams.picture import Picture, Svg, add, clean, shorten, width_of, write
from macp_rx.diagrams.symbols import GLYPHS, Symbol, explained, symbol_of, told
from macp_rx.diagrams.theme import HUES, Theme
from macp_rx.errors import MacpSessionError
from macp_rx.timeline import Span, Timeline

__all__ = ["WIDTH", "draw_symbol", "duration", "plain_text", "svg"]

WIDTH: Final = 900
"""What a notebook and a page of documentation have room for."""

LANES: Final = 24
"""So many lanes at the most; what is on further ones is drawn on the last."""

SPANS: Final = 40
"""So many subscriptions of a lane at the most."""

PAD: Final = 16.0
NAME: Final = 150.0
"""How wide the name of a lane may be."""

APART: Final = RADIUS + 6
"""A subscription begins so much before what comes at its instant, and ends so much behind it."""

TOOLTIP: Final = 400
"""So many letters of a tooltip at the most."""


def svg(
    timeline: Timeline,
    *,
    title: str = "",
    operators: Mapping[str, str] | None = None,
    theme: Theme = "auto",
    width: int = WIDTH,
) -> Svg:
    """Draws a timeline. The same timeline gives the same bytes.

    What is on one lane stands in one line. Time goes from left to right, to scale as far as labels leave room; silences that
    are four times as long as usual are cut, and the cut says how long they were. What does not fit goes on in a next row.

    A picture has at most 120 places: of more events those of a lane are counted together, in equal parts of the whole, and only
    what stands out (errors, refusals, verdicts, commitments, the connection) stays by itself. So the file of 10,000 events is
    smaller than 500 kB.

    Args:
        timeline: what to draw.
        title: stands above it.
        operators: lane -> what made it of the lane above, drawn as a box between the two.
        theme: ``light``, ``dark``, or ``auto`` for whichever the reader's system has.
        width: how wide the picture is at the most, in pixels; at least 320.

    Raises:
        MacpSessionError: it cannot be that narrow; there is no such theme.
    """
    if width < 320:
        raise MacpSessionError(f"a picture is at least 320 pixels wide, not {width}")
    names = timeline.lanes
    shown, more = (names, 0) if len(names) <= LANES else (names[: LANES - 1], len(names) - LANES + 1)
    labels = [*shown, f"{more} more lanes"] if more else list(shown)
    events = sorted(enumerate(timeline.events), key=lambda numbered: numbered[1].time)
    looks = [symbol_of(event.what) for _number, event in events]
    stops = stops_of(events, labels, looks)
    name_width = min(NAME, max((width_of(label, 12) for label in labels), default=0)) + 14
    layout = laid_out(stops, PAD + name_width, width - PAD)
    made = operators or {}
    text = title or f"{len(events)} events on {len(names)} lanes"
    boxes = max((width_of(text, 12, code=True) for text in made.values()), default=0) + 40 + PAD + name_width
    needed = min(width, max(layout.rows[0].end + PAD, boxes, width_of(title, 14) + 2 * PAD + 1, 320))
    rows = tuple(replace(row, end=needed - PAD) for row in layout.rows)
    layout = Layout(rows, layout.stops)
    picture = Picture(text, needed)
    top = PAD
    if title:
        write(picture.root, shorten(title, 14, needed - 2 * PAD), "title", PAD, top + 12)
        top += 30
    for number, row in enumerate(layout.rows):
        lanes = _lanes(labels, row, made)
        top = _DrawnRow(picture, timeline, layout, lanes, number, row, top).draw()
    return picture.finished(top + PAD - 10, theme, plain_text(timeline))


def plain_text(timeline: Timeline) -> str:
    """The timeline as marbles, for a reader; of a long one only how much there is: a notebook would keep it all."""
    if len(timeline.events) > 200:
        return f"a Timeline of {len(timeline.events)} events on {len(timeline.lanes)} lanes"
    return timeline.marbles(told)


def duration(microseconds: int) -> str:
    """A time in real units, to three digits: ``1.25 s``, ``23 h 5 min``."""
    if microseconds < 0:
        return f"-{duration(-microseconds)}"
    for unit, size in (("µs", 1), ("ms", 1_000), ("s", 1_000_000)):
        if microseconds < {1: 1_000, 1_000: 999_500, 1_000_000: 59_950_000}[size]:
            return f"{float(f'{microseconds / size:.3g}'):g} {unit}" if microseconds else "0"
    minutes, seconds = divmod(round(microseconds / 1_000_000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"


@dataclass(frozen=True, slots=True)
class _Lane:
    """How much room a lane takes in a row.

    Attributes:
        name: what is written before it.
        operator: what stands in the box above it; blank for no box.
        tall: the room for the lane alone.
    """

    name: str
    operator: str
    tall: float

    @property
    def box(self) -> float:
        """The room for the box."""
        return 42.0 if self.operator else 0.0

    @property
    def height(self) -> float:
        """The room for both."""
        return self.tall + self.box


def _lanes(names: Sequence[str], row: Row, operators: Mapping[str, str]) -> list[_Lane]:
    """As tall as what is on them in this row: a line, marks, marks with one text below, or with two."""
    texts = [0] * len(names)
    for mark in (mark for stop in row.stops for mark in stop.marks):
        texts[mark.lane] = max(
            texts[mark.lane], 3 if mark.detail and mark.label else 2 if mark.detail or mark.label else 1
        )
    tall = (32.0, 38.0, 52.0, 64.0)
    return [_Lane(name, operators.get(name, ""), tall[texts[number]]) for number, name in enumerate(names)]


class _DrawnRow:
    """Draws one row."""

    def __init__(
        self,
        picture: Picture,
        timeline: Timeline,
        layout: Layout,
        lanes: Sequence[_Lane],
        number: int,
        row: Row,
        top: float,
    ) -> None:
        self._root = picture.root
        self._timeline = timeline
        self._layout = layout
        self._lanes = lanes
        self._number = number
        self._row = row
        self._top = top
        self._ys: list[float] = []
        y = top
        for lane in lanes:
            self._ys.append(y + lane.box + 16)
            y += lane.height
        self._axis = y + (16 if row.cuts else 4)  # what is cut out is written above the axis

    def draw(self) -> float:
        """Draws it, and tells where the next one begins."""
        self._grid()
        for number, lane in enumerate(self._lanes):
            self._lane(number, lane)
        self._cuts()
        for stop in self._row.stops:
            for mark in stop.marks:
                self._mark(mark, stop.x)
        self._times()
        return self._axis + 30

    def _grid(self) -> None:
        grid = add(self._root, "g", "grid")
        for stop in self._row.stops:
            add(grid, "line", x1=stop.x, y1=self._top, x2=stop.x, y2=self._axis)

    def _lane(self, number: int, lane: _Lane) -> None:
        y = self._ys[number]
        group = add(self._root, "g", id=f"lane-{number}-{self._number}")
        if lane.operator:
            self._box(group, lane.operator, y - 16 - lane.box)
        spans = [span for span in self._timeline.spans if span.lane == lane.name]
        for span in spans[:SPANS]:
            self._span(group, span, y)
        begin, end = self._extent(number, spans)
        write(group, shorten(lane.name, 12, NAME), "lane", PAD, y + 4)
        if len(spans) > SPANS:
            write(group, f"{len(spans)} subscriptions", "small muted", PAD, y + 18)
        if end > begin:
            add(group, "line", "line", x1=begin, y1=y, x2=end, y2=y)
        if end == self._row.end and self._number == len(self._layout.rows) - 1:
            add(group, "path", "line", d=f"M{end - 6:.1f} {y - 4:.1f} L{end:.1f} {y:.1f} L{end - 6:.1f} {y + 4:.1f}")

    def _extent(self, lane: int, spans: Sequence[Span]) -> tuple[float, float]:
        """From where to where the lane is drawn in this row: as long as somebody is subscribed, and until it ends."""
        row, here = self._row, self._number
        stops = [(stop, mark) for stop in self._layout.stops for mark in stop.marks if mark.lane == lane]
        begin, end = (0, row.begin), (len(self._layout.rows) - 1, row.end)
        if spans:
            begin = min(self._began(span) for span in spans)
            if all(span.disposed is not None for span in spans):
                end = max(self._ended(span) for span in spans)
        if stops:
            first, (last, mark) = stops[0][0], stops[-1]
            begin = min(begin, (first.row, first.x))
            end = (last.row, last.x) if mark.ends else max(end, (last.row, last.x))
        left = row.begin if begin[0] < here else begin[1] if begin[0] == here else row.end
        right = row.end if end[0] > here else end[1] if end[0] == here else row.begin
        return left, right

    def _began(self, span: Span) -> tuple[int, float]:
        row, x = self._layout.place(span.subscribed)
        return row, max(x - APART, self._layout.rows[row].begin)

    def _ended(self, span: Span) -> tuple[int, float]:
        last = len(self._layout.rows) - 1
        if span.disposed is None:
            return last, self._layout.rows[last].end
        row, x = self._layout.place(span.disposed, end=True)
        return row, min(x + APART, self._layout.rows[row].end)

    def _box(self, group: Element, operator: str, top: float) -> None:
        row = self._row
        width = row.end - row.begin
        add(group, "rect", "box", x=row.begin, y=top + 2, width=width, height=28, rx=5)
        letters = int((width - 20) / width_of("m", 12, code=True))
        text = operator if len(operator) <= letters else operator[: letters - 1] + "…"
        write(group, text, "code middle", row.begin + width / 2, top + 20.5)
        if text != operator:
            add(group, "title").text = _tip(operator)

    def _span(self, group: Element, span: Span, y: float) -> None:
        row = self._row
        first_row, begin = self._began(span)
        last_row, end = self._ended(span)
        if not first_row <= self._number <= last_row:
            return
        left = begin if first_row == self._number else row.begin
        right = end if last_row == self._number else row.end
        band = add(group, "g", "span")
        until = "the end" if span.disposed is None else duration(span.disposed)
        add(band, "title").text = f"subscribed from {duration(span.subscribed)} to {until}"
        add(band, "rect", "band", x=left, y=y - 13, width=max(right - left, 2), height=26, rx=3)
        if first_row == self._number:
            add(band, "path", "tick", d=f"M{left + 4:.1f} {y - 13:.1f} H{left:.1f} V{y + 13:.1f} H{left + 4:.1f}")
        if last_row == self._number and span.disposed is not None:
            add(band, "path", "tick", d=f"M{right - 4:.1f} {y - 13:.1f} H{right:.1f} V{y + 13:.1f} H{right - 4:.1f}")

    def _cuts(self) -> None:
        for x, silence in self._row.cuts:
            cut = add(self._root, "g", "silence")
            add(cut, "title").text = f"nothing for {duration(silence)}"
            for y in [*self._ys, self._axis]:
                add(cut, "line", "cut", x1=x - 3, y1=y + 6, x2=x + 3, y2=y - 6)
                for at in (x - 3, x + 3):
                    add(cut, "line", "tick", x1=at - 3, y1=y + 6, x2=at + 3, y2=y - 6)
            write(cut, duration(silence), "small muted middle", x, self._axis - 9)

    def _mark(self, mark: Mark, x: float) -> None:
        y = self._ys[mark.lane]
        number, event = mark.events[0]
        group = add(self._root, "g", "mark", id=f"event-{number}", data_events=str(mark.count))
        if mark.count > 1:
            kinds = [f"{count} × {kind}" for kind, count in mark.said.most_common(8)]
            until = duration(mark.events[-1][1].time)
            tip = f"{event.lane}, {duration(event.time)} to {until}: {mark.count} events\n" + "\n".join(kinds)
        else:
            tip = explained(event, mark.symbol)
        add(group, "title").text = _tip(tip)
        if mark.count > 1:
            _stack(group, mark, x, y)
        else:
            draw_symbol(group, mark.symbol, x, y, mark.inside)
        for text, classes, below, size in ((mark.label, "middle", 26, 11), (mark.detail, "small muted middle", 39, 10)):
            if text:
                below = below if mark.label or mark.count > 1 else 26
                write(group, shorten(text, size, ROOM), classes, x, y + below)

    def _times(self) -> None:
        row, y = self._row, self._axis
        axis = add(self._root, "g", "axis")
        add(axis, "line", "tick", x1=row.begin, y1=y, x2=row.end, y2=y)
        taken = row.begin - 40.0
        shown: int | None = None
        stops = list(row.stops)
        while stops:
            together = [stop for stop in stops if stop.time == stops[0].time]
            stops = stops[len(together) :]
            first, last = together[0].x, together[-1].x
            if len(together) > 1:
                add(axis, "line", "instant", x1=first, y1=y, x2=last, y2=y)
            for stop in together:
                add(axis, "line", "tick", x1=stop.x, y1=y - 3, x2=stop.x, y2=y + 3)
            time = together[0].time
            text = duration(time)
            if shown is not None and text == duration(shown):
                text = f"+{duration(time - shown)}"  # so close behind the last one that three digits do not tell
            half = width_of(text, 10) / 2
            middle = min((first + last) / 2, row.end + PAD - half)
            if middle - half >= taken + 4:
                write(axis, text, "small muted middle", middle, y + 15)
                taken = middle + half
                shown = shown if text.startswith("+") else time


def _tip(text: str) -> str:
    return "\n".join(clean(line) for line in text[:TOOLTIP].split("\n")) + ("…" if len(text) > TOOLTIP else "")


def _stack(group: Element, mark: Mark, x: float, y: float) -> None:
    """Tiles behind each other; the first one has the colours of what it counts, in proportion."""
    width, left, top = mark.inside, x - mark.inside / 2, y - RADIUS
    for away in (4, 2):
        add(group, "rect", "shape steel hollow", x=left + away, y=top - away, width=width, height=2 * RADIUS, rx=4)
    begin = left
    for hue in sorted(mark.hues, key=HUES.index):  # each covers what is left of the tile
        add(group, "path", hue, d=_tile(begin, left + width, top, 4 if begin == left else 0))
        begin += width * mark.hues[hue] / mark.count
    write(group, str(mark.count), "inside", x, y + 4)


def _tile(left: float, right: float, top: float, corner: int) -> str:
    """A rectangle's path, round on the right, and on the left as told."""
    bottom = top + 2 * RADIUS
    return (
        f"M{left + corner:.1f} {top:.1f} H{right - 4:.1f} q4 0 4 4 V{bottom - 4:.1f} q0 4 -4 4 H{left + corner:.1f} "
        f"q{-corner} 0 {-corner} {-corner} V{top + corner:.1f} q0 {-corner} {corner} {-corner} Z"
    )


def draw_symbol(group: Element, symbol: Symbol, x: float, y: float, width: float = 2 * RADIUS) -> None:
    """Draws the shape and the sign in it.

    Args:
        group: where to.
        symbol: what.
        x: its middle.
        y: its middle.
        width: of a pill.
    """
    classes = " ".join(
        filter(None, ("shape", symbol.hue, "hollow" if symbol.hollow else "", "dashed" if symbol.dashed else ""))
    )
    moved = f"translate({x:.1f} {y:.1f})"
    r = RADIUS
    match symbol.shape:
        case "circle" | "clock":
            add(group, "circle", classes, cx=x, cy=y, r=r)
        case "seal":
            add(group, "circle", f"{classes} hollow", cx=x, cy=y, r=r + 3)
            add(group, "circle", classes, cx=x, cy=y, r=r - 0.5)
        case "square":
            add(group, "rect", classes, x=x - r, y=y - r, width=2 * r, height=2 * r, rx=4)
        case "pill":
            add(group, "rect", classes, x=x - width / 2, y=y - r, width=width, height=2 * r, rx=r)
        case "diamond":
            add(group, "path", classes, d="M0 -12.5 L12.5 0 L0 12.5 L-12.5 0 Z", transform=moved)
        case "hexagon":
            add(group, "path", classes, d="M-5.8 -10 H5.8 L11.5 0 L5.8 10 H-5.8 L-11.5 0 Z", transform=moved)
        case "triangle":
            add(group, "path", classes, d="M0 -11 L12 9.5 H-12 Z", transform=moved)
        case "bar":
            add(group, "path", f"glyph {symbol.hue}", d="M0 -11 V11", transform=moved)
        case "cross":
            add(group, "path", f"glyph {symbol.hue}", d="M-8 -8 L8 8 M8 -8 L-8 8", transform=moved)
        case "break":
            add(
                group,
                "path",
                f"glyph {symbol.hue}",
                d="M-7 -10 L-1 -3 L-7 3 L-1 10 M1 -10 L7 -3 L1 3 L7 10",
                transform=moved,
            )
    if not symbol.glyph:
        return
    inside = f"glyph {symbol.hue}" if symbol.hollow else "glyph within"
    lower = 2 if symbol.shape == "triangle" else 0
    if symbol.glyph in GLYPHS:
        add(group, "path", inside, d=GLYPHS[symbol.glyph], transform=f"translate({x:.1f} {y + lower:.1f})")
    else:
        room = min(width, ROOM + 14) - 8 if symbol.shape == "pill" else 20
        text = shorten(symbol.glyph, 11, room)
        write(group, text, f"middle {symbol.hue}" if symbol.hollow else "inside", x, y + 4)
