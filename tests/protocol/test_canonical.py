"""MACP canonical JSON: what a message says, as JSON, without loss."""

from __future__ import annotations

import importlib
import math
import pkgutil
from datetime import UTC, datetime, timedelta
from typing import Any

import macp
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, VotePayload
from macp.v1.core_pb2 import (
    CommitmentPayload,
    SendRequest,
    SessionLifecycleEvent,
    SessionMetadata,
    SessionStartPayload,
    SignalPayload,
)
from macp.v1.envelope_pb2 import Ack, Envelope
from macp.v1.policy_pb2 import PolicyDescriptor, WhatIfReplayResponse

from macp_rx import MacpSessionError
from macp_rx.protocol import canonical, jcs
from macp_rx.protocol.messages import DECISION, STANDARD_MODES, payload_type

INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
}
TYPES = [
    "SessionStart", "Commitment", "Signal", "Progress", "Proposal", "Evaluation", "Vote", "TaskUpdate", "HandoffContext",
    "ApprovalRequest", "Unheard",
]  # fmt: skip


def every_message() -> list[Descriptor]:
    modules = (module.name for module in pkgutil.walk_packages(macp.__path__, "macp.") if module.name.endswith("_pb2"))
    files = (importlib.import_module(name).DESCRIPTOR for name in modules)
    return [descriptor for file in files for descriptor in file.message_types_by_name.values()]


def can_be_said(value: float) -> bool:
    return math.isfinite(value) and not (value == 0 and math.copysign(1, value) < 0)


def scalars(field: Any, *, strange: bool) -> st.SearchStrategy[Any]:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return messages(field.message_type, strange=strange)
        case FieldDescriptor.CPPTYPE_STRING:
            return st.binary(max_size=5) if field.type == FieldDescriptor.TYPE_BYTES else st.text(max_size=4)
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_ENUM:
            return st.sampled_from([*field.enum_type.values_by_number, 77])
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return st.floats() if strange else st.floats().filter(can_be_said)
        case _:
            return INTEGERS[field.cpp_type]


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, *, strange: bool = False) -> Message:
    """Messages of one type with any content; strange ones have numbers that JSON cannot say."""
    message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if draw(st.booleans()):
            continue
        target: Any = getattr(message, field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            value = scalars(field.message_type.fields_by_name["value"], strange=strange)
            target.update(draw(st.dictionaries(st.text(max_size=3), value, max_size=2)))
        elif field.is_repeated:
            target.extend(draw(st.lists(scalars(field, strange=strange), max_size=2)))
        elif field.message_type:
            target.CopyFrom(draw(scalars(field, strange=strange)))
            target.SetInParent()
        else:
            setattr(message, field.name, draw(scalars(field, strange=strange)))
    return message


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    """Envelopes of known and unknown types, their payloads right, in another encoding, extended, or any bytes at all."""
    envelope = draw(messages(Envelope.DESCRIPTOR))
    assert isinstance(envelope, Envelope)
    envelope.mode = draw(st.sampled_from(["", "ext.other.v1", *STANDARD_MODES]))
    envelope.message_type = draw(st.sampled_from(TYPES))
    cls = payload_type(envelope.mode, envelope.message_type)
    if cls is not None and draw(st.integers(0, 3)):
        wire = draw(messages(cls.DESCRIPTOR, strange=True)).SerializeToString()
        envelope.payload = wire + draw(st.sampled_from([b"", b"", b"", b"\xf8\x01\x01", b"\x0a\x01x"]))
    return envelope


@settings(max_examples=1500)
@given(st.sampled_from(every_message()).flatmap(messages))
def test_every_message_of_the_protocol_survives(message: Message) -> None:
    text = canonical.encode(message)
    again = canonical.decode(text, type(message))
    assert again.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)
    assert canonical.encode(again) == text


@given(envelopes())
def test_envelopes_survive_with_the_very_bytes_of_their_payload(envelope: Envelope) -> None:
    text = canonical.encode(envelope)
    again = canonical.decode(text, Envelope)
    assert again == envelope
    assert again.payload == envelope.payload
    assert canonical.encode(again) == text


@given(st.data())
def test_protobufs_own_json_is_read_where_the_two_do_not_differ(data: st.DataObject) -> None:
    message = data.draw(messages(SessionMetadata.DESCRIPTOR))
    assert (
        canonical.from_json(json_format.MessageToDict(message, preserving_proto_field_name=True), SessionMetadata)
        == message
    )


def test_an_envelope_reads_as_the_specification_shows_it() -> None:
    envelope = Envelope(
        macp_version="1.0",
        mode=DECISION,
        message_type="Evaluation",
        message_id="m1",
        sender="alice",
        timestamp_unix_ms=1_772_396_641_000,
        payload=EvaluationPayload(proposal_id="p1", recommendation="APPROVE", confidence=1).SerializeToString(),
    )
    assert canonical.encode(envelope) == (
        '{"macp_version":"1.0","message_id":"m1","message_type":"Evaluation","mode":"macp.mode.decision.v1",'
        '"payload":{"confidence":1,"proposal_id":"p1","reason":"","recommendation":"APPROVE"},'
        '"sender":"alice","session_id":"","timestamp":"2026-03-01T20:24:01Z"}'
    )


