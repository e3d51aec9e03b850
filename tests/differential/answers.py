"""Answers made comparable: what the protocol fixes is kept, clock values and human sentences go, open orders become sorted.

An answer is plain data (dicts, lists, strings), so that two of them compare with ``==`` and print readably.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope

from tests.differential.steps import Call, Scenario, request_class

__all__ = ["BUILT_IN_MODES", "Plain", "accepted", "inline_error", "lifecycle_event", "response", "signal", "status"]

Plain = Any
"""Dicts, lists, strings, numbers."""

BUILT_IN_MODES = {"macp.mode.decision.v1", "macp.mode.proposal.v1", "macp.mode.task.v1", "macp.mode.handoff.v1",
                  "macp.mode.quorum.v1", "ext.multi_round.v1"}  # fmt: skip
BUILT_IN_POLICIES = {"policy.default", "policy.std.majority", "policy.std.supermajority", "policy.std.unanimous"}

CLOCK = {"accepted_at_unix_ms", "started_at_unix_ms", "last_message_at_unix_ms", "observed_at_unix_ms"}
"""Fields that are a runtime's own clock."""

ISSUED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

MINUTE = 60_000
DAY = 86_400_000


def plain(message: Message) -> dict[str, Plain]:
    """A message as a dict: every field by name, unset ones too, without the clock's."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields if field.name not in CLOCK}


def _field(message: Message, field: Any) -> Plain:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {key: value[key] for key in sorted(value)}
    if field.is_repeated:
        return [plain(item) if isinstance(item, Message) else item for item in value]
    if isinstance(value, Message):
        return plain(value) if message.HasField(field.name) else None
    if field.has_presence and not message.HasField(field.name):
        return None
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name if value in field.enum_type.values_by_number else value
    if field.name == "details":
        return details(value)
    return value


def metadata(scenario: Scenario, session: core_pb2.SessionMetadata) -> dict[str, Plain]:
    """A session's metadata. Its deadline is told relative to its start, unless the start was stamped with another time,
    and only to the minute where a suspension may have moved it.
    """
    known = plain(session)
    deadline, lifetime = session.expires_at_unix_ms, session.expires_at_unix_ms - session.started_at_unix_ms
    moved = any(isinstance(step, Call) and step.method == "ResumeSession" for step in scenario.steps)
    unit = MINUTE if moved else 1
    known["expires_at_unix_ms"] = f"start + {lifetime // unit}" if 0 <= lifetime <= 2 * DAY else deadline // unit
    known["participant_activity"] = sorted(
        (activity["participant_id"], activity["message_count"]) for activity in known["participant_activity"]
    )
    known["extension_keys"] = sorted(known["extension_keys"])
    return known


def details(raw: bytes) -> Plain:
    """The details of a refusal; of a policy's denials the codes and participants, in order, without their sentences."""
    try:
        read = json.loads(raw)
        return [(denial["code"], denial.get("participants", [])) for denial in read["denials"]]
    except (ValueError, KeyError, TypeError):
        return raw


def status(code: grpc.StatusCode, sentence: str | None, trailers: Iterable[tuple[str, Any]] | None) -> dict[str, Plain]:
    """How a call failed. Of the sentence only SESSION_NOT_OPEN counts, which clients match on (`protocol.md` 6.3)."""
    told = dict(trailers or ())
    return {
        "status": code.name,
        "code": told.get("macp-error-code"),
        "details": details(told.get("macp-error-details-bin", b"")),
        "not open": sentence == "SESSION_NOT_OPEN",
    }


def inline_error(response: core_pb2.StreamSessionResponse) -> dict[str, Plain]:
    """An inline error of a stream, without its sentence."""
    return {"error": _without(plain(response.error), "message")}


def accepted(envelope: Envelope) -> dict[str, Plain]:
    """An accepted envelope as a stream tells it; a stamp that the runtime made is only called that."""
    known = plain(envelope)
    if abs(envelope.timestamp_unix_ms - time.time() * 1000) < DAY:
        known["timestamp_unix_ms"] = "the runtime's"
    return known


def lifecycle_event(event: core_pb2.SessionLifecycleEvent) -> dict[str, Plain]:
    """A lifecycle event with what cannot change any more: its metadata is that of the time of delivery (`protocol.md` 7)."""
    session = event.session
    return {
        "event": core_pb2.SessionLifecycleEvent.EventType.Name(event.event_type),
        "mode": session.mode,
        "initiator": session.initiator,
        "participants": list(session.participants),
        "versions": [session.mode_version, session.configuration_version, session.policy_version],
    }


def signal(response: core_pb2.WatchSignalsResponse) -> dict[str, Plain]:
    """A Signal or Progress as every watcher hears it."""
    return plain(response)


def response(scenario: Scenario, call: Call, message: Message) -> dict[str, Plain]:
    """The answer to a unary RPC, cut down to this scenario where it tells of all."""
    known = plain(message)
    match call.method:
        case "Send" | "CancelSession" | "SuspendSession" | "ResumeSession":
            if known["ack"] and known["ack"]["error"]:
                known["ack"]["error"].pop("message")
        case "GetSession":
            known = metadata(scenario, message.metadata)
        case "ListSessions":
            known = _page(scenario, call, message)
        case "ListModes" | "ListExtModes":
            known["modes"] = [mode for mode in known["modes"] if mode["mode"] in BUILT_IN_MODES | scenario.names]
        case "Initialize":
            known["supported_modes"] = _of(known["supported_modes"], BUILT_IN_MODES | scenario.names)
            known.pop("instructions")
        case "GetManifest":
            known["manifest"]["supported_modes"] = _of(
                known["manifest"]["supported_modes"], BUILT_IN_MODES | scenario.names
            )
        case "ListPolicies":
            own = BUILT_IN_POLICIES | scenario.names
            known["descriptors"] = [policy for policy in known["descriptors"] if policy["policy_id"] in own]
        case "RegisterPolicy" | "UnregisterPolicy":
            known["error"] = known["error"].partition(": ")[0] == "INVALID_POLICY_DEFINITION"
        case "RegisterExtMode" | "UnregisterExtMode" | "PromoteMode":
            known["error"] = bool(known["error"])
        case "GetDecisionReceipt":
            known = _json(known["receipt_json"])
            if isinstance(known, dict) and ISSUED.fullmatch(str(known.get("issued_at"))):
                known["issued_at"] = "the runtime's"
        case "GetReceiptKeys":
            known = _json(known["jwks_json"])
    return known


def _page(scenario: Scenario, call: Call, message: core_pb2.ListSessionsResponse) -> dict[str, Plain]:
    """The part of a page that other scenarios cannot change: this scenario's sessions, if it continues right before them."""
    request = request_class("ListSessions").FromString(call.request)
    own: list[Plain] = []
    cursor = _cursor(request.page_token)
    if len(cursor) > 8 and any(session_id.startswith(cursor) for session_id in scenario.session_ids):
        for session in message.sessions:
            if session.session_id not in scenario.session_ids:
                break
            own.append(metadata(scenario, session))
    token = message.next_page_token if own and len(own) == request.page_size else "depends on others"
    return {"sessions": own, "next_page_token": token}


def _cursor(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode().removeprefix("v1:")
    except (binascii.Error, ValueError):
        return ""


def _json(text: str) -> Plain:
    try:
        return json.loads(text)
    except ValueError:
        return {"not JSON": text}


def _of(names: Iterable[str], own: set[str] | frozenset[str]) -> list[str]:
    return [name for name in names if name in own]


def _without(known: Mapping[str, Plain], name: str) -> dict[str, Plain]:
    return {key: value for key, value in known.items() if key != name}
