"""MACP canonical JSON: any message of the protocol as a JSON object, and back (RFC-MACP-0001, 10; `protocol.md` 8.7).

Members have the names of the fields and are always there, a submessage only if it is set. 64-bit integers are numbers, beyond
2^53 - 1 strings; bytes are base64; enums are names. Four things are not as protobuf's own JSON has them:

* An Envelope's time is ``timestamp``, an RFC 3339 string; ``timestamp_unix_ms`` where the year has no four digits.
* An Envelope's payload is ``payload``, a JSON object, if MACP defines its type and that object gives the same bytes again;
  else it is ``payload_b64``, the bytes as received. So unknown fields and another order survive, and hashes with them.
* A policy's ``rules`` are an object if that gives the same text again, else the text.
* Nothing is rounded or left out: what JSON cannot say exactly is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf
from google.protobuf.unknown_fields import UnknownFieldSet
from macp.v1.envelope_pb2 import Envelope
from macp.v1.policy_pb2 import PolicyDescriptor

from macp_rx.errors import MacpSessionError
from macp_rx.protocol import jcs
from macp_rx.protocol.encoding import base64, unbase64
from macp_rx.protocol.messages import payload_type

__all__ = ["decode", "encode", "from_json", "rfc3339", "to_json", "unix_ms"]

M = TypeVar("M", bound=Protobuf)
_Field: TypeAlias = Any  # a FieldDescriptor; its stubs know two classes of that name, and None where there is none

_EPOCH: Final = datetime(1970, 1, 1)
_TIMES: Final = range(-62_135_596_800_000, 253_402_300_800_000)  # the years 1 to 9999, in Unix milliseconds
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}")
_INTEGERS: Final = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
_RFC3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt]((?:[01]\d|2[0-3]):\d\d:\d\d)(\.\d+)?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII
)


def encode(message: Protobuf) -> str:
    """A message as canonical text: its canonical JSON, written as RFC 8785 says. Raises as `to_json` does."""
    return jcs.encode(to_json(message))


def decode(text: str, into: type[M]) -> M:
    """Reads what `encode`, or another implementation, wrote. Raises MacpSessionError as `from_json` does."""
    return from_json(jcs.decode(text), into)


def to_json(message: Protobuf) -> dict[str, object]:
    """A message as a JSON object.

    Raises:
        MacpSessionError: it says what JSON cannot: an unknown field, NaN, an infinity, minus zero. In an Envelope's payload
            that is no error, see above.
    """
    if len(UnknownFieldSet(message)):
        raise MacpSessionError(f"this {message.DESCRIPTOR.name} has fields that the installed macp-proto does not know")
    members = {
        field.name: _value_to_json(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }
    if isinstance(message, Envelope):
        del members["payload"]
        members |= _payload_to_json(message)
        if message.timestamp_unix_ms in _TIMES:
            del members["timestamp_unix_ms"]
            members["timestamp"] = rfc3339(message.timestamp_unix_ms)
    if isinstance(message, PolicyDescriptor):
        members["rules"] = _rules_to_json(message.rules)
    return members


def from_json(value: object, into: type[M]) -> M:
    """The message that a JSON object says: members may be missing, unknown ones are ignored (RFC-MACP-0001, 10.6).

    Args:
        value: what a JSON reader made of the text.
        into: the message's class.

    Raises:
        MacpSessionError: no such message; the text says which member, and what would be right.
    """
    message = into()
    _fill(message, value, into.DESCRIPTOR.name)
    return message


def rfc3339(unix_ms: int) -> str:
    """Unix milliseconds as RFC 3339, in UTC; without a fraction where it is zero."""
    precision = "milliseconds" if unix_ms % 1000 else "seconds"
    return f"{(_EPOCH + timedelta(milliseconds=unix_ms)).isoformat(timespec=precision)}Z"


def unix_ms(text: str) -> int:
    """RFC 3339 as Unix milliseconds, rounded down. Raises MacpSessionError."""
    parts = _RFC3339.fullmatch(text)
    if parts is None:
        raise MacpSessionError(f"{text!r} is no RFC 3339 time, such as '2026-03-01T20:24:01.250Z'")
    date, clock, fraction, sign, hours, minutes = parts.groups()
    try:
        elapsed = datetime.fromisoformat(f"{date}T{clock}") - _EPOCH
    except ValueError as error:
        raise MacpSessionError(f"{text!r} is no time: {error}") from None
    if sign:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        elapsed += offset if sign == "-" else -offset
    return elapsed // timedelta(milliseconds=1) + int(f"{(fraction or '.')[1:4]:0<3}")


# To JSON.


def _value_to_json(field: _Field, value: Any) -> object:
    if _is_map(field):
        entry = field.message_type.fields_by_name["value"]
        return {key: _scalar_to_json(entry, item) for key, item in value.items()}
    if field.is_repeated:
        return [_scalar_to_json(field, item) for item in value]
    return _scalar_to_json(field, value)


def _scalar_to_json(field: _Field, value: Any) -> object:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return to_json(value)
        case FieldDescriptor.CPPTYPE_ENUM:
            known = field.enum_type.values_by_number.get(value)
            return known.name if known else value
        case FieldDescriptor.CPPTYPE_DOUBLE:
            if not math.isfinite(value) or (value == 0 and math.copysign(1, value) < 0):
                raise MacpSessionError(f"{field.name} is {value}, which JSON cannot say")
            return value
        case FieldDescriptor.CPPTYPE_INT64 | FieldDescriptor.CPPTYPE_UINT64:
            return value if abs(value) <= jcs.MAX_SAFE_INTEGER else str(value)
        case _:
            return base64(value) if isinstance(value, bytes) else value


def _payload_to_json(envelope: Envelope) -> dict[str, object]:
    cls = payload_type(envelope.mode, envelope.message_type)
    if cls is not None:
        try:
            members = to_json(cls.FromString(envelope.payload))
            if _bytes(from_json(members, cls)) == envelope.payload:
                return {"payload": members}
        except (DecodeError, MacpSessionError):  # then it goes as bytes, as received
            pass
    return {"payload_b64": base64(envelope.payload)}


def _rules_to_json(rules: str) -> object:
    try:
        found = jcs.decode(rules)
        return found if rules.startswith("{") and jcs.encode(found) == rules else rules
    except MacpSessionError:
        return rules


def _bytes(message: Protobuf) -> bytes:
    """The one encoding that JSON stands for: fields in order, a map's entries sorted by key."""
    return message.SerializeToString(deterministic=True)