def test_enums_are_names_and_large_integers_strings() -> None:
    event = SessionLifecycleEvent(event_type="EVENT_TYPE_CREATED", observed_at_unix_ms=2**53 - 1)
    assert canonical.to_json(event) == {"event_type": "EVENT_TYPE_CREATED", "observed_at_unix_ms": 2**53 - 1}
    ack = Ack(accepted_at_unix_ms=-(2**53), session_state=9)
    assert canonical.to_json(ack)["accepted_at_unix_ms"] == "-9007199254740992"
    assert canonical.to_json(ack)["session_state"] == 9  # of a newer protocol


def test_a_submessage_and_an_optional_field_are_there_only_if_they_are_set() -> None:
    assert "supersedes" not in canonical.to_json(CommitmentPayload())
    assert "first_divergence" not in canonical.to_json(WhatIfReplayResponse())
    assert canonical.to_json(WhatIfReplayResponse(first_divergence=0))["first_divergence"] == 0
    assert canonical.decode('{"supersedes":{}}', CommitmentPayload).HasField("supersedes")


def said(payload: bytes, message_type: str = "Evaluation") -> dict[str, object]:
    return canonical.to_json(Envelope(mode=DECISION, message_type=message_type, payload=payload))


@pytest.mark.parametrize(
    "payload",
    [
        EvaluationPayload(confidence=math.nan).SerializeToString(),
        EvaluationPayload(confidence=-0.0).SerializeToString(),
        b"\xf8\x01\x01",  # an unknown field
        b"\x12\x01B\x0a\x01a",  # another order
        b"\x0a\x00",  # a default, written out
        b"\x0a\x01a\x0a\x01b",  # twice
        b"\x08\x01",  # of the wrong type
        b"\xff",
    ],
)
def test_a_payload_that_json_would_change_stays_bytes(payload: bytes) -> None:
    assert "payload" not in said(payload)
    assert canonical.from_json(said(payload), Envelope).payload == payload


def test_a_payload_of_no_known_type_stays_bytes() -> None:
    assert said(b"\x01", "Contribute")["payload_b64"] == "AQ=="
    assert said(b"", "Vote")["payload"] == {"proposal_id": "", "vote": "", "reason": ""}


def test_a_map_stays_json_if_its_entries_are_sorted() -> None:
    entries = [b"\x4a\x05\x0a\x01%c\x12\x00" % letter for letter in b"abcdefgh"]
    assert said(b"".join(entries), "SessionStart")["payload"]["extensions"] == dict.fromkeys("abcdefgh", "")  # type: ignore[index]
    assert "payload" not in said(b"".join(entries[::-1]), "SessionStart")


@pytest.mark.parametrize("rules", ['{"a":1}', "{}", '{"a": 1}', '{"a":1.0}', "[]", "nonsense", "", '{"a":1,"a":2}'])
def test_rules_are_an_object_if_that_is_the_same_text(rules: str) -> None:
    policy = PolicyDescriptor(policy_id="p", rules=rules)
    told = canonical.to_json(policy)["rules"]
    assert isinstance(told, dict) == (rules in ('{"a":1}', "{}"))
    assert canonical.from_json(canonical.to_json(policy), PolicyDescriptor) == policy


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_times_are_rfc_3339(unix_ms: int) -> None:
    text = canonical.rfc3339(unix_ms)
    assert datetime.fromisoformat(text) - EPOCH == timedelta(milliseconds=unix_ms)
    assert canonical.unix_ms(text) == unix_ms
    assert len(text) == (24 if unix_ms % 1000 else 20)


@pytest.mark.parametrize(
    ("text", "unix_ms"),
    [
        ("1970-01-01T00:00:01.5Z", 1500),
        ("1970-01-01t00:00:01.0019999z", 1001),
        ("1969-12-31T23:59:59.999Z", -1),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T22:30:00-01:30", 0),
    ],
)
def test_times_of_others_are_read(text: str, unix_ms: int) -> None:
    assert canonical.unix_ms(text) == unix_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "1970-01-01",
        "1970-01-01T00:00:00",
        "1970-01-01 00:00:00Z",
        "1970-02-30T00:00:00Z",
        "1970-01-01T00:00:00Z\n",
        "1970-01-01T24:00:00Z",
        "1970-01-01T00:00:00+24:00",
        "1970-01-01T00:00:00.Z",
        "1970-W01-1T00:00:00Z",
    ],
)
def test_what_is_no_time_says_so(text: str) -> None:
    with pytest.raises(MacpSessionError, match=r"no (RFC 3339 )?time"):
        canonical.unix_ms(text)


