"""What a value says of itself: a title with its sign, and rows of names and texts; a tally and a sweep with bars."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from google.protobuf.message import Message as Protobuf

from macp_rx.agents import Fleet
from macp_rx.diagrams.lanes import draw_symbol
from macp_rx.diagrams.picture import Picture, Svg, add, clean, shorten, width_of, write
from macp_rx.diagrams.symbols import Symbol, symbol_of
from macp_rx.diagrams.theme import Theme
from macp_rx.operators import Count, Tally, Undecided, Verdict
from macp_rx.protocol.link import Link
from macp_rx.protocol.map import Map
from macp_rx.protocol.modes.projection import Projection
from macp_rx.session import SessionVerbs
from macp_rx.simulation import Simulation, Summary, Sweep
from macp_rx.streams.outcome import Outcome
from macp_rx.timeline import Next

__all__ = ["Bar", "Card", "Row", "card_of"]

ROWS: Final = 40
"""So many rows at the most."""

WIDTH: Final = 780.0
PAD: Final = 16.0
LINE: Final = 24.0
NAME: Final = 190.0
"""How wide the names may be."""

BAR: Final = 200.0
"""How long the longest bar is."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Lengths, one behind the other.

    Attributes:
        parts: what each has for a colour, a text in it, and a length, as a share of the longest bar.
    """

    parts: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a card.

    Attributes:
        name: of what it tells.
        text: what it tells.
        bar: the same, drawn.
    """

    name: str
    text: str
    bar: Bar | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """What a value says of itself. ``str()`` is the same as text.

    Attributes:
        title: what it is.
        rows: what else there is to know.
        symbol: stands before the title.
    """

    title: str
    rows: tuple[Row, ...] = ()
    symbol: Symbol | None = None

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=0)
        return "\n".join([clean(self.title), *(clean(f"  {row.name.ljust(width)}  {row.text}") for row in self._shown)])

    @property
    def _shown(self) -> tuple[Row, ...]:
        more = len(self.rows) - ROWS
        return self.rows if more <= 0 else (*self.rows[:ROWS], Row("", f"and {more} more"))

    def svg(self, theme: Theme = "auto") -> Svg:
        """The card as a picture."""
        rows = self._shown
        names = min(NAME, max((width_of(row.name, 11) for row in rows), default=0)) + 20
        bars = BAR + 20 if any(row.bar for row in rows) else 0
        room = WIDTH - 2 * PAD - names - bars
        texts = min(room, max((width_of(row.text, 11) for row in rows), default=0))
        title = width_of(self.title, 14) + 40
        picture = Picture(self.title, min(WIDTH, max(2 * PAD + max(names + bars + texts, title), 240)))
        root, top = picture.root, PAD + 10
        if self.symbol:
            draw_symbol(add(root, "g"), self.symbol, PAD + 13, top)
        left = PAD + (34 if self.symbol else 0)
        write(root, shorten(self.title, 14, WIDTH - PAD - left), "title", left, top + 5)
        y = top + 14 if rows else top + 2
        for row in rows:
            y += LINE
            write(root, shorten(row.name, 11, NAME), "muted", PAD, y)
            if row.bar:
                _bar(picture, row.bar, PAD + names, y - 4)
            write(root, shorten(row.text, 11, room), "", PAD + names + bars, y)
        return picture.finished(y + PAD, theme, str(self))


def _bar(picture: Picture, bar: Bar, x: float, y: float) -> None:
    group = add(picture.root, "g")
    at = x
    for hue, text, share in bar.parts:
        length = share * BAR
        if length > 0:
            add(group, "rect", hue, x=at, y=y - 7, width=max(length - 2, 1), height=14, rx=2)
            if text and length > width_of(text, 11) + 6:
                write(group, text, "inside", at + length / 2 - 1, y + 4)
        at += length


def card_of(value: object) -> Card:
    """What a value says of itself.

    Args:
        value: a tally, a mode's State, a verdict, an outcome, a sweep, a fleet, a session, or a simulation without a timeline.
    """
    match value:
        case Verdict():
            return Card(
                f"Verdict: {'for' if value.positive else 'against'} {value.proposal_id}",
                (Row("reason", value.reason), Row("votes", str(value.tally))),
                symbol_of(Next(value)),
            )
        case Undecided():
            return Card("undecided", (Row("reason", "no verdict in time"),), symbol_of(Next(value)))
        case Outcome():
            return Card(value.state, tuple(_outcome(value)), symbol_of(Next(value)))
        case Tally():
            return _tally(value)
        case Projection():
            return _state(value)
        case Sweep():
            return _sweep(value)
        case Fleet():
            return _fleet(value)
        case SessionVerbs():
            address = value.address
            auth = value.client.auth
            names = {"session": address.session_id, "mode": address.mode, "policy": address.policy_version}
            speaking = {"speaking": auth.sender or "by a token"} if auth else {}
            return Card(type(value).__name__, _rows({**names, **speaking}))
        case Simulation():
            return Card(str(value), tuple(_outcome(value.outcome)), symbol_of(Next(value.outcome)))
        case _:
            return Card(type(value).__name__, (Row("", str(value)),))


