"""Conformance fixtures, read and written; tests/conformance plays them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from macp.modes.handoff.v1.handoff_pb2 import HandoffContextPayload
from macp.v1.core_pb2 import CommitmentPayload, SessionStartPayload

from macp_rx import MacpSessionError, Message
from macp_rx.protocol.fixture import Fixture, Step
from macp_rx.protocol.lifecycle import Kind
from macp_rx.protocol.messages import DECISION, HANDOFF
from macp_rx.protocol.modes import decision

FOLDER = Path(__file__).parents[1] / "conformance"
FILES = sorted(path for path in FOLDER.glob("*/*.json") if path.name != "schema.json")
SCHEMA = json.loads((FOLDER / "data" / "schema.json").read_text())
SESSION = "0c5f4a7e-2f0b-4a9e-8f5e-5b1f0a1d9c10"

by_name = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def changed(**members: Any) -> str:
    """A fixture's text with other members."""
    return json.dumps({**json.loads((FOLDER / "data" / "decision_happy_path.json").read_text()), **members})


def with_step(*steps: Step) -> Fixture:
    """A fixture of two with these messages."""
    start = SessionStartPayload(
        intent="conformance", participants=["a", "b"], mode_version="1", configuration_version="1", ttl_ms=1
    )
    return Fixture(mode=HANDOFF, initiator="a", start=start, steps=steps, final_state="Open")


@by_name
def test_one_is_written_as_it_was_read(path: Path) -> None:
    fixture = Fixture.from_json(path.read_text())
    text = fixture.to_json()
    jsonschema.validate(json.loads(text), SCHEMA)
    assert Fixture.from_json(text) == fixture


@by_name
def test_its_history_is_what_it_says_is_accepted(path: Path) -> None:
    fixture = Fixture.from_json(path.read_text())
    start, *said = fixture.history(SESSION)
    assert start.envelope is not None
    assert (start.kind, start.envelope.sender, start.envelope.message_id) == (Kind.START, fixture.initiator, "m0")
    told = [entry.envelope for entry in said if entry.kind is Kind.MESSAGE]
    ids = [f"m{number}" for number, step in enumerate(fixture.steps, start=1) if step.refused is None]
    assert [envelope.message_id for envelope in told if envelope] == ids


def test_a_commitment_that_says_nothing_is_positive_and_a_context_is_text() -> None:
    context = HandoffContextPayload(handoff_id="h1", content_type="text/plain", context="Grüße".encode())
    fixture = with_step(
        Step(sender="a", message=Message(HANDOFF, context)),
        Step(sender="a", message=Message(HANDOFF, CommitmentPayload(action="x")), refused="", at_ms=3),
    )
    told, commitment = json.loads(fixture.to_json())["messages"]
    assert told["payload"] == {"handoff_id": "h1", "content_type": "text/plain", "context": "Grüße"}
    assert (commitment["payload"], commitment["expect"]) == ({"action": "x", "outcome_positive": False}, "reject")
    assert "expected_error_code" not in commitment
    assert Fixture.from_json(fixture.to_json()) == fixture
    del commitment["payload"]["outcome_positive"]
    (assumed,) = Fixture.from_json(changed(messages=[commitment])).steps
    assert isinstance(assumed.message.payload, CommitmentPayload)
    assert assumed.message.payload.outcome_positive


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (Message(HANDOFF, HandoffContextPayload(context=b"\xff")), "only a handoff's context that is text"),
        (decision.propose("p1", "x", supporting_data=b"data"), "the bytes of ProposalPayload.supporting_data"),
        (Message(HANDOFF, b"bytes", "Other"), "message 1 has bytes for a payload"),
        (Message(HANDOFF, SessionStartPayload()), "must name another session"),
        (Message(HANDOFF, CommitmentPayload(supersedes={})), "cannot say CommitmentPayload.supersedes"),  # type: ignore[arg-type]
    ],
)
def test_what_the_specifications_runner_leaves_out_cannot_be_written(message: Message[Any], told: str) -> None:
    with pytest.raises(MacpSessionError) as raised:
        with_step(Step(sender="a", message=message)).to_json()
    assert told in str(raised.value)


def test_a_start_that_it_cannot_say_cannot_be_written() -> None:
    with pytest.raises(MacpSessionError, match="a message at the least"):
        with_step().to_json()
    fixture = with_step(Step(sender="a", message=decision.vote("p1", "APPROVE")))
    fixture.start.context_id = "c"
    with pytest.raises(MacpSessionError, match="SessionStart cannot say context_id"):
        fixture.to_json()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", 'is a JSON object with "messages"'),
        ("{", "no JSON"),
        (changed(ttl_ms="long"), "the fixture cannot be read"),
        (changed(messages=[{"sender": "a"}]), "message 1 has no 'payload_type'"),
        (
            changed(
                messages=[{"sender": "a", "payload_type": "x", "payload": {}, "message_type": "x", "expect": "accept"}]
            ),
            "message 1 has no",
        ),
        (
            changed(messages=[{"sender": "a", "payload_type": "macp.v1.CommitmentPayload", "payload": {"action": 1}}]),
            "message 1",
        ),
        (changed(policy={"policy_id": "p"}), "the fixture has no 'mode'"),
    ],
)
def test_what_is_none_is_an_error_that_says_where(text: str, told: str) -> None:
    with pytest.raises(MacpSessionError) as raised:
        Fixture.from_json(text)
    assert told in str(raised.value)


def test_what_the_rules_do_not_bear_out_is_an_error() -> None:
    fixture = Fixture.from_json(
        (FOLDER / "data" / "decision_reject_paths.json").read_text().replace('"FORBIDDEN"', '"OTHER"', 1)
    )
    with pytest.raises(
        MacpSessionError, match=r"message 1 is refused with OTHER in the fixture, .* refused with FORBIDDEN"
    ):
        fixture.history(SESSION)
    with pytest.raises(MacpSessionError, match=r"mode 'ext\.auction\.v1' cannot be judged"):
        Fixture.from_json(changed(mode="ext.auction.v1")).history(SESSION)
    assert fixture.mode == DECISION
