"""What a lane should have said, and what to tell when it said something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message as Protobuf

from macp_rx.errors import MacpSessionError
from macp_rx.marbles import Mark, draw, finest, written
from macp_rx.protocol.messages import Accepted, Message, message_type_of
from macp_rx.testing.sources import MarbleError, Said, Scheduled
from macp_rx.timeline import Completed, Failed, Next, Notification, exactly_equal

__all__ = ["MarbleError", "Where", "difference", "matches", "shown"]


@dataclass(frozen=True, slots=True)
class Where:
    """Stands in an expectation's legend for any value that passes a test.

    Attributes:
        test: answers whether a value is meant.
        name: what to call it in a failure.
    """

    test: Callable[[Any], bool]
    name: str = ""

    def __repr__(self) -> str:
        return self.name or f"a value that passes {getattr(self.test, '__qualname__', self.test)}"


def matches(expected: Notification, actual: Notification) -> bool:
    """Whether this is what was expected."""
    if isinstance(expected, Next) and isinstance(actual, Next):
        if isinstance(expected.value, Where):
            return bool(expected.value.test(actual.value))
        if isinstance(expected.value, Said):
            return expected.value.matches(actual.value)
        return exactly_equal(expected.value, actual.value)
    return expected == actual


def difference(expected: Sequence[Scheduled], names: Sequence[str], actual: Sequence[Scheduled]) -> str | None:
    """How two lanes differ, for people: both drawn below each other, the first difference marked; None if they do not.

    Args:
        expected: what should have come.
        names: the expectation's own names, one for each of its notifications.
        actual: what came.
    """
    pairs = list(zip_longest(expected, actual))
    first = next((index for index, (want, got) in enumerate(pairs) if not _same(want, got)), None)
    if first is None:
        return None
    want, got = pairs[first]
    labels = _labels(expected, names, actual)
    lanes = [
        [Mark(time, name) for (time, _what), name in zip(expected, names, strict=True)],
        [Mark(time, name) for (time, _what), name in zip(actual, labels, strict=True)],
    ]
    at = _when(want, got)
    drawn = _with_marker(lanes, at)
    legend = _legend(expected, names, actual, labels)
    said = f"at {written(at)}: expected {_tell(want)}, got {_tell(got)}"
    return "\n".join([*drawn, said, *legend])


def _same(want: Scheduled | None, got: Scheduled | None) -> bool:
    return want is not None and got is not None and want[0] == got[0] and matches(want[1], got[1])


def _when(want: Scheduled | None, got: Scheduled | None) -> int:
    return min(scheduled[0] for scheduled in (want, got) if scheduled is not None)


def _labels(expected: Sequence[Scheduled], names: Sequence[str], actual: Sequence[Scheduled]) -> list[str]:
    """The expectation's names for what came, and new ones for what it has no name for."""
    known = [(what, name) for (_time, what), name in zip(expected, names, strict=True)]
    labels: list[str] = []
    for _time, what in actual:
        name = next((name for one, name in known if matches(one, what)), None)
        if name is None:
            name = _new_name(what, {taken for _one, taken in known})
            known.append((what, name))
        labels.append(name)
    return labels


def _new_name(what: Notification, taken: set[str]) -> str:
    if isinstance(what, Completed):
        return "|"
    if isinstance(what, Failed):
        return "#"
    value = what.value
    if isinstance(value, str) and value.isidentifier() and value not in taken:
        return value
    return next(f"x{number}" for number in range(1, 10_000) if f"x{number}" not in taken)


def _with_marker(lanes: list[list[Mark]], at: int) -> list[str]:
    # the marker is drawn as a third lane, so that it stands where the difference is
    frame = finest(mark.time for lane in lanes for mark in lane)
    expected, actual, marker = draw([*lanes, [Mark(at, "ᐃ")]], frame=frame)
    return [f"expected  {expected}", f"actual    {actual}", f"          {_blanked(marker)}"]


def _blanked(marker: str) -> str:
    return (
        marker[: marker.index("ᐃ")].translate({ord(letter): " " for letter in "-0123456789usmh"}) + "^ first difference"
    )


def _legend(
    expected: Sequence[Scheduled], names: Sequence[str], actual: Sequence[Scheduled], labels: Sequence[str]
) -> list[str]:
    lines: dict[str, str] = {}
    for (_time, what), name in [*zip(expected, names, strict=True), *zip(actual, labels, strict=True)]:
        if not isinstance(what, Completed):
            value = what.value if isinstance(what, Next) else what.error
            if value != name:
                lines.setdefault(name, f"  {name} = {shown(value)}")
    return list(lines.values())


def _tell(scheduled: Scheduled | None) -> str:
    if scheduled is None:
        return "nothing more"
    time, what = scheduled
    match what:
        case Next(value):
            said = shown(value)
        case Failed(error):
            said = f"the error {error!r}"
        case _:
            said = "completion"
    return f"{said} at {written(time)}"


def shown(value: object) -> str:
    """A value on one line: of an envelope who says what, of anything else its repr."""
    match value:
        case Said():
            return f"{shown(value.message)} from {value.sender}"
        case Message():
            return shown(value.payload)
        case Accepted():
            return f"Accepted({value.sequence}, {_payload(value)} from {value.sender})"
        case Protobuf():
            return f"{message_type_of(value)}({text_format.MessageToString(value, as_one_line=True)})"
        case _:
            return repr(value)


def _payload(accepted: Accepted) -> str:
    try:
        return shown(accepted.payload)
    except MacpSessionError:  # no payload class for it, or bytes that are none
        return f"{accepted.message_type}({accepted.envelope.payload!r})"