@pytest.mark.parametrize("unix_ms", [2**63 - 1, -(2**63), 253_402_300_800_000, -62_135_596_800_001])
def test_a_time_beyond_the_calendar_stays_a_number(unix_ms: int) -> None:
    envelope = Envelope(timestamp_unix_ms=unix_ms)
    assert "timestamp" not in canonical.to_json(envelope)
    assert canonical.decode(canonical.encode(envelope), Envelope) == envelope


def test_unknown_members_are_ignored_and_missing_ones_empty() -> None:
    assert canonical.decode('{"vote":"APPROVE","later":{"x":[1]}}', VotePayload) == VotePayload(vote="APPROVE")


def test_an_unknown_field_is_refused_not_dropped() -> None:
    vote = VotePayload.FromString(b"\xf8\x01\x01")
    with pytest.raises(MacpSessionError, match="VotePayload has fields that the installed macp-proto does not know"):
        canonical.to_json(vote)
    with pytest.raises(MacpSessionError, match="Envelope has fields"):
        canonical.to_json(SendRequest(envelope=Envelope.FromString(b"\xf8\x01\x01")))


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.0])
def test_a_number_that_json_cannot_say_is_refused(value: float) -> None:
    with pytest.raises(MacpSessionError, match="confidence is"):
        canonical.encode(SignalPayload(confidence=value))


@pytest.mark.parametrize(
    ("into", "text", "why"),
    [
        (SendRequest, '{"envelope":{}}', "SendRequest.envelope needs payload or payload_b64"),
        (Envelope, '{"payload":{},"payload_b64":""}', "needs payload or payload_b64, one of them"),
        (
            Envelope,
            '{"payload":{},"message_type":"Hm","mode":"m"}',
            "no payload for 'Hm' in mode 'm', so it must be payload_b64",
        ),
        (Envelope, '{"payload":{"action":1},"message_type":"Commitment"}', "Envelope.payload.action cannot be 1"),
        (Envelope, '{"payload":null,"message_type":"Commitment"}', "Envelope.payload must be an object, not None"),
        (Envelope, '{"payload_b64":"","timestamp":5}', "Envelope.timestamp: '5' is no RFC 3339 time"),
        (Envelope, '{"payload_b64":"AQ"}', "Envelope.payload is no base64"),
        (Envelope, '{"payload_b64":"AR=="}', "Envelope.payload is no base64"),
        (Envelope, '{"payload_b64":1}', "Envelope.payload cannot be 1"),
        (Envelope, "[]", "Envelope must be an object"),
        (
            SessionStartPayload,
            '{"participants":"alice"}',
            "SessionStartPayload.participants must be an array, not 'alice'",
        ),
        (SessionStartPayload, '{"participants":["a",null]}', r"SessionStartPayload.participants\[1\] cannot be None"),
        (SessionStartPayload, '{"roots":[{"uri":{}}]}', r"SessionStartPayload.roots\[0\].uri cannot be {}"),
        (SessionStartPayload, '{"extensions":{"a":"?"}}', "SessionStartPayload.extensions.a is no base64"),
        (SessionStartPayload, '{"extensions":[]}', "SessionStartPayload.extensions must be an object"),
        (SessionStartPayload, '{"ttl_ms":1.5}', "SessionStartPayload.ttl_ms cannot be 1.5"),
        (SessionStartPayload, '{"ttl_ms":true}', "SessionStartPayload.ttl_ms cannot be True"),
        (SessionStartPayload, '{"ttl_ms":"1_0"}', "SessionStartPayload.ttl_ms cannot be '1_0'"),
        (SessionStartPayload, '{"ttl_ms":9223372036854775808}', "SessionStartPayload.ttl_ms: Value out of range"),
        (SessionStartPayload, '{"intent":"\\ud800"}', "SessionStartPayload.intent: .*surrogates"),
        (SignalPayload, '{"confidence":true}', "SignalPayload.confidence cannot be True"),
        (SignalPayload, '{"confidence":"NaN"}', "SignalPayload.confidence cannot be 'NaN'"),
        (SignalPayload, '{"confidence":1e999}', "SignalPayload.confidence cannot be inf"),
        (CommitmentPayload, '{"outcome_positive":1}', "CommitmentPayload.outcome_positive cannot be 1"),
        (Ack, '{"session_state":"OPEN"}', "Ack.session_state: unknown enum label"),
        (Ack, '{"session_state":null}', "Ack.session_state cannot be None"),
        (VotePayload, "{", "no JSON"),
    ],
)
def test_what_is_no_such_message_says_where(into: type[Message], text: str, why: str) -> None:
    with pytest.raises(MacpSessionError, match=why):
        canonical.decode(text, into)


def test_the_text_is_canonical() -> None:
    start = SessionStartPayload(participants=["b", "a"], extensions={"b": b"1", "a": b"2"}, ttl_ms=60_000)
    assert canonical.encode(start) == jcs.encode(jcs.decode(canonical.encode(start)))
    assert '"extensions":{"a":"Mg==","b":"MQ=="}' in canonical.encode(start)
