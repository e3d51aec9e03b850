"""Wrong values: strings that look alike, numbers at the edges, fields in the wrong form, bytes that are nearly a message."""

from __future__ import annotations

import base64
import struct
import uuid
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.differential.steps import Metadata, bearer, page_token

__all__ = [
    "odd_credential",
    "odd_double",
    "odd_integer",
    "odd_page_token",
    "odd_session_id",
    "odd_string",
    "scrambled",
    "spoiled",
]

M = TypeVar("M", bound=Message)

BLANKS = [
    "",
    " ",
    "\t",
    "\r\n",
    "\x0b",
    "\x1c",
    "\x1f",
    "\x85",
    "\xa0",
    "\u2003",
    "\u2028",
    "\u3000",
    "\u200b",
    "\ufeff",
]
"""Empty, and what some languages trim and others do not."""

ODD = ["ü", "u\u0308", "𝄞", "\x00", "\x7f", "null", "0", "{}", '"', "\\", "../..", "%00", "A" * 5000, "é" * 300]

INTEGERS = [0, 1, -1, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63)]
DEADLINES = [0, -1, 86_400_000, 86_400_001, 2**63 - 1, -(2**63)]
"""No small positive one: what expires within the run would make its outcome a question of speed."""

DOUBLES = [0.0, -0.0, 1.0, 5e-324, -5e-324, 1.0000000000000002, 0.9999999999999999, -0.1, 1.1, 1e308]
INFINITIES = [float("inf"), float("-inf")]


def odd_string(random: Random, value: str, others: Sequence[str] = ()) -> str:
    """A string that is nearly ``value``, or nothing like it."""
    near = [
        value.upper(),
        value.lower(),
        value.swapcase(),
        value + " ",
        " " + value,
        value[:-1],
        value + "x",
        value * 2,
    ]
    return random.choice([random.choice(BLANKS), random.choice(near), random.choice([*others, *ODD])])


def odd_integer(random: Random, field: FieldDescriptor) -> int:
    """An integer at an edge, within the field's range."""
    if field.name in ("ttl_ms", "max_suspend_ms"):
        return random.choice(DEADLINES)
    low, high = {
        FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
        FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
        FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    }.get(field.type, (-(2**63), 2**63 - 1))
    return random.choice([value for value in INTEGERS if low <= value <= high])


def odd_double(random: Random) -> float:
    """A double at an edge; seldom one that is no number."""
    return float("nan") if random.random() < 0.04 else random.choice([*DOUBLES, *INFINITIES])


def odd_session_id(random: Random, token: Callable[[], str]) -> str:
    """A session id in a form that is refused, or only looks so; ``token`` makes strings that nobody else has."""
    made = uuid.UUID(int=random.getrandbits(128), version=4)
    text = str(made)
    return random.choice(
        [
            text.upper(),
            text[:14] + random.choice("1235689ABCDEFf0") + text[15:],
            text[:19] + random.choice("0cf7") + text[20:],
            text[:8] + text[8:].upper(),
            text.replace("-", "_"),
            text[:-1] + "g",
            text[1:],
            text + "0",
            text.replace("-", "", 1) + "-",
            f"{{{text}}}",
            made.urn,
            made.hex.upper(),
            str(uuid.UUID(int=0)),
            str(uuid.UUID(int=2**128 - 1)),
            token()[:21],
            token() + "a" * 96,
            token() + "a" * 97,
            token() + "é",
            token()[:20] + "٣٣",
            token() + "\n",
            f" {text}",
            f"{text[:-1]} ",
            "",
            " ",
            "s1",
        ]
    )


def odd_credential(random: Random, caller: str, other: str) -> Metadata:
    """What nearly shows that ``caller`` asks, or shows nothing, or two things at once."""
    return random.choice(
        [
            (),
            bearer(other),
            (("authorization", f"bearer {caller}"),),
            (("authorization", f"Bearer  {caller}"),),
            (("authorization", "Bearer"),),
            (("authorization", "Bearer "),),
            (("authorization", caller),),
            (("x-macp-token", caller),),
            (("authorization", f"Basic {caller}"), ("x-macp-token", caller)),
            (("authorization", f"Bearer {other}"), ("x-macp-token", caller)),
            (("authorization", f"Bearer {caller}"), ("authorization", f"Bearer {other}")),
            (("authorization", f"Basic {caller}"), ("authorization", f"Bearer {caller}")),
            (("x-macp-token", caller), ("x-macp-token", other)),
            (("x-macp-token", ""),),
            (("x-macp-token", f"Bearer {caller}"),),
        ]
    )