def _rows(texts: Mapping[str, str]) -> tuple[Row, ...]:
    return tuple(Row(name, text) for name, text in texts.items() if text)


def _outcome(outcome: Outcome) -> Iterator[Row]:
    if outcome.commitment is not None:
        yield Row("action", outcome.commitment.action)
        yield Row("sign", "positive" if outcome.positive else "negative")
    if outcome.reason:
        yield Row("reason", outcome.reason)


def _tally(tally: Tally) -> Card:
    counts = {proposal: tally.of(proposal) for proposal in sorted(tally.proposals)}
    most = max((count.cast for count in counts.values()), default=0) or 1
    rows = tuple(Row(proposal, str(count), _votes(count, most)) for proposal, count in counts.items())
    return Card("Tally" if rows else "Tally: no votes", rows)


def _votes(count: Count, most: int) -> Bar:
    votes = (("good", count.approve), ("bad", count.reject), ("steel", count.abstain))
    return Bar(tuple((hue, str(number), number / most) for hue, number in votes if number))


def _sweep(found: Sweep) -> Card:
    groups = found.by()
    slowest = max((one.slowest for one in groups), default=0.0) or 1.0
    return Card(repr(found), tuple(_summary(one, slowest) for one in groups))


def _summary(one: Summary, slowest: float) -> Row:
    name = ", ".join(f"{key}={getattr(value, '__name__', value)}" for key, value in one.settings.items())
    text = f"median {one.median:.3g} s, 90 % in {one.slowest:.3g} s, {one.positive:.0%} positive"
    median = one.median / slowest
    parts = (("blue", f"{one.median:.3g} s", median), ("steel", f"{one.slowest:.3g} s", one.slowest / slowest - median))
    return Row(name, text, Bar(parts))


def _fleet(fleet: Fleet) -> Card:
    loads = Counter(one.worker or "waiting" for one in fleet.status())
    most = max(loads.values(), default=1)
    rows = (Row(name, f"{count} sessions", Bar((("blue", str(count), count / most),))) for name, count in loads.items())
    return Card(repr(fleet), tuple(rows))


# States.


def _state(state: Projection) -> Card:
    """A mode's State: its phase, and each of its fields in short. A Map has its keys in order: its own is that of hashes."""
    mode = type(state).__module__.rpartition(".")[2]
    phase = getattr(state, "phase", "")
    fields = {item.name: _brief(getattr(state, item.name), ()) for item in dataclasses.fields(state)}
    return Card(f"{mode}: {phase}" if phase else mode, _rows(fields), symbol_of(Next(state)) if not phase else None)


def _brief(value: object, known: Sequence[object]) -> str:
    """A value in a few words, without what is said of it already, such as the id that it is kept under."""
    match value:
        case None | "":
            return ""
        case Map():
            entries = sorted(cast("Map[str, object]", value).items(), key=lambda entry: str(entry[0]))
            return _listed(_entry(key, item, known) for key, item in entries)
        case Link() | tuple() | list():
            return _listed(_brief(item, known) for item in cast("Sequence[object]", value))
        case Protobuf():
            fields = value.DESCRIPTOR.fields_by_name
            return str(getattr(value, "action" if "action" in fields else value.DESCRIPTOR.fields[0].name))
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            members = (getattr(value, item.name) for item in dataclasses.fields(value))
            return ", ".join(
                filter(None, (_brief(member, known) for member in members if member and member not in known))
            )
        case bytes():
            return f"{len(value)} bytes" if value else ""
        case _:
            return str(value)


def _entry(key: str, item: object, known: Sequence[object]) -> str:
    told = _brief(item, (*known, key))
    return f"{key} ({told})" if isinstance(item, Map) else f"{key}: {told}"


def _listed(texts: Iterator[str]) -> str:
    found = list(texts)
    return "; ".join(found[:8]) + (f"; and {len(found) - 8} more" if len(found) > 8 else "")
