"""A fixture, and what the specification's runner checks of it (`protocol.md` 11.1)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from macp.v1.core_pb2 import CommitmentPayload
from macp.v1.envelope_pb2 import Envelope

from macp_rx.protocol import fixture
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
    """One session fixture, and the checks that its runner makes."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.session = fixture.Fixture.from_json(text)

    @property
    def needs_policy(self) -> bool:
        """Whether it registers a policy of its own."""
        return self.session.policy is not None

    @property
    def clocked(self) -> bool:
        """Whether it says when each message is accepted."""
        return self.session.clocked

    def start(self, session_id: str) -> Envelope:
        """The SessionStart that precedes its messages."""
        return next(self.session.envelopes(session_id))

    def steps(self, session_id: str) -> Iterator[Step]:
        """Its messages; a rejected one uses up its number too."""
        _start, *said = self.session.envelopes(session_id)
        for envelope, step in zip(said, self.session.steps, strict=True):
            yield Step(envelope, step.refused is None, step.refused or None, step.at_ms)

    @property
    def replays(self) -> bool:
        """Whether its history, replayed, leads to the same session: by default it does."""
        return self.session.expected.get("verify_replay_equivalence") is not False

    def check_resolution(self, last: Envelope) -> None:
        """Compares the Commitment that the session ends with, if it does, with what it should be, if the fixture says so."""
        resolved = last.message_type == "Commitment"
        assert self.session.expected.get("expect_resolution_present") in (None, resolved)
        expected = self.session.expected.get("expected_resolution")
        if expected is not None:
            assert resolved
            told = as_json(CommitmentPayload.FromString(last.payload))
            assert is_subset(expected, told), told

    def check_history(self, entries: Sequence[Entry]) -> None:
        """Compares what was accepted with what should have been, if the fixture says so."""
        history = self.session.expected.get("expected_history")
        if history is None:
            return
        told = [entry.envelope for entry in entries if entry.envelope is not None][1:]
        assert [envelope.message_type for envelope in told] == [one["message_type"] for one in history]
        for expected, entry in zip(history, entries[1:], strict=True):
            envelope = entry.envelope
            assert envelope is not None
            assert envelope.sender == expected["sender"]
            assert expected.get("synthetic", False) == (entry.kind is Kind.SYNTHETIC)
            cls = payload_type(envelope.mode, envelope.message_type)
            assert cls is not None
            assert is_subset(expected.get("payload", {}), as_json(cls.FromString(envelope.payload)))


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
    paths = [path for path in sorted(folder.glob("*.json")) if path.name != "schema.json"]
    return [Fixture(path.stem, path.read_text()) for path in paths]


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
