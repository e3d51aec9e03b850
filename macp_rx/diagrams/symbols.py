"""What a value looks like: a shape, a colour and a sign, which say the same thing, and two short texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, cast
from zlib import crc32

from google.protobuf.message import Message as Protobuf

from macp_rx.diagrams.picture import clean
from macp_rx.errors import MacpGapError, MacpRefusedError, MacpSessionError, MacpTimeoutError, MacpTransportError
from macp_rx.marbles import written
from macp_rx.operators import Count, Tally, Undecided, Verdict
from macp_rx.protocol import canonical
from macp_rx.protocol.messages import Accepted, Message, payload_type
from macp_rx.protocol.modes.projection import Projection
from macp_rx.simulation.run import Refusal
from macp_rx.streams.outcome import Outcome
from macp_rx.streams.status import Connection, Status
from macp_rx.timeline import Completed, Event, Failed, Next, Notification, to_json

__all__ = ["GLYPHS", "Shape", "Symbol", "explained", "said", "symbol_of", "told"]

Shape = Literal["circle", "square", "hexagon", "triangle", "diamond", "seal", "pill", "cross", "clock", "break", "bar"]

LETTERS: Final = 200
"""So many letters of a text at the most: a payload may be a megabyte."""

GLYPHS: Final[Mapping[str, str]] = {
    "yes": "M-4 .4 L-1.2 3.2 L4.2 -3.2",
    "no": "M-3.2 -3.2 L3.2 3.2 M3.2 -3.2 L-3.2 3.2",
    "neither": "M-3.8 0 L3.8 0",
    "beware": "M0 -4 L0 .6 M0 3.8 L0 4",
    "begin": "M-2.4 -3.8 L3.8 0 L-2.4 3.8 Z",
    "give": "M-4.2 0 L4 0 M1 -3 L4 0 L1 3",
    "time": "M0 -4 L0 0 L3 2",
}
"""Signs, as paths around zero: letters of a font look different everywhere."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """How something is drawn.

    Attributes:
        shape: what kind of thing it is.
        hue: the colour, one of the theme's.
        glyph: what stands in it: the name of a path, or a letter or two.
        label: what it is, in a word.
        detail: what else is worth a few letters.
        hollow: it is only said, or was not accepted.
        dashed: it was refused.
        stands_out: drawn by itself, even where there is so much that the rest is counted.
    """

    shape: Shape
    hue: str
    glyph: str
    label: str = ""
    detail: str = ""
    hollow: bool = False
    dashed: bool = False
    stands_out: bool = False


def symbol_of(what: Notification) -> Symbol:
    """How a notification is drawn."""
    match what:
        case Next(value):
            symbol = _value(value)
        case Failed(error):
            symbol = _error(error)
        case Completed():
            symbol = Symbol("bar", "steel", "", stands_out=True)
    if max(len(symbol.glyph), len(symbol.label), len(symbol.detail)) <= LETTERS:
        return symbol
    return replace(symbol, glyph=symbol.glyph[:LETTERS], label=symbol.label[:LETTERS], detail=symbol.detail[:LETTERS])


def said(symbol: Symbol) -> str:
    """What a symbol says, in words."""
    return " ".join(filter(None, (symbol.label or symbol.glyph or "completed", symbol.detail)))


def explained(event: Event, symbol: Symbol) -> str:
    """All about an event, for a tooltip."""
    head = f"{event.lane} at {written(event.time)}: {said(symbol)}"
    match event.what:
        case Next(Accepted() as accepted):  # pyright: ignore[reportUnknownVariableType]
            return f"{head}\n#{accepted.sequence} {accepted.message_type} {_fields(accepted)}"
        case Next(Message() as message):  # pyright: ignore[reportUnknownVariableType]
            payload: object = message.payload  # pyright: ignore[reportUnknownMemberType]
            return f"{head}\n{_json(payload)}" if isinstance(payload, Protobuf) else head
        case Next(value):
            return f"{head}\n{_json(value)}"
        case Failed(error):
            return f"{head}\n{type(error).__name__}: {error}"
        case Completed():
            return head


def told(value: object) -> str:
    """A value in one line, for a legend."""
    match value:
        case Accepted():
            return clean(str(value))  # pyright: ignore[reportUnknownArgumentType]
        case Message():
            payload: object = value.payload  # pyright: ignore[reportUnknownMemberType]
            return clean(f"{value.message_type}: {_json(payload)}")
        case Exception():
            return clean(f"{type(value).__name__}: {value}")
        case list() | tuple():
            return f"[{', '.join(map(told, cast('Sequence[object]', value)))}]"
        case _:
            return clean(_json(value))


def _fields(accepted: Accepted) -> str:
    try:
        return _json(accepted.payload)
    except MacpSessionError:
        return f"{len(accepted.envelope.payload)} bytes"


def _json(value: object) -> str:
    """A value as JSON: unlike a repr it has no addresses, and no order that the seed of hashes decides."""
    try:
        told = canonical.to_json(value) if isinstance(value, Protobuf) else to_json(value)
    except MacpSessionError:
        return _text(value) or type(value).__name__
    return json.dumps(_bare(told), ensure_ascii=False)


def _bare(json: object) -> object:
    """JSON without the names of classes, which are there to read it back."""
    if isinstance(json, list):
        return [_bare(member) for member in cast("list[object]", json)]
    if not isinstance(json, dict):
        return json
    members = {name: _bare(member) for name, member in cast("dict[str, object]", json).items() if name != "@"}
    # one member beside the name: the fields, items or message of a value, or the name of an enum's member
    return next(iter(members.values())) if "@" in json and len(members) == 1 else members


def _text(value: object) -> str:
    """The value's own text, where its class gives it one: others have an address in it, or the order of a set."""
    return "" if type(value).__str__ is object.__str__ else str(value)