def odd_page_token(random: Random, session_id: str) -> str:
    """A page token that says no place in the list, or only looks so."""
    raw = b"v1:" + session_id.encode()
    plain = base64.urlsafe_b64encode(raw).decode()
    return random.choice(
        [
            "",
            " ",
            plain + "=",
            plain.rstrip("=") + "\n",
            page_token(session_id),
            page_token(""),
            page_token("ü"),
            page_token("~" * 40),
            page_token("a" * 765),
            page_token("a" * 766),
            base64.urlsafe_b64encode(b"v2:" + raw).decode().rstrip("="),
            base64.urlsafe_b64encode(b"V1:x").decode().rstrip("="),
            base64.urlsafe_b64encode(b"v1:\xff\xfe").decode().rstrip("="),
            base64.b64encode(b"v1:???>>>").decode().rstrip("="),
            "djE6YR",  # ends with bits that no encoder leaves
            "djE6YQ",
            "djE6YQ==",
            "djE6Y",
            "dj E6YQ",
            "v1:a",
            "\u0436",
        ]
    )


def spoiled(random: Random, message: M, others: Sequence[str] = ()) -> M:
    """A copy with one field changed for the worse.

    Args:
        random: chooses.
        message: what is right.
        others: strings that mean something elsewhere: names, ids.
    """
    copy = type(message)()
    copy.CopyFrom(message)
    field = random.choice(message.DESCRIPTOR.fields)
    if field.is_repeated:
        _spoil_repeated(random, copy, field, others)
    elif random.random() < 0.15:
        copy.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        inner = spoiled(random, getattr(copy, field.name), others)
        getattr(copy, field.name).CopyFrom(inner)  # present now, even if it is empty
    else:
        setattr(copy, field.name, _odd(random, field, getattr(copy, field.name), others))
    return copy


def _odd(random: Random, field: FieldDescriptor, value: Any, others: Sequence[str]) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return odd_string(random, value, others)
        case FieldDescriptor.TYPE_BYTES:
            return random.choice([b"", b"\xff\xfe", b"{}", random.randbytes(40)])
        case FieldDescriptor.TYPE_BOOL:
            return not value
        case FieldDescriptor.TYPE_DOUBLE:
            return odd_double(random)
        case _:
            return odd_integer(random, field)


def _spoil_repeated(random: Random, copy: Message, field: FieldDescriptor, others: Sequence[str]) -> None:
    values = getattr(copy, field.name)
    if field.type != FieldDescriptor.TYPE_STRING:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values[odd_string(random, "key", others)] = b"\x00"
        else:
            values.add()
        return
    first = values[0] if values else "x"
    match random.randrange(5):
        case 0:
            del values[:]
        case 1:
            values.append(first)
        case 2:
            values.append(odd_string(random, first, others))
        case 3:
            values.extend(f"crowd-{number}" for number in range(random.choice([996, 1000, 1001])))
        case _:
            values.reverse()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def scrambled(random: Random, raw: bytes) -> bytes:
    """Bytes that are nearly ``raw``: cut, flipped, or with something added that a decoder must judge."""
    at = random.randrange(len(raw) + 1)
    number = random.randint(1, 11)
    depth = random.choice([1, 2, 50, 99, 100, 101, 200])
    text = bytes([random.randrange(128)])
    choices = [
        b"",
        raw[:at],
        raw[at:],
        raw[:at] + random.randbytes(1) + raw[at:],
        raw[:at] + raw[at + 1 :],
        raw + raw,
        raw[:at] + bytes([raw[at] ^ 1 << random.randrange(8)]) + raw[at + 1 :] if at < len(raw) else raw,
        random.randbytes(random.randint(1, 40)),
        raw + _key(number, 0) + _varint(random.getrandbits(random.choice([1, 7, 32, 63, 64]))),
        raw + _key(number, 0) + b"\xff" * 9 + b"\x01",  # the largest varint
        raw + _key(number, 0) + b"\xff" * 9 + b"\x02",  # one bit too many
        raw + _key(number, 0) + b"\x80" * 10 + b"\x01",  # too long
        raw + _key(number, 0) + b"\x81\x80\x00",  # longer than it need be
        raw + _key(number, 1) + struct.pack("<d", odd_double(random)),
        raw + _key(number, 1) + b"\x00",
        raw + _key(number, 5) + b"\x00" * 4,
        raw + _key(number, 2) + b"\x01" + text,
        raw + _key(number, 2) + b"\x02\xc3\xa4",
        raw + _key(number, 2) + b"\x01\xff",  # not UTF-8
        raw + _key(number, 2) + b"\x03\xed\xa0\x80",  # a surrogate, in UTF-8
        raw + _key(number, 2) + b"\x7f",  # longer than what follows
        raw + _key(number, 2) + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        raw + _key(number, random.choice([3, 4, 6, 7])),
        raw + _key(number, 3) * depth + _key(number, 4) * depth,
        raw + _key(500, 3) * depth + _key(500, 4) * depth,
        raw + _key(500, 3) + _key(501, 4),
        raw + _key(0, 0) + b"\x01",
        raw + _key(random.choice([99, 19_000, 2**29 - 1]), 0) + b"\x01",
        raw + _key(2**29, 0) + b"\x01",  # field numbers end before this one
        raw + bytes([number << 3 & 0x7F | 0x82, 0x00]) + b"\x01" + text,  # a key longer than it need be
    ]
    return random.choice(choices)
