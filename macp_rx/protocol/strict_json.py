"""JSON as the reference runtime reads and writes it, where its bytes can be seen: policies' rules, contributions, details."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import NoReturn, cast

__all__ = ["as_json_text", "parse_json", "refuse_constant"]

MAX_DEPTH = 127
"""Deeper nesting is refused, as by the reference runtime's parser, so that no text can exhaust the stack."""


def parse_json(text: str) -> object:
    """Parses JSON strictly: no NaN, no Infinity, no lone surrogates, at most 127 levels. Raises ValueError."""
    try:
        value = json.loads(text, parse_constant=refuse_constant, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check(value, 0)
    return value


def refuse_constant(constant: str) -> NoReturn:
    """Raises ValueError for NaN and the infinities, which Python's parser takes."""
    raise ValueError(f"{constant} is no JSON")


def _integer(digits: str) -> int | float:
    """Beyond 64 bits a number is a double."""
    value = int(digits) if len(digits) < 21 else 2**64
    return value if -(2**63) <= value < 2**64 and digits != "-0" else float(digits)


def _check(value: object, depth: int) -> None:
    if depth == MAX_DEPTH and isinstance(value, list | dict):
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        value.encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate
    elif isinstance(value, float):
        if math.isinf(value):
            raise ValueError("a number is out of range")
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            _check(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            key.encode()
            _check(item, depth + 1)


def as_json_text(value: object) -> str:
    """Compact JSON with sorted keys; doubles as the reference runtime writes them."""
    if isinstance(value, float):
        return _double(value)
    if isinstance(value, dict):
        members = sorted(cast("dict[str, object]", value).items())
        return (
            "{" + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{as_json_text(item)}" for key, item in members) + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ",".join(as_json_text(item) for item in cast("list[object]", value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _double(value: float) -> str:
    """The shortest digits; Python turns to an exponent below 1e-4, the runtime below 1e-5, and pads it with no zero."""
    mantissa, _, exponent = repr(value).partition("e")
    if not exponent:
        return mantissa
    return f"{Decimal(repr(value)):f}" if exponent == "-05" else f"{mantissa.removesuffix('.0')}e{int(exponent):+d}"
