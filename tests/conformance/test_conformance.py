"""The specification's fixtures, on the pure functions, on the embedded runtime, and on the real server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import jsonschema
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Envelope, SessionState

from macp_rx import MacpAckError, MacpClient, MacpRefusedError, Runtime
from macp_rx.clock import VirtualClock
from macp_rx.protocol import jcs, lifecycle
from macp_rx.protocol.commitment import commitment_hash, project, verify_commitment_hash
from macp_rx.protocol.lifecycle import Entry, Kind
from macp_rx.protocol.modes import MODES, handoff
from macp_rx.protocol.policy import BUILT_IN, Policy, policy_from
from macp_rx.protocol.receipt import verify_receipt
from macp_rx.testing import Marbles, from_fixture
from macp_rx.timeline import Timeline
from tests.conformance.conftest import HERE
from tests.conformance.fixtures import Fixture, is_subset
from tests.conftest import Connect

STATES = {name.removeprefix("SESSION_STATE_").capitalize(): number for name, number in SessionState.items()}


def test_the_pure_functions_conform(fixture: Fixture) -> None:
    session_id = str(uuid.uuid4())
    mode = MODES[fixture.session.mode]
    policies = dict(BUILT_IN)
    if fixture.session.policy is not None:
        policy = policy_from(fixture.session.policy)
        policies[policy.policy_id] = policy
    now = 0 if fixture.clocked else 1
    session = lifecycle.start(fixture.start(session_id), now, mode=mode, policies=policies)
    for number, step in enumerate(fixture.steps(session_id), start=1):
        if step.envelope.message_type == "SessionStart":
            code = _refused_start(step.envelope, policies)
        else:
            now = number if step.at_ms is None else step.at_ms
            session, refusal = lifecycle.receive(session, mode, step.envelope, now)
            code = refusal.code if refusal else None
        step.check(number, code)
    assert session.state == STATES[fixture.session.final_state]
    state = mode.mode.as_json(session.mode_state)
    assert is_subset(fixture.session.expected.get("expected_mode_state", {}), state), state
    accepted = [entry for entry in session.log or () if entry.envelope is not None]
    fixture.check_history(accepted)
    fixture.check_resolution(accepted[-1].envelope)
    if fixture.replays:
        assert lifecycle.replay(session.log or (), mode, session.bound.policy) == session


def _refused_start(envelope: Envelope, policies: Mapping[str, Policy]) -> str | None:
    try:
        lifecycle.check_shape(envelope, 1_048_576)
        lifecycle.start(envelope, 1, mode=MODES.get(envelope.mode), policies=policies)
    except MacpRefusedError as refusal:
        return refusal.code
    return None


def test_a_runtime_conforms(fixture: Fixture, connect: Connect) -> None:
    _drive(fixture, connect(fixture.session.initiator), lambda _at: None)


def test_a_runtime_conforms_on_a_clock(clocked_fixture: Fixture) -> None:
    clock = VirtualClock(start=datetime.fromtimestamp(0, UTC))

    def advance(at_ms: int) -> None:
        clock.advance_to(at_ms / 1000)

    with Runtime(clock=clock) as runtime:
        _drive(clocked_fixture, MacpClient.embedded(agent=clocked_fixture.session.initiator, runtime=runtime), advance)


def _as_marbles_and_back(fixture: Fixture) -> Fixture:
    """The fixture that is written of how the embedded runtime plays this one's marbles."""
    marbles = Marbles()
    lanes = from_fixture(fixture.text)
    assert Timeline.parse(str(lanes)) == lanes
    played = marbles.session(lanes)
    marbles.run()
    assert played.timeline == lanes
    return Fixture(fixture.name, played.to_fixture(fixture.session.description))


def test_marbles_are_the_same_fixture(fixture: Fixture) -> None:
    again = _as_marbles_and_back(fixture)
    jsonschema.validate(json.loads(again.text), json.loads((HERE[0] / "schema.json").read_text()))
    before, after = fixture.session, again.session
    assert (after.mode, after.initiator, after.start, after.policy) == (
        before.mode,
        before.initiator,
        before.start,
        before.policy,
    )
    assert after.steps == before.steps
    assert (after.final_state, after.description) == (before.final_state, before.description)
    for name in after.expected.keys() & before.expected.keys():
        assert is_subset(before.expected[name], after.expected[name])
    test_the_pure_functions_conform(again)


