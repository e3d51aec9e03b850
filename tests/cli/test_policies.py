"""policies: list, get, register, unregister, what-if."""

from __future__ import annotations

import json
from pathlib import Path

from macp_rx import MacpClient
from macp_rx.session import DecisionSession
from tests.cli.commands import lines, ran, refused

POLICY = {
    "policy_id": "policy.cli-unanimous",
    "mode": "macp.mode.decision.v1",
    "description": "everybody",
    "rules": {"voting": {"algorithm": "unanimous"}},
    "schema_version": 3,
}


def test_a_policy_from_a_file_and_back(target: str, tmp_path: Path) -> None:
    chair = ("--target", target, "--agent", "chair")
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(POLICY))
    assert ran("policies", "register", file, *chair) == "policy.cli-unanimous\n"
    assert "policy.cli-unanimous" in ran("policies", "list", "--mode", "decision", *chair)
    assert "policy.cli-unanimous" not in ran("policies", "list", "--mode", "task", *chair)
    got = ran("policies", "get", "policy.cli-unanimous", *chair)
    assert ran("policies", "unregister", "policy.cli-unanimous", *chair) == "policy.cli-unanimous\n"
    file.write_text(got)
    ran("policies", "register", file, *chair)
    again = json.loads(ran("policies", "get", "policy.cli-unanimous", *chair))
    assert again["rules"]["voting"]["algorithm"] == "unanimous"
    ran("policies", "unregister", "policy.cli-unanimous", *chair)
    assert {each["policy_id"] for each in lines("policies", "list", "--json", *chair)} >= {"policy.default"}


def test_what_if(target: str, chair: MacpClient, tmp_path: Path) -> None:
    session = DecisionSession(chair)
    session.start(intent="x", participants=["chair", "alice"], ttl_ms=60_000)
    session.propose("p1", "x")
    session.vote("p1", "APPROVE")
    session.commit(action="x.approved", authority_scope="x", reason="x")
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(POLICY))
    asked = ("policies", "what-if", session.session_id, file, "--target", target, "--agent", "chair")
    shown = ran(*asked)
    assert "refused, POLICY_DENIED" in shown
    assert "denied" in shown
    assert shown.splitlines()[-2:] == ["as it was RESOLVED by envelope 4", "what if   OPEN"]
    (reply,) = lines(*asked, "--json")
    assert reply["candidate_policy_id"] == "policy.cli-unanimous"


def test_bad_input_is_told(port: str, tmp_path: Path) -> None:
    chair = ("--target", port, "--agent", "chair")
    file = tmp_path / "policy.json"
    file.write_text("{}")
    assert f"{file}: it lacks policy_id, mode" in refused(2, "policies", "register", file, *chair)
    file.write_text("nonsense")
    assert f"{file}: " in refused(2, "policies", "register", file, *chair)
    file.write_bytes(b"\xff")
    assert f"{file}: " in refused(2, "policies", "register", file, *chair)
    file.write_text(json.dumps({**POLICY, "rules": {"odd": 1}}))
    assert "INVALID_POLICY_DEFINITION" in refused(3, "policies", "register", file, *chair)
    assert "does not exist" in refused(2, "policies", "register", tmp_path / "none.json", *chair)
    assert "UNKNOWN_POLICY_VERSION" in refused(3, "policies", "get", "policy.none", *chair)
    assert "macp-rx: " in refused(3, "policies", "unregister", "policy.default", *chair)
    assert "SESSION_NOT_FOUND" in refused(3, "policies", "what-if", "f" * 32, _fit(file), *chair)


def _fit(file: Path) -> Path:
    file.write_text(json.dumps(POLICY))
    return file
