"""The specification's fixtures, on the pure functions, on the embedded runtime, and on the real server."""

from __future__ import annotations

import json
import uuid
from typing import Any

from google.protobuf import json_format
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Envelope, SessionState

from macp_rx import MacpAckError, MacpClient, MacpRefusedError
from macp_rx.protocol import jcs, lifecycle
from macp_rx.protocol.commitment import commitment_hash, project, verify_commitment_hash
from macp_rx.protocol.modes import MODES
from macp_rx.protocol.receipt import verify_receipt
from tests.conformance.fixtures import Fixture, is_subset
from tests.conftest import Connect

STATES = {name.removeprefix("SESSION_STATE_").capitalize(): number for name, number in SessionState.items()}


def test_the_pure_functions_conform(fixture: Fixture) -> None:
    session_id = str(uuid.uuid4())
    session = lifecycle.start(fixture.start(session_id), 0 if fixture.clocked else 1, known=None)
    history: list[Envelope] = []
    for number, step in enumerate(fixture.steps(session_id), start=1):
        code = None
        try:
            session = lifecycle.accept(session, step.envelope, step.at_ms or number)
            history.append(step.envelope)
        except MacpRefusedError as refusal:
            code = refusal.code
        step.check(number, code)
    assert session.state == STATES[fixture.expected_final_state]
    state = MODES[fixture.mode].as_json(session.mode_state)
    assert is_subset(fixture.expected_mode_state or {}, state), state
    assert _replayed(fixture, session_id, history) == state


def _replayed(fixture: Fixture, session_id: str, history: list[Envelope]) -> dict[str, object]:
    session = lifecycle.start(fixture.start(session_id), 1, known=None)
    for envelope in history:
        session = lifecycle.accept(session, envelope, 2)
    return MODES[fixture.mode].as_json(session.mode_state)


def test_a_runtime_conforms(fixture: Fixture, connect: Connect) -> None:
    client = connect(fixture.initiator)
    if fixture.needs_policy:
        _register(client.acting_as("macp-conform"), fixture.policy)
    session_id = str(uuid.uuid4())
    client.send(fixture.start(session_id))
    for number, step in enumerate(fixture.steps(session_id), start=1):
        code = None
        try:
            client.acting_as(step.envelope.sender).send(step.envelope)
        except MacpAckError as refusal:
            code = refusal.code
        step.check(number, code)
    assert client.get_session(session_id).metadata.state == STATES[fixture.expected_final_state]
    said = [accepted.envelope for accepted in client.history(session_id)]
    if fixture.expected_resolution:
        resolution = core_pb2.CommitmentPayload.FromString(said[-1].payload)
        told = json_format.MessageToDict(
            resolution, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        assert is_subset(fixture.expected_resolution, told)


def _register(client: MacpClient, policy: dict[str, Any]) -> None:
    descriptor = policy_pb2.PolicyDescriptor(
        policy_id=policy["policy_id"],
        mode=policy["mode"],
        description=policy.get("description", ""),
        rules=json.dumps(policy["rules"], separators=(",", ":")),
        schema_version=policy["schema_version"],
    )
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