def test_a_runtime_conforms_to_what_marbles_are_written_as(fixture: Fixture, connect: Connect) -> None:
    again = _as_marbles_and_back(fixture)
    _drive(again, connect(again.session.initiator), lambda _at: None)


def test_a_runtime_conforms_to_what_marbles_are_written_as_on_a_clock(clocked_fixture: Fixture) -> None:
    again = _as_marbles_and_back(clocked_fixture)
    assert again.clocked
    test_a_runtime_conforms_on_a_clock(again)


def _drive(fixture: Fixture, client: MacpClient, advance: Callable[[int], None]) -> None:
    if fixture.session.policy is not None:
        _register(client.acting_as("macp-conform"), fixture.session.policy)
    session_id = str(uuid.uuid4())
    client.send(fixture.start(session_id))
    for number, step in enumerate(fixture.steps(session_id), start=1):
        code = None
        if step.at_ms is not None:
            advance(step.at_ms)
        try:
            client.acting_as(step.envelope.sender).send(step.envelope)
        except MacpAckError as refusal:
            code = refusal.code
        step.check(number, code)
    assert client.get_session(session_id).metadata.state == STATES[fixture.session.final_state]
    said = [accepted.envelope for accepted in client.history(session_id)]
    fixture.check_history([Entry(_kind(envelope), 0, envelope) for envelope in said])
    fixture.check_resolution(said[-1])


def _kind(envelope: Envelope) -> Kind:
    """The wire does not say which messages are the runtime's own; their ids do."""
    return Kind.SYNTHETIC if envelope.message_id.startswith(handoff.RESERVED) else Kind.MESSAGE


def _register(client: MacpClient, descriptor: policy_pb2.PolicyDescriptor) -> None:
    try:
        client.register_policy(descriptor)
    except MacpRefusedError:
        client.unregister_policy(descriptor.policy_id)
        client.register_policy(descriptor)


def test_a_commitment_hashes_to_what_the_vector_says(
    hash_vector: dict[str, Any], hashes_by_name: dict[str, str]
) -> None:
    payload = dict(hash_vector["payload"])
    supersedes = payload.pop("supersedes", None)
    commitment = core_pb2.CommitmentPayload(**payload)
    if supersedes is not None:
        commitment.supersedes.SetInParent()
        commitment.supersedes.MergeFrom(core_pb2.CommitmentRef(**supersedes))
    canonical = jcs.encode(project(commitment)).encode()
    preimage = f"{hash_vector['label']}:".encode() + canonical
    assert canonical.hex() == hash_vector.get("jcs_utf8_hex", canonical.hex())
    assert preimage.hex() == hash_vector.get("preimage_utf8_hex", preimage.hex())
    assert commitment_hash(commitment) == hash_vector["hash"]
    assert verify_commitment_hash(commitment.SerializeToString(), hash_vector["hash"]) == "match"
    if other := hash_vector.get("must_differ_from"):
        assert commitment_hash(commitment) != hashes_by_name[other]


def test_a_claimed_hash_is_judged_as_the_vector_says(claim_vector: dict[str, Any]) -> None:
    found = verify_commitment_hash(bytes.fromhex(claim_vector["wire_hex"]), claim_vector["claimed_hash"])
    assert found == claim_vector["expected_outcome"]


def test_a_receipt_is_judged_as_the_vector_says(receipt_vector: dict[str, Any]) -> None:
    for receipt in (receipt_vector["receipt"], json.dumps(receipt_vector["receipt"])):
        found = verify_receipt(receipt, receipt_vector["trusted_keys"])
        assert {
            "integrity": found.integrity,
            "attestations": list(found.attestations),
            "verdict": found.verdict,
        } == receipt_vector["expected"]