def _is_map(field: _Field) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


# From JSON. `where` is the way to a member, for errors.


def _fill(message: Protobuf, value: object, where: str) -> None:
    members = _object(value, where)
    if isinstance(message, Envelope):
        members = _envelope_members(members, where)
    elif isinstance(message, PolicyDescriptor) and isinstance(members.get("rules"), dict):
        members = {**members, "rules": jcs.encode(members["rules"])}
    for field in message.DESCRIPTOR.fields:
        if field.name in members:
            place = f"{where}.{field.name}"
            try:
                _set(message, field, members[field.name], place)
            except MacpSessionError:
                raise
            except (TypeError, ValueError, OverflowError) as error:  # protobuf's: out of range, no such enum value
                raise MacpSessionError(f"{place}: {error}") from None


def _set(message: Protobuf, field: _Field, value: object, where: str) -> None:
    target: Any = getattr(message, field.name)
    if _is_map(field):
        entry = field.message_type.fields_by_name["value"]
        for key, item in _object(value, where).items():
            target[key] = _scalar(entry, item, f"{where}.{key}")
    elif field.is_repeated:
        for at, item in enumerate(_array(value, where)):
            if field.message_type is not None:
                _fill(target.add(), item, f"{where}[{at}]")
            else:
                target.append(_scalar(field, item, f"{where}[{at}]"))
    elif field.message_type is not None:
        target.SetInParent()
        _fill(target, value, where)
    else:
        setattr(message, field.name, _scalar(field, value, where))


def _scalar(field: _Field, value: object, where: str) -> object:
    match field.cpp_type, value:
        case FieldDescriptor.CPPTYPE_STRING, str():
            return unbase64(value, where) if field.type == FieldDescriptor.TYPE_BYTES else value
        case FieldDescriptor.CPPTYPE_BOOL, bool():
            return value
        case FieldDescriptor.CPPTYPE_DOUBLE, int() | float() if not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        case FieldDescriptor.CPPTYPE_ENUM, int() | str() if not isinstance(value, bool):
            return value
        case (FieldDescriptor.CPPTYPE_INT64 | FieldDescriptor.CPPTYPE_UINT64, str()) if _INTEGER.fullmatch(value):
            return int(value)
        case (_, int()) if field.cpp_type in _INTEGERS and not isinstance(value, bool):
            return value
        case _:
            raise MacpSessionError(f"{where} cannot be {value!r:.80}")


def _envelope_members(members: Mapping[str, object], where: str) -> Mapping[str, object]:
    """An Envelope's members as its fields are: the payload in base64, the time in milliseconds."""
    if ("payload" in members) == ("payload_b64" in members):
        raise MacpSessionError(f"{where} needs payload or payload_b64, one of them")
    fields = dict(members)
    if "timestamp" in fields:
        try:
            fields["timestamp_unix_ms"] = unix_ms(str(fields["timestamp"]))
        except MacpSessionError as error:
            raise MacpSessionError(f"{where}.timestamp: {error}") from None
    if "payload_b64" in fields:
        fields["payload"] = fields["payload_b64"]
    else:
        mode, message_type = str(fields.get("mode", "")), str(fields.get("message_type", ""))
        cls = payload_type(mode, message_type)
        if cls is None:
            raise MacpSessionError(
                f"{where}.payload: MACP defines no payload for {message_type!r} in mode {mode!r}, so it must be payload_b64"
            )
        payload = cls()
        _fill(payload, fields["payload"], f"{where}.payload")
        fields["payload"] = base64(_bytes(payload))
    return fields


def _object(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise MacpSessionError(f"{where} must be an object, not {value!r:.80}")
    return cast("dict[str, object]", value)


def _array(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise MacpSessionError(f"{where} must be an array, not {value!r:.80}")
    return cast("list[object]", value)
