"""A `Timeline`: what happened when, on which lane. What is recorded, compared, drawn and stored is this one value."""

from __future__ import annotations

import base64
import builtins
import dataclasses
import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from math import isnan
from typing import Any, Final, TypeVar, cast

from google.protobuf import symbol_database
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf
from macp.v1.envelope_pb2 import Envelope
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, Disposable

from macp_rx.clock import VirtualClock
from macp_rx.errors import MacpSessionError
from macp_rx.marbles import FRAME, Mark, draw, finest, parse
from macp_rx.protocol import canonical
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import Accepted

__all__ = ["Completed", "Event", "Failed", "Next", "Notification", "Recorder", "Span", "Timeline", "exactly_equal"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Next:
    """An item.

    Attributes:
        value: the item.
    """

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Next) and exactly_equal(self.value, other.value)

    def __hash__(self) -> int:
        return hash((type(self), type(self.value)))


@dataclass(frozen=True, slots=True, eq=False)
class Failed:
    """The end by an error; equal to another of the same type with the same arguments and attributes.

    Attributes:
        error: the error.
    """

    error: Exception

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Failed) and exactly_equal(self.error, other.error)

    def __hash__(self) -> int:
        return hash((type(self), type(self.error)))


@dataclass(frozen=True, slots=True)
class Completed:
    """The clean end."""


Notification = Next | Failed | Completed