# Messages.

_YES: Final = Symbol("circle", "good", "yes")
_NO: Final = Symbol("circle", "bad", "no")
_NEITHER: Final = Symbol("circle", "steel", "neither", hollow=True)


def _asks(letter: str) -> Symbol:
    return Symbol("square", "blue", letter)


def _tells(letter: str) -> Symbol:
    return Symbol("circle", "teal", letter)


_MESSAGES: Final[Mapping[str, Symbol]] = {
    "SessionStart": Symbol("square", "steel", "begin"),
    "Proposal": _asks("P"),
    "CounterProposal": _asks("C"),
    "TaskRequest": _asks("T"),
    "ApprovalRequest": _asks("A"),
    "HandoffOffer": Symbol("square", "blue", "give"),
    "Evaluation": Symbol("hexagon", "violet", "E"),
    "Objection": Symbol("triangle", "caution", "beware"),
    "Accept": _YES,
    "Approve": _YES,
    "TaskAccept": _YES,
    "TaskComplete": _YES,
    "HandoffAccept": _YES,
    "Reject": _NO,
    "TaskReject": _NO,
    "TaskFail": _NO,
    "HandoffDecline": _NO,
    "Withdraw": _NEITHER,
    "Abstain": _NEITHER,
    "TaskUpdate": _tells("U"),
    "HandoffContext": _tells("H"),
    "Contribute": _tells("C"),
    "Signal": _tells("S"),
    "Progress": _tells("…"),
    "Commitment": Symbol("seal", "good", "yes", stands_out=True),
}

_SIGNS: Final[Mapping[str, Symbol]] = {"APPROVE": _YES, "REJECT": _NO, "ABSTAIN": _NEITHER}
_JUDGED: Final[Mapping[str, str]] = {"APPROVE": "yes", "REJECT": "no", "BLOCK": "beware", "REVIEW": "?"}

_DETAILS: Final[Mapping[str, tuple[str, ...]]] = {
    "SessionStart": ("intent",),
    "Proposal": ("proposal_id", "option", "title"),
    "CounterProposal": ("proposal_id", "title"),
    "TaskRequest": ("task_id", "title"),
    "ApprovalRequest": ("request_id", "action"),
    "HandoffOffer": ("handoff_id", "target_participant"),
    "Objection": ("proposal_id", "severity"),
    "TaskFail": ("task_id", "error_code"),
    "Contribute": ("value",),
    "Commitment": ("action",),
}
"""What of a payload is worth a few letters; of others it is the first field, which is the id of what they are about."""


def _message(message_type: str, payload: Protobuf | None) -> Symbol:
    symbol = _MESSAGES.get(message_type) or Symbol("circle", _hue(message_type), message_type[:1])
    if payload is None:
        return replace(symbol, label=message_type)
    fields = payload.DESCRIPTOR.fields
    names = _DETAILS.get(message_type) or tuple(field.name for field in fields[:1])
    details = [str(getattr(payload, name)) for name in names if name in payload.DESCRIPTOR.fields_by_name]
    match message_type:
        case "Vote":
            vote = str(getattr(payload, "vote", ""))
            symbol = _SIGNS.get(vote, symbol)
            details.append(vote.lower())
        case "Evaluation":
            judged = str(getattr(payload, "recommendation", ""))
            symbol = replace(symbol, glyph=_JUDGED.get(judged, "E"))
            details.append(judged.lower())
        case "Commitment" if not getattr(payload, "outcome_positive", True):
            symbol = replace(symbol, hue="bad", glyph="no")
        case _:
            pass
    return replace(symbol, label=message_type, detail=": ".join(filter(None, details)))


