"""receipt, receipt-keys, verify: is a decision genuine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from macp_rx import MacpClient, Runtime
from macp_rx.protocol.receipt import ReceiptSigner
from macp_rx.runtime import Settings
from macp_rx.transcript import record
from tests.cli.commands import lines, ran, refused, run
from tests.cli.test_record import talk
from tests.conftest import dial

SEED = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA"
KEY = json.dumps({"kty": "OKP", "crv": "Ed25519", "kid": "k1", "d": SEED})


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a receipt that is signed, the keys, and the transcript."""
    folder = tmp_path_factory.mktemp("signed")
    settings = Settings(signer=ReceiptSigner.read(KEY))
    with Runtime(settings=settings) as runtime, runtime.serve() as port, dial(port.target, "chair") as client:
        session_id = talk(client)
        (folder / "receipt.json").write_text(ran("receipt", session_id, "--target", port.target, "--agent", "chair"))
        (folder / "keys.json").write_text(ran("receipt-keys", "--target", port.target))
        record(client, session_id, folder / "transcript.jsonl").end.run()
    return folder


def test_a_receipt_that_is_signed_by_who_is_trusted(signed: Path) -> None:
    shown = ran("verify", signed / "receipt.json", "--keys", signed / "keys.json")
    assert shown.startswith("ATTESTED genuine")
    assert "attestations     valid" in shown
    (found,) = lines("verify", signed / "receipt.json", "--keys", signed / "keys.json", "--json")
    assert (found["verdict"], found["good"], found["action"]) == ("attested", True, "x.approved")


def test_without_keys_it_need_only_be_whole(signed: Path) -> None:
    assert ran("verify", signed / "receipt.json").startswith("INTEGRITY ONLY")


def test_one_that_was_changed_is_not_genuine(signed: Path, tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    file.write_text((signed / "receipt.json").read_text().replace("x.approved", "y.approved"))
    shown = run("verify", str(file), "--keys", str(signed / "keys.json"))
    assert (shown.returncode, shown.stdout) == (
        1,
        "UNVERIFIED not genuine: the commitment and its hash do not agree, or cannot be compared\n",
    )


def test_one_that_nobody_has_signed_who_is_trusted(signed: Path, tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text('{"keys": []}')
    shown = run("verify", str(signed / "receipt.json"), "--keys", str(tmp_path / "none.json"))
    assert shown.returncode == 1
    assert "attestations     unknown_key" in shown.stdout


@pytest.mark.parametrize("content", [b"nonsense", b"{}", b"\xff\xfe"])
def test_no_receipt(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    shown = run("verify", str(file))
    assert (shown.returncode, shown.stdout) == (1, "REFUSED no decision receipt\n")


def test_the_hash_of_a_commitment_in_a_transcript_and_as_json(signed: Path, tmp_path: Path) -> None:
    receipt = json.loads((signed / "receipt.json").read_text())
    claimed = receipt["commitment_hash"]
    commitment = tmp_path / "commitment.json"
    commitment.write_text(json.dumps(receipt["commitment"]))
    for file in (signed / "transcript.jsonl", commitment):
        assert ran("verify", file, "--hash", claimed).startswith("MATCH it has this hash")
        shown = run("verify", str(file), "--hash", "sha256:" + "0" * 64)
        assert shown.returncode == 1
        assert shown.stdout.startswith("MISMATCH")
        assert claimed in shown.stdout


def test_on_the_real_server_and_ours(target: str, chair: MacpClient, tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    file.write_text(ran("receipt", talk(chair), "--target", target, "--agent", "chair"))
    assert ran("verify", file).startswith("INTEGRITY ONLY")
    assert '"keys"' in ran("receipt-keys", "--target", target)


def test_bad_input_is_told(signed: Path, tmp_path: Path, target: str, session: str) -> None:
    assert "RECEIPT_UNAVAILABLE" in refused(3, "receipt", session, "--target", target, "--agent", "chair")
    assert "is no commitment hash" in refused(2, "verify", signed / "transcript.jsonl", "--hash", "sha256:1")
    assert "does not exist" in refused(2, "verify", tmp_path / "none.json")
    (tmp_path / "keys.json").write_text("[]")
    assert f"{tmp_path / 'keys.json'}: " in refused(
        2, "verify", signed / "receipt.json", "--keys", tmp_path / "keys.json"
    )
    (tmp_path / "empty.jsonl").write_text("")
    some_hash = "sha256:" + "0" * 64
    assert "holds no commitment" in refused(2, "verify", tmp_path / "empty.jsonl", "--hash", some_hash)
    (tmp_path / "bad.jsonl").write_text("nonsense\n")
    assert "bad.jsonl, line 1" in refused(1, "verify", tmp_path / "bad.jsonl", "--hash", some_hash)