def exactly_equal(one: object, other: object) -> bool:
    """Equality that does not take True for 1, nor an error for another with the same text; not a number is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one == other or (isnan(one) and isnan(cast("float", other)))
    if isinstance(one, Exception):
        return exactly_equal(one.args, cast("Exception", other).args) and exactly_equal(vars(one), vars(other))
    if isinstance(one, list | tuple):
        items, others = cast("tuple[object, ...]", one), cast("tuple[object, ...]", other)
        return len(items) == len(others) and all(map(exactly_equal, items, others))
    if isinstance(one, Mapping):
        entries, counterparts = cast("Mapping[object, object]", one), cast("Mapping[object, object]", other)
        ours, theirs = _by_exact_key(entries), _by_exact_key(counterparts)
        return ours.keys() == theirs.keys() and all(_same(values, theirs[key]) for key, values in ours.items())
    if isinstance(one, set | frozenset):
        return Counter(map(_exact, cast("set[object]", one))) == Counter(map(_exact, cast("set[object]", other)))
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        compared = (item.name for item in dataclasses.fields(one) if item.compare)
        return one == other and all(exactly_equal(getattr(one, name), getattr(other, name)) for name in compared)
    return one == other


def _exact(member: object) -> tuple[type, object]:
    """What a member of a set, or a key, is exactly equal by: its type, and what is in it."""
    cls, inside = type(member), member
    if isinstance(member, float) and isnan(member):
        inside = "nan"
    elif isinstance(member, tuple):
        inside = tuple(map(_exact, cast("tuple[object, ...]", member)))
    elif isinstance(member, frozenset):
        inside = frozenset(Counter(map(_exact, cast("frozenset[object]", member))).items())
    return cls, inside


def _by_exact_key(entries: Mapping[object, object]) -> dict[tuple[type, object], list[object]]:
    """The values of each key: more than one only where not a number is a key, which may stand there many times."""
    found: dict[tuple[type, object], list[object]] = {}
    for key, value in entries.items():
        found.setdefault(_exact(key), []).append(value)
    return found


def _same(values: list[object], others: list[object]) -> bool:
    """Whether they are exactly equal, in whatever order."""
    left = others.copy()
    for value in values:
        place = next((place for place, other in enumerate(left) if exactly_equal(value, other)), None)
        if place is None:
            return False
        del left[place]
    return not left


@dataclass(frozen=True, slots=True)
class Event:
    """One notification.

    Attributes:
        time: microseconds since the start.
        lane: whose.
        what: the notification.
    """

    time: int
    lane: str
    what: Notification


@dataclass(frozen=True, slots=True)
class Span:
    """One subscription.

    Attributes:
        lane: to what.
        subscribed: when it began, in microseconds since the start.
        disposed: when it ended; None if it had not.
    """

    lane: str
    subscribed: int
    disposed: int | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened when: events in the order in which they came, and subscriptions.

    ``str()`` is marble text, one line a lane, and `Timeline.parse` reads it back, unless there is a value in it that JSON cannot
    say, which is shown as its repr; `to_json_lines` is the same value as a file.

    Attributes:
        events: the notifications.
        spans: the subscriptions.
    """

    events: tuple[Event, ...] = ()
    spans: tuple[Span, ...] = ()

    @property
    def lanes(self) -> tuple[str, ...]:
        """The names of the lanes, in order of appearance."""
        return tuple(dict.fromkeys([span.lane for span in self.spans] + [event.lane for event in self.events]))

    def lane(self, name: str) -> Timeline:
        """Only what happened on one lane."""
        return Timeline(
            tuple(event for event in self.events if event.lane == name),
            tuple(span for span in self.spans if span.lane == name),
        )

    def __str__(self) -> str:
        return self.marbles(_legible)

    def marbles(self, told: Callable[[object], str]) -> str:
        """The text of ``str()`` with another legend: `parse` reads back what JSON says, and a reader what is said in words.

        Args:
            told: what the legend says of a value, or of an error, in one line.
        """
        names = _Names()
        labels: list[str] = []
        lanes: list[list[Mark]] = []
        for span in self.spans:
            end = [] if span.disposed is None else [Mark(span.disposed, "!")]
            labels.append(f"{span.lane}^")
            lanes.append([Mark(span.subscribed, "^"), *end])
        for lane, events in _grouped(self.events).items():
            labels.append(lane)
            lanes.append([Mark(event.time, names.of(event.what)) for event in events])
        frame = finest(mark.time for lane_marks in lanes for mark in lane_marks)
        width = max(map(len, labels), default=0)
        texts = draw(lanes, frame=frame)
        drawn = [f"{label.ljust(width)} : {text}" for label, text in zip(labels, texts, strict=True)]
        order = [f"order : {' '.join(event.lane for event in self.events)}"] if _interleaved(self.events) else []
        header = [] if frame == FRAME else [f"frame : {frame}us"]
        return "\n".join([*header, *drawn, *order, *names.legend(told)])

    @classmethod
    def parse(cls, text: str, *, frame: int = FRAME) -> Timeline:
        """Reads what ``str()`` wrote.

        Args:
            text: lanes, and what the names in them mean; a name that is not told means itself.
            frame: microseconds of one frame, unless the text says so.

        Raises:
            MacpSessionError: a line that cannot be read.
        """
        legend, lines = _read_legend(text)
        spans: list[Span] = []
        by_lane: dict[str, list[Event]] = {}
        order: list[str] | None = None
        for label, marbles in lines:
            try:
                if label == "frame":
                    frame = int(marbles.removesuffix("us"))
                elif label == "order":
                    order = marbles.split()
                elif label.endswith("^"):
                    spans.append(_read_span(label[:-1], marbles, frame))
                else:
                    marks = parse(marbles, frame=frame)
                    by_lane[label] = [Event(mark.time, label, _meaning(mark.what, legend)) for mark in marks]
            except (ValueError, KeyError) as error:
                raise MacpSessionError(f"the line {label!r} cannot be read ({error}): {marbles!r}") from error
        return cls(tuple(_ordered(by_lane, order)), tuple(spans))

    def to_json_lines(self) -> str:
        """The timeline as JSON Lines: one event or subscription a line."""
        lines: list[dict[str, object]] = [dataclasses.asdict(span) for span in self.spans]
        for event in self.events:
            match event.what:
                case Next(value):
                    what = ("next", to_json(value))
                case Failed(error):
                    what = ("error", to_json(error))
                case _:
                    what = ("completed", True)
            lines.append({"time": event.time, "lane": event.lane, what[0]: what[1]})
        return "".join(f"{json.dumps(line, ensure_ascii=False, separators=(',', ':'))}\n" for line in lines)

    @classmethod
    def from_json_lines(cls, text: str) -> Timeline:
        """Reads what `to_json_lines` wrote.

        Raises:
            MacpSessionError: a line that cannot be read, and its number.
        """
        events: list[Event] = []
        spans: list[Span] = []
        # not splitlines(): it also splits at characters that JSON leaves as they are, such as U+0085 (hypothesis found it)
        for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
            try:
                read = json.loads(line)
                if "subscribed" in read:
                    spans.append(Span(read["lane"], read["subscribed"], read["disposed"]))
                else:
                    events.append(Event(read["time"], read["lane"], _notification(read)))
            except (ValueError, KeyError, TypeError) as error:
                raise MacpSessionError(f"line {number} is no line of a timeline ({error}): {line[:80]!r}") from error
        return cls(tuple(events), tuple(spans))


