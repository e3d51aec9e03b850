"""Protobuf read as strictly as the reference runtime reads it (prost), where Python's parser (upb) is lenient.

Upb takes a known field of another wire type for an unknown one, and cuts a varint of more than 64 bits; prost refuses both
(probed, by a differential test). Which bytes are a message decides what is accepted, so both must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf
from google.protobuf.unknown_fields import UnknownFieldSet

__all__ = ["LENGTH", "VARINT", "fields", "parse"]

M = TypeVar("M", bound=Protobuf)

VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
GROUP: Final = 3
END_GROUP: Final = 4
FIXED32: Final = 5

_MAX_TAG: Final = 2**32
_DEEPEST: Final = 100  # groups within groups, as prost allows

_WIRE_TYPE: Final = {
    FieldDescriptor.TYPE_DOUBLE: FIXED64,
    FieldDescriptor.TYPE_STRING: LENGTH,
    FieldDescriptor.TYPE_BYTES: LENGTH,
    FieldDescriptor.TYPE_MESSAGE: LENGTH,
}
"""Of the field types that MACP uses; the others are varints."""

_LONG_VARINT: Final = re.compile(rb"[\x80-\xff]{9}[\x02-\xff]")


def parse(cls: type[M], raw: bytes) -> M:
    """The message that these bytes are. Raises DecodeError where the reference runtime would not read them."""
    message = cls.FromString(raw)
    # what upb is lenient about leaves one of two traces; without them the look costs 0.3 us of 0.8, with them it is thorough
    if _LONG_VARINT.search(raw) or _has_unknown(message):
        _check(raw, cast("Descriptor", cls.DESCRIPTOR))
    return message


def _has_unknown(message: Protobuf) -> bool:
    if len(UnknownFieldSet(message)):
        return True
    if not _nests(cast("Descriptor", message.DESCRIPTOR)):
        return False
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if not field.is_repeated:
                if _has_unknown(value):
                    return True
            elif hasattr(value, "items") or any(map(_has_unknown, value)):
                return True  # a map's entries are not shown as messages, so what is in them is looked at thoroughly
    return False


@cache
def _nests(descriptor: Descriptor) -> bool:
    """Whether a message of this class can hold messages: most payloads cannot, and the look costs three times the rest."""
    return any(field.type == FieldDescriptor.TYPE_MESSAGE for field in descriptor.fields)


def _check(raw: bytes, descriptor: Descriptor) -> None:
    known = descriptor.fields_by_number
    for number, wire_type, value in fields(raw):
        field = known.get(number)
        if field is None:
            continue
        if wire_type != _WIRE_TYPE.get(field.type, VARINT):
            raise DecodeError(f"{field.full_name} has wire type {wire_type}")
        if field.message_type is not None and isinstance(value, bytes):
            _check(value, field.message_type)


def fields(raw: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, wire type and value of each field: a number, or the bytes of what is not a varint.

    Raises:
        DecodeError: it is cut short, a number is too large, or a group does not end.
    """
    at = 0
    while at < len(raw):
        number, wire_type, at = _tag(raw, at)
        if wire_type == END_GROUP:
            raise DecodeError(f"a group ends at byte {at} that never began")
        begin = at
        value, at = _value(raw, at, number, wire_type)
        yield number, wire_type, raw[begin:at] if value is None else value


def _tag(raw: bytes, at: int) -> tuple[int, int, int]:
    tag, at = _varint(raw, at)
    if not 8 <= tag < _MAX_TAG:
        raise DecodeError(f"no field has the tag {tag}")
    return tag >> 3, tag & 7, at


def _value(raw: bytes, at: int, number: int, wire_type: int, depth: int = 0) -> tuple[int | bytes | None, int]:
    if wire_type == VARINT:
        return _varint(raw, at)
    if wire_type == LENGTH:
        length, at = _varint(raw, at)
        end = at + length
        if end <= len(raw):
            return raw[at:end], end
    elif wire_type in (FIXED64, FIXED32):
        end = at + (8 if wire_type == FIXED64 else 4)
        if end <= len(raw):
            return raw[at:end], end
    elif wire_type == GROUP and depth < _DEEPEST:
        return None, _end_of_group(raw, at, number, depth + 1)
    raise DecodeError(f"field {number} is cut short, or of wire type {wire_type}")


def _end_of_group(raw: bytes, at: int, group: int, depth: int) -> int:
    while at < len(raw):
        number, wire_type, at = _tag(raw, at)
        if wire_type != END_GROUP:
            _, at = _value(raw, at, number, wire_type, depth)
        elif number == group:
            return at
        else:
            break
    raise DecodeError(f"group {group} does not end")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A varint of at most ten bytes and 64 bits, and where the next byte is."""
    value = 0
    for place, byte in enumerate(raw[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80 and value < 1 << 64:
            return value, at + place + 1
    raise DecodeError(f"no varint at byte {at}")
