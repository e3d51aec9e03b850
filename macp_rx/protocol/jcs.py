"""The JSON Canonicalization Scheme (RFC 8785): one text for one JSON value, so that it can be hashed, signed and compared."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Final, cast

from macp_rx.errors import MacpSessionError
from macp_rx.protocol.strict_json import refuse_constant

__all__ = ["MAX_SAFE_INTEGER", "decode", "encode"]

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer that JSON carries everywhere: a reader may hold numbers as doubles (RFC 7493, 2.2)."""


def encode(value: object) -> str:
    """The canonical text of a JSON value: None, bool, int, float, str, lists and dicts of them.

    Raises:
        MacpSessionError: NaN, an infinity, an integer that a double cannot hold, a lone surrogate, nesting deeper than the
            interpreter's stack, or something that is no JSON at all.
    """
    try:
        return _encode(value)
    except RecursionError:
        raise MacpSessionError("the value is nested too deeply for JSON") from None
    except OverflowError:
        raise MacpSessionError("an integer is too large for JSON, which has doubles") from None


def decode(text: str) -> object:
    """Reads JSON, of any form, that means one thing to everyone: no member named twice, no NaN.

    Raises:
        MacpSessionError: it does not.
    """
    try:
        return json.loads(text, object_pairs_hook=_members, parse_constant=refuse_constant)
    except RecursionError:
        raise MacpSessionError("no JSON: it is nested too deeply") from None
    except ValueError as error:  # the text may hold a key: the error tells the place, not the text
        raise MacpSessionError(f"no JSON: {error}") from None


def _encode(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            if abs(value) > MAX_SAFE_INTEGER and str(value) != _number(float(value)):
                raise MacpSessionError(
                    f"{value} is no double: JSON carries an integer beyond 2^53 - 1 only as a string"
                )
            return str(value)
        case float():
            return _number(value)
        case str():
            return _string(value)
        case list() | tuple():
            return f"[{','.join(map(_encode, cast('list[object]', value)))}]"
        case dict():
            members = cast("dict[object, object]", value)
            return (
                f"{{{','.join(f'{_string(name)}:{_encode(members[name])}' for name in sorted(members, key=_units))}}}"
            )
        case _:
            raise MacpSessionError(f"a {type(value).__qualname__} is no JSON value")


def _units(name: object) -> bytes:
    """What members are sorted by: their UTF-16 code units, which differs from code points beyond U+FFFF (3.2.3)."""
    if not isinstance(name, str):
        raise MacpSessionError(f"{name!r} is no name for a member: JSON takes strings")
    return name.encode("utf-16-be", "surrogatepass")


def _string(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)  # escapes what 3.2.2.2 says, as it says
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MacpSessionError(f"{value!r} has a lone surrogate at {error.start - 1}, which has no UTF-8") from None
    return text


def _number(value: float) -> str:
    """A double as ECMAScript prints it (3.2.2.3): repr() finds the same shortest digits and writes them otherwise."""
    if not math.isfinite(value):
        raise MacpSessionError(f"{value} is no JSON number")
    if value == 0:
        return "0"  # of either sign
    shortest = Decimal(repr(abs(value))).normalize().as_tuple()
    digits = "".join(map(str, shortest.digits))
    point = len(digits) + int(shortest.exponent)  # the value is 0.digits times ten to the power of point
    sign = "-" if value < 0 else ""
    if len(digits) <= point <= 21:
        return f"{sign}{digits}{'0' * (point - len(digits))}"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{point - 1:+d}"


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _value in pairs]
        raise ValueError(
            f"the member {next(name for name in names if names.count(name) > 1)!r} stands twice in one object"
        )
    return members