class Recorder:
    """Records observables on lanes, under one virtual clock.

    Args:
        clock: whose time is written down.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._events: list[Event] = []
        self._spans: list[list[Any]] = []

    def record(self, observable: Observable[T], lane: str) -> abc.DisposableBase:
        """Subscribes, and writes down what comes, when, and how long the subscription lasts.

        Args:
            observable: what to record.
            lane: its name: without blanks, not ending in ``^``.
        """
        if not lane or any(letter.isspace() for letter in lane) or lane.endswith("^") or lane in ("frame", "order"):
            raise MacpSessionError(
                f"{lane!r} is no name for a lane: no blanks, no ^ at its end, neither 'frame' nor 'order'"
            )
        span: list[Any] = [lane, self._clock.time, None]
        self._spans.append(span)

        def note(what: Notification) -> None:
            self._events.append(Event(self._clock.time, lane, what))

        def end() -> None:
            if span[2] is None:
                span[2] = self._clock.time

        def on_next(value: T) -> None:
            note(Next(value))

        def on_error(error: Exception) -> None:
            note(Failed(error))
            end()

        def on_completed() -> None:
            note(Completed())
            end()

        return CompositeDisposable(
            observable.subscribe(on_next, on_error, on_completed, scheduler=self._clock), Disposable(end)
        )

    @property
    def timeline(self) -> Timeline:
        """What was recorded so far."""
        return Timeline(tuple(self._events), tuple(Span(*span) for span in self._spans))


# Values as JSON: for transcripts, and for the legend below a drawing.


def to_json(value: object) -> object:
    """A value as JSON that `from_json` reads back exactly: literals, bytes, times, tuples, sets, maps, protobuf messages,
    `Accepted`, errors, and the dataclasses, named tuples and enums of macp_rx.

    Raises:
        MacpSessionError: something else.
    """
    cls = type(value)
    match value:
        case None | bool() | int() | float() | str():
            return value if not isinstance(value, Enum) else {"@": _path(cls), "name": value.name}
        case datetime():
            return {"@": "datetime", "iso": value.isoformat()}
        case timedelta():
            return {"@": "timedelta", "us": value // timedelta(microseconds=1)}
        case list():
            return [to_json(item) for item in cast("list[object]", value)]
        case tuple() if "_fields" in vars(cls):
            members = dict(zip(vars(cls)["_fields"], cast("tuple[object, ...]", value), strict=True))
            return {"@": _path(cls), "fields": {name: to_json(member) for name, member in members.items()}}
        case tuple():
            return {"@": "tuple", "items": [to_json(item) for item in cast("tuple[object, ...]", value)]}
        case set() | frozenset():
            items = [to_json(item) for item in cast("set[object]", value)]
            # a set has no order of its own, but one that the seed of hashes decides
            return {"@": cls.__name__, "items": sorted(items, key=json.dumps)}
        case dict():
            entries = cast("dict[object, object]", value)
            return {"@": "dict", "items": [[to_json(key), to_json(item)] for key, item in entries.items()]}
        case Map():
            pairs = [[to_json(key), to_json(item)] for key, item in cast("Map[object, object]", value).items()]
            return {"@": "map", "items": sorted(pairs, key=json.dumps)}
        case bytes():
            return {"@": "bytes", "base64": base64.b64encode(value).decode()}
        case Accepted():
            return {"@": "accepted", "sequence": value.sequence, "envelope": _message_to_json(value.envelope)}
        case Protobuf():
            return {"@": value.DESCRIPTOR.full_name, "message": _message_to_json(value)}
        case Exception():
            carried = {"attributes": to_json(vars(value))} if vars(value) else {}  # beside its text, such as an Ack
            return {"@": "error", "type": _path(cls), "args": to_json(list(value.args)), **carried}
        case Enum():
            return {"@": _path(cls), "name": value.name}
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
            return {"@": _path(cls), "fields": fields}
        case _:
            raise MacpSessionError(f"a {cls.__qualname__} cannot be written into a timeline: {value!r}")


def from_json(value: object) -> Any:
    """What `to_json` wrote. Of Python's classes it makes errors and macp_rx's own values, nothing else."""
    if isinstance(value, list):
        return [from_json(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    found = cast("dict[str, Any]", value)
    match found["@"]:
        case "tuple" | "set" | "frozenset" as name:
            return {"tuple": tuple, "set": set, "frozenset": frozenset}[name](
                from_json(item) for item in found["items"]
            )
        case "map":
            return Map((from_json(key), from_json(item)) for key, item in found["items"])
        case "datetime":
            return datetime.fromisoformat(found["iso"])
        case "timedelta":
            return timedelta(microseconds=found["us"])
        case "text":
            raise MacpSessionError(f"only the text of this value was kept: {found['text']}")
        case "dict":
            return {from_json(key): from_json(item) for key, item in found["items"]}
        case "bytes":
            return base64.b64decode(found["base64"])
        case "accepted":
            return Accepted(found["sequence"], cast("Envelope", _message_from_json(found["envelope"], Envelope)))
        case "error":
            return _error(_class(found["type"], Exception), from_json(found["args"]), found.get("attributes"))
        case str(path) if "message" in found:
            return _message_from_json(found["message"], symbol_database.Default().GetSymbol(path))
        case str(path) if "name" in found:
            return _class(path, Enum)[found["name"]]
        case path:
            return _class(path, object)(**{name: from_json(item) for name, item in found["fields"].items()})


def _error(cls: type[Exception], args: list[object], attributes: object) -> Exception:
    if cls.__module__ == "builtins":
        return cls(*args)
    error = cls.__new__(cls, *args)  # an error's constructor takes what its text is made of, its args are the text
    if attributes is not None:
        vars(error).update(from_json(attributes))
    return error


def _message_to_json(message: Protobuf) -> object:
    """MACP canonical JSON; for a message that it cannot say, its bytes in base64."""
    try:
        return canonical.to_json(message)
    except MacpSessionError:
        return base64.b64encode(message.SerializeToString()).decode()


def _message_from_json(value: object, into: type[Protobuf]) -> Protobuf:
    if not isinstance(value, str):
        return canonical.from_json(value, into)
    try:
        return into.FromString(base64.b64decode(value))
    except DecodeError as error:
        raise MacpSessionError(f"these bytes are no {into.DESCRIPTOR.full_name}: {value!r}") from error


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _class(path: object, base: type) -> Any:
    """A class of macp_rx, or a built-in error: a file must not choose what else is imported."""
    module, _, name = str(path).rpartition(".")
    if module == "builtins":
        found = getattr(builtins, name, None)
    elif module.split(".")[0] == "macp_rx":
        found = getattr(importlib.import_module(module), name, None)
    else:
        found = None
    if not (isinstance(found, type) and issubclass(found, base)) or (module == "builtins" and base is not Exception):
        raise MacpSessionError(f"a timeline cannot hold a {path}")
    return found


def _notification(read: Mapping[str, object]) -> Notification:
    if "next" in read:
        return Next(from_json(read["next"]))
    if "error" in read:
        return Failed(from_json(read["error"]))
    if "completed" in read:
        return Completed()
    raise KeyError("neither next, error nor completed")


# Marble text.

_SIGNS: Final = {"|", "#"}


class _Names:
    """Names for values: a value that is a plain word is its own name; others get the next free letter."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # by the value's text: to compare with each that is known is quadratic
        self._named: dict[str, Next | Failed] = {}
        self._letters = _letters()

    def of(self, what: Notification) -> str:
        word = ""
        match what:
            case Completed():
                return "|"
            case Failed(error):
                key = f"# {_legible(error)}"
            case Next(value):
                key = _legible(value)
                word = value if isinstance(value, str) and _is_word(value) else ""
        if key not in self._names:
            free = word and word not in self._named
            self._names[key] = name = word if free else next(one for one in self._letters if one not in self._named)
            self._named[name] = what
        return self._names[key]

    def legend(self, told: Callable[[object], str]) -> Iterator[str]:
        for name, what in self._named.items():
            if isinstance(what, Failed):
                yield f"{name} = # {told(what.error)}"
            elif what.value != name:
                yield f"{name} = {told(what.value)}"


