"""A fixture as the specification's runner reads it (`protocol.md` 11.1), with its quirks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, symbol_database
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope

from macp_rx.protocol.lifecycle import Entry, Kind
from macp_rx.protocol.messages import payload_type

__all__ = ["Fixture", "Step", "as_json", "check_given", "found", "is_subset", "vectors"]


@dataclass(frozen=True)
class Step:
    """One message of a fixture, and whether it should be accepted."""

    envelope: Envelope
    accepted: bool
    error_code: str | None
    at_ms: int | None

    def check(self, number: int, refused_with: str | None) -> None:
        """Compares what happened to message ``number`` with what should have."""
        what = f"message {number} ({self.envelope.message_type} of {self.envelope.sender})"
        if self.accepted:
            assert refused_with is None, f"{what} was refused with {refused_with}"
        else:
            assert refused_with is not None, f"{what} was accepted"
            assert self.error_code in (None, refused_with), (
                f"{what} was refused with {refused_with}, not {self.error_code}"
            )


class Fixture:
    """One session fixture."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._read: dict[str, Any] = json.loads(path.read_text())

    def __getattr__(self, name: str) -> Any:
        return self._read.get(name)

    @property
    def needs_policy(self) -> bool:
        """Whether it registers a policy of its own."""
        return self._read.get("policy") is not None

    @property
    def clocked(self) -> bool:
        """Whether it says when each message is accepted."""
        return any("accepted_at_ms" in message for message in self.messages)

    def start(self, session_id: str) -> Envelope:
        """The SessionStart that precedes its messages."""
        payload = core_pb2.SessionStartPayload(
            intent="conformance",
            participants=self.participants,
            mode_version=self.mode_version,
            configuration_version=self.configuration_version,
            policy_version=self.policy_version or "",
            ttl_ms=self.ttl_ms,
        )
        return self._envelope(session_id, 0, "SessionStart", self.initiator, payload)

    def steps(self, session_id: str) -> Iterator[Step]:
        """Its messages; a rejected one uses up its number too."""
        for number, message in enumerate(self.messages, start=1):
            payload = _payload(message["payload_type"], message["payload"])
            envelope = self._envelope(session_id, number, message["message_type"], message["sender"], payload)
            for name, value in message.get("envelope", {}).items():
                setattr(envelope, name, value)
            accepted = message["expect"] == "accept"
            yield Step(envelope, accepted, message.get("expected_error_code"), message.get("accepted_at_ms"))

    @property
    def replays(self) -> bool:
        """Whether its history, replayed, leads to the same session: by default it does."""
        return self.verify_replay_equivalence is not False

    def check_resolution(self, last: Envelope) -> None:
        """Compares the Commitment that the session ends with, if it does, with what it should be, if the fixture says so."""
        resolved = last.message_type == "Commitment"
        assert self.expect_resolution_present in (None, resolved)
        if self.expected_resolution is not None:
            assert resolved
            told = as_json(core_pb2.CommitmentPayload.FromString(last.payload))
            assert is_subset(self.expected_resolution, told), told

    def check_history(self, entries: Sequence[Entry]) -> None:
        """Compares what was accepted with what should have been, if the fixture says so."""
        if self.expected_history is None:
            return
        told = [entry.envelope for entry in entries if entry.envelope is not None][1:]
        assert [envelope.message_type for envelope in told] == [one["message_type"] for one in self.expected_history]
        for expected, entry in zip(self.expected_history, entries[1:], strict=True):
            envelope = entry.envelope
            assert envelope is not None
            assert envelope.sender == expected["sender"]
            assert expected.get("synthetic", False) == (entry.kind is Kind.SYNTHETIC)
            cls = payload_type(envelope.mode, envelope.message_type)
            assert cls is not None
            assert is_subset(expected.get("payload", {}), as_json(cls.FromString(envelope.payload)))

    def _envelope(self, session_id: str, number: int, message_type: str, sender: str, payload: Message) -> Envelope:
        return Envelope(
            macp_version="1.0",
            mode=self.mode,
            message_type=message_type,
            message_id=f"m{number}",
            session_id=session_id,
            sender=sender,
            payload=payload.SerializeToString(),
        )


def _payload(type_name: str, values: dict[str, Any]) -> Message:
    payload: Any = symbol_database.Default().GetSymbol(type_name)()
    if type_name == "macp.v1.CommitmentPayload":
        payload.outcome_positive = True  # what the runner assumes where a fixture says nothing
    for field in payload.DESCRIPTOR.fields:
        if field.name not in values or field.name in ("supersedes", "tags"):
            continue
        value = values[field.name]
        if field.type == FieldDescriptor.TYPE_BYTES:
            if field.name == "context" and isinstance(value, str):  # the runner drops all other bytes
                payload.context = value.encode()
        elif field.is_repeated:
            getattr(payload, field.name).extend(value)
        else:
            setattr(payload, field.name, value)
    return payload  # type: ignore[no-any-return]


def as_json(payload: Message) -> dict[str, Any]:
    """A payload as fixtures write it: every field, under its own name."""
    return json_format.MessageToDict(
        payload, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def is_subset(expected: object, actual: object) -> bool:
    """Objects by their members, arrays by their first elements, the rest by equality."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        return all(
            key in actual and is_subset(value, actual[key])
            for key, value in expected.items()
            if not key.startswith("_")
        )
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) <= len(actual) and all(map(is_subset, expected, actual))
    return expected == actual


def found(folder: Path) -> list[Fixture]:
    """The session fixtures of a folder."""
    return [Fixture(path) for path in sorted(folder.glob("*.json")) if path.name != "schema.json"]


def check_given(folder: Path) -> None:
    """Raises UsageError for a folder that has nothing to be judged by: a wrong path would pass in silence."""
    if not (found(folder) or vectors([folder], "cmt-hash") or vectors([folder], "receipt")):
        raise pytest.UsageError(
            f"--conformance {folder}: no fixture there; they are *.json, cmt-hash/*.json and receipt/*.json in that very folder"
        )


def vectors(folders: Sequence[Path], kind: str) -> list[dict[str, Any]]:
    """The vectors of one kind, ``cmt-hash`` or ``receipt``: what lies in the subfolders of that name, but for schemas."""
    paths = [path for folder in folders for path in sorted((folder / kind).glob("*.json"))]
    return [json.loads(path.read_text()) for path in paths if not path.name.endswith("schema.json")]