def _accepted(accepted: Accepted) -> Symbol:
    try:
        payload = accepted.payload if payload_type(*accepted.kind) else None
    except MacpSessionError:  # its bytes do not decode: it is what it says it is, without details
        payload = None
    return _message(accepted.message_type, payload)


# Everything else.


def _error(error: Exception) -> Symbol:
    match error:
        case MacpGapError():
            return Symbol("break", "bad", "", "gap", f"after #{error.seen}", stands_out=True)
        case MacpTimeoutError():
            return Symbol("clock", "bad", "time", "timeout", stands_out=True)
        case MacpRefusedError() | MacpTransportError():
            return Symbol("cross", "bad", "", str(error.code), stands_out=True)
        case _:
            return Symbol("cross", "bad", "", type(error).__name__, str(error), stands_out=True)


_CONNECTIONS: Final[Mapping[Connection, tuple[Shape, str, str]]] = {
    Connection.CONNECTED: ("circle", "teal", "begin"),
    Connection.CAUGHT_UP: ("circle", "teal", "yes"),
    Connection.LOST: ("break", "caution", ""),
    Connection.RECONNECTING: ("clock", "caution", "time"),
    Connection.GAP: ("break", "bad", ""),
}


def _status(status: Status) -> Symbol:
    shape, hue, glyph = _CONNECTIONS[status.connection]
    detail = f"{status.missing} missing" if status.missing else f"after #{status.sequence}"
    return Symbol(shape, hue, glyph, status.connection.value, detail, hollow=shape == "circle", stands_out=True)


def _outcome(outcome: Outcome) -> Symbol:
    if outcome.commitment is None:
        return Symbol("seal", "steel", "neither", outcome.state, stands_out=True)
    hue, glyph = ("good", "yes") if outcome.positive else ("bad", "no")
    return Symbol("seal", hue, glyph, outcome.state, outcome.commitment.action, stands_out=True)


def _counted(count: Count) -> str:
    return f"{count.approve} : {count.reject} : {count.abstain}"


def _tally(tally: Tally) -> Symbol:
    proposals = sorted(tally.proposals)
    if len(proposals) == 1:
        return Symbol("pill", "violet", _counted(tally.of(proposals[0])), detail=proposals[0])
    return Symbol("pill", "violet", f"{len(proposals)} tallies")


def _value(value: object) -> Symbol:
    match value:
        case Accepted():
            return _accepted(value)  # pyright: ignore[reportUnknownArgumentType]
        case Message():
            payload: object = value.payload  # pyright: ignore[reportUnknownMemberType]
            message = _message(value.message_type, payload if isinstance(payload, Protobuf) else None)
            return replace(message, hollow=True, stands_out=False)
        case Refusal():
            return Symbol("circle", "bad", "no", value.code, value.message_type, True, True, stands_out=True)
        case Verdict():
            hue, glyph, word = ("good", "yes", "for") if value.positive else ("bad", "no", "against")
            return Symbol("diamond", hue, glyph, "Verdict", f"{word} {value.proposal_id}", stands_out=True)
        case Undecided():
            return Symbol("clock", "caution", "time", "undecided", stands_out=True)
        case Tally():
            return _tally(value)
        case Count():
            return Symbol("pill", "violet", _counted(value))
        case Outcome():
            return _outcome(value)
        case Status():
            return _status(value)
        case Projection():
            phase = str(getattr(value, "phase", "")) or type(value).__name__
            return Symbol("pill", "teal", phase)
        case Exception():
            return replace(_error(value), hollow=True)
        case None | bool() | int() | float() | str() | bytes():
            return Symbol("pill", _hue(type(value).__name__), str(value))
        case Protobuf():
            return _message(value.DESCRIPTOR.name.removesuffix("Payload"), value)
        case list() | tuple() | dict() | set() | frozenset():
            return _collection(value)  # pyright: ignore[reportUnknownArgumentType]
        case _:
            name = type(value).__name__
            return Symbol("circle", _hue(name), name[:1], name, _text(value))


def _collection(value: object) -> Symbol:
    """As it would be written, if it is made of what JSON knows; else what is in it, and how often."""
    symbol = Symbol("pill", _hue(type(value).__name__), "")
    try:
        return replace(symbol, glyph=json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError):
        pass
    if not isinstance(value, list | tuple):
        return replace(symbol, glyph=_json(value))
    members = [_value(member) for member in cast("Sequence[object]", value)[:LETTERS]]
    kinds = Counter(member.label or member.glyph for member in members)
    glyph = ", ".join(f"{count} × {kind}" if count > 1 else kind for kind, count in kinds.items())
    return replace(symbol, glyph=glyph, detail=", ".join(member.detail for member in members if member.detail))


def _hue(name: str) -> str:
    """A colour for a type that has none of its own: the same one in every process."""
    return ("blue", "violet", "teal", "steel")[crc32(name.encode("utf-8", "replace")) % 4]