def _legible(value: object) -> str:
    """A value as JSON, or, of one that has none, its text: to be shown it need not be read back."""
    try:
        written = to_json(value)
    except MacpSessionError:
        written = {"@": "text", "text": repr(value)}
    return json.dumps(written, ensure_ascii=False)


def _letters() -> Iterator[str]:
    number = 0
    while True:
        quotient, letter = divmod(number, 26)
        yield chr(ord("a") + letter) + (str(quotient) if quotient else "")
        number += 1


def _is_word(value: str) -> bool:
    return value.isascii() and value.isidentifier()


def _interleaved(events: tuple[Event, ...]) -> bool:
    """Whether the lanes alone do not tell the order: two of them say something at one instant, in their own order."""
    return [event.lane for event in _ordered(_grouped(events), None)] != [event.lane for event in events]


def _grouped(events: Iterable[Event]) -> dict[str, list[Event]]:
    grouped: dict[str, list[Event]] = {}
    for event in events:
        grouped.setdefault(event.lane, []).append(event)
    return grouped


def _ordered(by_lane: dict[str, list[Event]], order: list[str] | None) -> list[Event]:
    """Events of lanes in one order: as told, else by time, and at one instant lane by lane."""
    if order is None:
        return sorted((event for lane in by_lane.values() for event in lane), key=lambda event: event.time)
    told = {lane: len(events) for lane, events in by_lane.items()}
    if Counter(order) != Counter(told):
        raise MacpSessionError(f"order names each lane as often as it has events, {told}; {' '.join(order)!r} does not")
    waiting = {lane: iter(events) for lane, events in by_lane.items()}
    return [next(waiting[lane]) for lane in order]


def _read_legend(text: str) -> tuple[dict[str, Notification], list[tuple[str, str]]]:
    legend: dict[str, Notification] = {}
    lines: list[tuple[str, str]] = []
    for line in text.split("\n"):
        if " : " in line and " = " not in line.partition(" : ")[0]:
            label, _, marbles = line.partition(" : ")
            lines.append((label.strip(), marbles))
        elif " = " in line:
            name, _, literal = line.partition(" = ")
            failed = literal.startswith("# ")
            try:
                value = from_json(json.loads(literal.removeprefix("# ")))
            except (ValueError, KeyError, TypeError) as error:
                raise MacpSessionError(f"what {name!r} means cannot be read ({error}): {literal[:80]!r}") from error
            legend[name] = Failed(value) if failed else Next(value)
        elif line.strip():
            raise MacpSessionError(f"no lane and no legend: {line!r}")
    return legend, lines


def _read_span(lane: str, marbles: str, frame: int) -> Span:
    marks = {mark.what: mark.time for mark in parse(marbles, frame=frame, from_start=True)}
    return Span(lane, marks["^"], marks.get("!"))


def _meaning(what: str, legend: Mapping[str, Notification]) -> Notification:
    if what == "|":
        return Completed()
    return legend.get(what, Next(what))
