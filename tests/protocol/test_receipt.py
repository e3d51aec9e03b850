"""Decision receipts: built, signed, checked; against another implementation and the real server."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import macp_sdk
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from macp.v1.core_pb2 import CommitmentPayload

from macp_rx import AuthConfig, DecisionSession, MacpClient, MacpRefusedError, MacpSessionError
from macp_rx.protocol import canonical, jcs
from macp_rx.protocol.messages import DECISION, STANDARD_MODES
from macp_rx.protocol.receipt import (
    Attestation,
    ReceiptSigner,
    SemanticsRev,
    Verdict,
    Verification,
    build_receipt,
    public_jwks,
    trusted_keys_from_jwks,
    verify_receipt,
)
from tests.conftest import Connect, RealServer, on_the_real_server, runtime_binary
from tests.protocol.test_commitment import commitments

SEED = bytes(range(32))
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
REV = SemanticsRev("macp-rx", 1)


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


X = base64url(KEY.public_key().public_bytes_raw())
JWK = {"kty": "OKP", "crv": "Ed25519", "d": base64url(SEED), "x": X}
SIGNER = ReceiptSigner.read(PEM, "k1")
TRUSTED = {"k1": X}
OTHER_X = base64url(Ed25519PrivateKey.from_private_bytes(SEED[::-1]).public_key().public_bytes_raw())


# the points whose order divides 8, in every spelling: x of either sign, y with or without 2^255 - 19 added
SMALL_POINTS = [
    y + sign
    for y, signs in {
        "01" + "00" * 30: ("00", "80"),
        "ec" + "ff" * 30: ("7f", "ff"),
        "00" * 31: ("00", "80"),
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc": ("05", "85"),
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03": ("7a", "fa"),
        "ed" + "ff" * 30: ("7f", "ff"),
        "ee" + "ff" * 30: ("7f", "ff"),
    }.items()
    for sign in signs
]


def build(wire: bytes = b"", signer: ReceiptSigner | None = None, **instead: Any) -> str:
    arguments = {"session_id": "s1", "mode": DECISION, "issuer": "runtime:r1", "issued_at": 1_000, "semantics_rev": REV}
    return build_receipt(wire, signer=signer, **{**arguments, **instead})


def pem(key: Ed25519PrivateKey | X25519PrivateKey, encryption: KeySerializationEncryption | None = None) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()).decode()


SIGNED = build(
    CommitmentPayload(commitment_id="c1", action="decision.approved", outcome_positive=True).SerializeToString(), SIGNER
)


class TestBuilding:
    def test_the_text_is_canonical_and_complete(self) -> None:
        commitment = CommitmentPayload(reason="é")
        text = build(commitment.SerializeToString(), issued_at=1_772_396_641_999)
        assert text == (
            '{"attestations":[],"commitment":{"action":"","authority_scope":"","commitment_id":"",'
            '"configuration_version":"","mode_version":"","outcome_positive":false,"policy_version":"","reason":"é"},'
            f'"commitment_hash":"{macp_sdk.commitment_hash(commitment)}",'
            '"commitment_wire_b64":"IgLDqQ==","issued_at":"2026-03-01T20:24:01Z","issuer":"runtime:r1",'
            '"mode":"macp.mode.decision.v1","receipt_format":"macp-receipt/1",'
            '"semantics_rev":{"implementation":"macp-rx","rev":1},"session_id":"s1"}'
        )

    def test_the_same_arguments_give_the_same_bytes(self) -> None:
        assert build(b"", SIGNER) == build(b"", ReceiptSigner.read(json.dumps({**JWK, "kid": "k1"})))

    def test_the_wire_is_kept_as_received(self) -> None:
        wire = b"\x22\x01b\x0a\x01a\x22\x01c"  # another order, one field twice
        assert json.loads(build(wire))["commitment_wire_b64"] == base64.b64encode(wire).decode()
        assert verify_receipt(build(wire), {}).integrity == "match"

    @pytest.mark.parametrize("wire", [b"\x52\x01x", b"\xff", b"\x08\x01"])
    def test_a_commitment_that_the_hash_does_not_cover_has_no_receipt(self, wire: bytes) -> None:
        with pytest.raises(MacpRefusedError, match="cannot be hashed") as refused:
            build(wire)
        assert refused.value.code == "RECEIPT_UNAVAILABLE"

    def test_a_mode_off_the_standards_track_has_no_receipt(self) -> None:
        with pytest.raises(MacpRefusedError, match="standard modes only") as refused:
            build(mode="ext.multi_round.v1")
        assert refused.value.code == "RECEIPT_UNAVAILABLE"

    @given(commitments, st.text(min_size=1), st.sampled_from(STANDARD_MODES), st.integers(0, 2**40), st.integers(0, 9))
    def test_receipts_are_the_other_implementations(
        self, commitment: CommitmentPayload, name: str, mode: str, issued_at: int, rev: int
    ) -> None:
        wire = commitment.SerializeToString()
        for signer, theirs in ((None, None), (SIGNER, macp_sdk.ReceiptSigner("k1", private_key=SEED))):
            receipt = build_receipt(
                wire,
                session_id=name,
                mode=mode,
                issuer=name,
                issued_at=issued_at,
                semantics_rev=SemanticsRev(name, rev),
                signer=signer,
            )
            assert json.loads(receipt) == macp_sdk.build_receipt(
                commitment,
                session_id=name,
                mode=mode,
                issuer=name,
                issued_at=canonical.rfc3339(issued_at // 1000 * 1000),
                semantics_rev={"implementation": name, "rev": rev},
                commitment_wire=wire,
                signer=theirs,
            )


class TestVerifying:
    def test_a_signed_receipt_is_attested_to_those_who_trust_its_key(self) -> None:
        found = verify_receipt(SIGNED, TRUSTED)
        assert (found.verdict, found.integrity, found.attestations) == ("attested", "match", ("valid",))
        found = verify_receipt(SIGNED, {})
        assert (found.verdict, found.integrity, found.attestations) == ("integrity_only", "match", ("unknown_key",))
        assert verify_receipt(SIGNED, {"k1": OTHER_X}).attestations == (Attestation.INVALID,)

    @given(st.data())
    def test_no_receipt_with_a_letter_changed_is_attested(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(SIGNED)))
        text = SIGNED[:at] + data.draw(st.text(max_size=2)) + SIGNED[at + data.draw(st.integers(0, 2)) :]
        assert verify_receipt(text, TRUSTED).verdict is not Verdict.ATTESTED or says_the_same(text)

    @given(st.data())
    def test_no_receipt_with_a_member_changed_is_attested_by_anyone(self, data: st.DataObject) -> None:
        receipt = json.loads(SIGNED)
        *way, name = data.draw(st.sampled_from(list(ways(receipt))))
        place = receipt
        for step in way:
            place = place[step]
        if data.draw(st.booleans()):
            del place[name]
        else:
            others = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
            place[name] = data.draw(others.filter(lambda other: other != place[name]))
        found = verify_receipt(receipt, TRUSTED)
        assert found.verdict is not Verdict.ATTESTED
        assert as_json(found) == macp_sdk.verify_receipt(receipt, TRUSTED)

    @given(commitments, commitments, st.sampled_from(["k1", "k2", ""]), st.booleans())
    def test_receipts_of_the_other_implementation_are_judged_as_it_does(
        self, commitment: CommitmentPayload, other: CommitmentPayload, kid: str, exchanged: bool
    ) -> None:
        receipt = macp_sdk.build_receipt(
            commitment,
            session_id="s1",
            mode=DECISION,
            issuer="runtime:r1",
            issued_at="2026-03-01T20:24:01Z",
            signer=macp_sdk.ReceiptSigner(kid, private_key=SEED) if kid else None,
            transcript={"digest_alg": "sha-256", "digest": "aa", "message_count": 3},
            commitment_wire=commitment.SerializeToString(),
        )
        if exchanged:
            receipt["commitment_wire_b64"] = base64.b64encode(other.SerializeToString()).decode()
        found = verify_receipt(receipt, TRUSTED)  # type: ignore[arg-type]
        assert as_json(found) == macp_sdk.verify_receipt(receipt, TRUSTED)
        if not exchanged:
            assert found.verdict is (Verdict.ATTESTED if kid == "k1" else Verdict.INTEGRITY_ONLY)

    def test_a_receipt_means_the_same_however_its_json_is_written(self) -> None:
        assert verify_receipt(json.dumps(json.loads(SIGNED), indent=2), TRUSTED).verdict is Verdict.ATTESTED

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"rev":1', '"rev":1.0'),
            ('"issuer":', '"issuer":"runtime:r0","issuer":'),
            ('"session_id":"s1"', '"session_id":"s1","later":null'),
        ],
    )
    def test_what_other_readers_could_take_for_the_same_is_not_attested(self, old: str, new: str) -> None:
        assert SIGNED.count(old) == 1
        assert verify_receipt(SIGNED.replace(old, new), TRUSTED).verdict is not Verdict.ATTESTED

    @pytest.mark.parametrize("text", ["", "null", "[]", '"macp-receipt/1"', "{}", "[" * 10_000])
    def test_what_is_no_receipt_is_refused(self, text: str) -> None:
        assert verify_receipt(text, TRUSTED).verdict is Verdict.REFUSED

    @pytest.mark.parametrize("attestations", [None, {}, "jws", 1])
    def test_attestations_that_are_no_list_are_none(self, attestations: object) -> None:
        found = verify_receipt({**json.loads(SIGNED), "attestations": attestations}, TRUSTED)
        assert (found.verdict, found.attestations) == (Verdict.INTEGRITY_ONLY, ())

    @pytest.mark.parametrize(
        ("header", "found"),
        [
            (b'{"alg":"EdDSA","kid":"k1"}', "valid"),
            (b'{"kid":"k1","typ":"x","alg":"EdDSA"}', "valid"),
            (b'{"alg":"EdDSA","kid":"k2"}', "unknown_key"),
            (b'{"alg":"EdDSA","kid":1}', "unknown_key"),
            (b'{"alg":"EdDSA"}', "unknown_key"),
            (b'{"alg":"none","kid":"k1"}', "unsupported"),
            (b'{"kid":"k1"}', "unsupported"),
            (b"[]", "unsupported"),
            (b'{"alg":"none","alg":"EdDSA","kid":"k1"}', "invalid"),
            (b'{"alg":"EdDSA","kid":"k1"', "invalid"),
            (b'{"alg":"EdDSA","kid":"k1\xff"}', "invalid"),
        ],
    )
    def test_the_header_is_read_as_json(self, header: bytes, found: str) -> None:
        assert verify_receipt(with_jws(header), TRUSTED).attestations == (found,)

    @pytest.mark.parametrize(
        "broken",
        [
            lambda head, signature: f"{head}.{signature}",
            lambda head, signature: f"{head}.e30.{signature}",
            lambda head, signature: f"{head}..{signature}.",
            lambda head, signature: f"{head}..",
            lambda head, signature: f"..{signature}",
            lambda head, signature: f"{head}..{signature}==",
            lambda head, signature: f"{head}..{signature}\n",
            lambda head, signature: f"{head}..{signature[:-1]}",
            lambda head, signature: f"{head}..{signature[:-2]}",
            lambda head, signature: f"{head}..{base64url(base64.urlsafe_b64decode(signature + '==') + bytes(1))}",
            lambda head, signature: f"{head}..{signature[:-1]}{chr(ord(signature[-1]) + 1)}",  # stray bits at its end
        ],
    )
    def test_a_jws_that_is_not_well_formed_is_invalid(self, broken: Any) -> None:
        receipt = json.loads(SIGNED)
        head, _, signature = receipt["attestations"][0]["jws"].split(".")
        receipt["attestations"][0]["jws"] = broken(head, signature)
        assert verify_receipt(receipt, TRUSTED).attestations == (Attestation.INVALID,)

    @pytest.mark.parametrize("wire", [None, 1, "", "A", "AA", "AA=", "AB==", "AA==\n", "_w=="])
    def test_a_wire_that_is_no_base64_cannot_be_verified(self, wire: object) -> None:
        found = verify_receipt({**json.loads(SIGNED), "commitment_wire_b64": wire}, TRUSTED)
        # no text at all is a wire, too: of the commitment that says nothing
        assert (found.verdict, found.integrity) == ("unverified", "mismatch" if wire == "" else "cannot_verify")

    @pytest.mark.parametrize("x", ["", "AA", X + "=", X[:-1], "é", "1" * 43])
    def test_under_a_key_that_is_none_nothing_is_valid(self, x: str) -> None:
        assert verify_receipt(SIGNED, {"k1": x}).attestations == (Attestation.INVALID,)

    @pytest.mark.parametrize("point", SMALL_POINTS)
    def test_under_a_key_of_small_order_nothing_is_valid(self, point: str) -> None:
        """Under such a key one signature fits any message, or every eighth. OpenSSL takes it; a strict verifier does not."""
        public = bytes.fromhex(point)
        signature = bytes([0x58, *[0x66] * 31, 1, *[0] * 31])  # the base point, and the number 1
        for number in range(200):
            receipt = with_jws(f'{{"alg":"EdDSA","kid":"k1","number":{number}}}'.encode(), lambda _data: signature)
            if macp_sdk.verify_receipt(receipt, {"k1": base64url(public)})["verdict"] == "attested":
                break
        else:
            pytest.fail("OpenSSL did not take it, so this test shows nothing")
        assert verify_receipt(receipt, {"k1": base64url(public)}).attestations == (Attestation.INVALID,)

    def test_a_signature_with_a_small_point_is_not_valid(self) -> None:
        """Whoever has the key can make one; OpenSSL takes it."""
        neutral, order = bytes([1]) + bytes(31), 2**252 + 27742317777372353535851937790883648493
        secret = int.from_bytes(hashlib.sha512(SEED).digest()[:32], "little") & (2**254 - 8) | 2**254

        def sign(data: bytes) -> bytes:
            challenge = hashlib.sha512(neutral + base64.urlsafe_b64decode(X + "=") + data).digest()
            return neutral + (int.from_bytes(challenge, "little") * secret % order).to_bytes(32, "little")

        receipt = with_jws(b'{"alg":"EdDSA","kid":"k1"}', sign)
        assert macp_sdk.verify_receipt(receipt, TRUSTED)["verdict"] == "attested"
        assert verify_receipt(receipt, TRUSTED).attestations == (Attestation.INVALID,)


def as_json(found: Verification) -> dict[str, object]:
    return {
        "integrity": found.integrity and str(found.integrity),
        "attestations": [str(attestation) for attestation in found.attestations],
        "verdict": str(found.verdict),
    }


def ways(value: Any) -> Iterator[tuple[str | int, ...]]:
    """The ways to everything in a JSON value, the list of attestations aside: another beside the valid one harms nothing."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield (step,)
        for rest in ways(inner):
            yield (step, *rest)


def says_the_same(text: str) -> bool:
    """Whether only what is not signed has changed: blanks, escapes, or what stands beside the attestation."""
    one, other = json.loads(SIGNED), json.loads(text)
    attestations = one.pop("attestations"), other.pop("attestations")
    kept = attestations[0][0]["jws"] in [entry["jws"] for entry in attestations[1] if isinstance(entry, dict)]
    return kept and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def with_jws(header: bytes, sign: Callable[[bytes], bytes] = KEY.sign) -> dict[str, Any]:
    """The receipt, signed under another header."""
    receipt: dict[str, Any] = json.loads(SIGNED)
    del receipt["attestations"]
    data = f"{base64url(header)}.{base64url(jcs.encode(receipt).encode())}"
    receipt["attestations"] = [{"type": "jws", "jws": f"{base64url(header)}..{base64url(sign(data.encode()))}"}]
    return receipt


class TestKeys:
    def test_a_pem_needs_a_kid_and_a_jwk_brings_its_own(self) -> None:
        assert ReceiptSigner.read(f"\n{PEM}\n", "k1").public_jwk == SIGNER.public_jwk
        assert ReceiptSigner.read(json.dumps({**JWK, "kid": "own"})).kid == "own"
        assert ReceiptSigner.read(json.dumps({**JWK, "kid": "own"}), "own").kid == "own"
        assert ReceiptSigner.read(json.dumps(JWK), "k1").kid == "k1"
        assert (
            ReceiptSigner.read(json.dumps({"kty": "OKP", "crv": "Ed25519", "d": JWK["d"]}), "k1").public_jwk["x"] == X
        )

    @pytest.mark.parametrize(
        ("text", "kid", "why"),
        [
            (PEM, "", "has no kid"),
            (json.dumps(JWK), "", "has no kid"),
            (json.dumps({**JWK, "kid": "own"}), "k1", "own kid is 'own', not 'k1'"),
            (json.dumps({**JWK, "x": OTHER_X}), "k1", '"x" .* does not belong to its "d"'),
            (json.dumps({**JWK, "d": "AAAA"}), "k1", 'no "d" of 32 bytes'),
            (json.dumps({**JWK, "d": JWK["d"] + "="}), "k1", 'no "d" of 32 bytes'),
            (json.dumps({"kty": "OKP", "crv": "Ed25519", "x": X}), "k1", 'no "d" of 32 bytes'),
            (json.dumps({**JWK, "crv": "X25519"}), "k1", "no Ed25519 key"),
            ("{", "k1", "no JSON"),
            ("hello", "k1", "neither a PKCS#8 PEM nor a JWK"),
            ("", "k1", "neither a PKCS#8 PEM nor a JWK"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "k1", "no PKCS#8 PEM"),
            (pem(KEY, BestAvailableEncryption(b"x")), "k1", "encrypted"),
            (pem(X25519PrivateKey.generate()), "k1", "no Ed25519 key but a X25519PrivateKey"),
        ],
    )
    def test_a_key_that_cannot_sign_says_why_and_does_not_show_itself(self, text: str, kid: str, why: str) -> None:
        with pytest.raises(MacpSessionError, match=why) as refused:
            ReceiptSigner.read(text, kid)
        assert str(JWK["d"])[:8] not in str(refused.value)

    def test_a_signer_does_not_show_its_key(self) -> None:
        assert repr(SIGNER) == "ReceiptSigner(kid='k1')"

    def test_the_active_key_comes_first_then_the_retired_ones(self) -> None:
        assert public_jwks() == '{"keys":[]}'
        assert public_jwks(SIGNER) == (
            f'{{"keys":[{{"alg":"EdDSA","crv":"Ed25519","kid":"k1","kty":"OKP","use":"sig","x":"{X}"}}]}}'
        )
        retired = {"kty": "OKP", "crv": "Ed25519", "x": OTHER_X, "kid": "k0", "note": {"since": 2025}}
        published = json.loads(public_jwks(SIGNER, json.dumps({"keys": [retired]})))
        assert published["keys"] == [SIGNER.public_jwk, retired]
        assert trusted_keys_from_jwks(published) == {"k1": X, "k0": OTHER_X}
        assert trusted_keys_from_jwks(public_jwks(SIGNER)) == TRUSTED
        assert json.loads(public_jwks(None, {"keys": [retired]})) == {"keys": [retired]}

    def test_a_kid_that_names_two_keys_names_none(self) -> None:
        jwk = SIGNER.public_jwk
        assert trusted_keys_from_jwks({"keys": [jwk, {**jwk, "kid": "k2"}, {**jwk, "x": OTHER_X}]}) == {"k2": X}

    def test_the_active_key_among_the_retired_is_left_out(self) -> None:
        assert public_jwks(SIGNER, {"keys": [SIGNER.public_jwk]}) == public_jwks(SIGNER)

    @pytest.mark.parametrize(
        ("keys", "why"),
        [
            ([{"d": JWK["d"]}], "'k0' tells its private half in 'd'"),
            ([{"k": "AA"}], "private half in 'k'"),
            ([{}, {}], "kid 'k0' names more than one key"),
            ([{"kid": "k1"}], "kid 'k1' names more than one key"),
            ([{"kid": None}], "has no kid"),
            ([{"kid": ""}], "has no kid"),
            ([{"x": "AA"}], "no Ed25519 key"),
            ([{"x": None}], "no Ed25519 key"),
            ([{"kty": "RSA"}], "no Ed25519 key"),
        ],
    )
    def test_a_key_set_that_must_not_be_published_is_refused(self, keys: list[dict[str, object]], why: str) -> None:
        retired = {"kty": "OKP", "crv": "Ed25519", "x": OTHER_X, "kid": "k0"}
        with pytest.raises(MacpSessionError, match=why):
            public_jwks(SIGNER, {"keys": [{**retired, **key} for key in keys]})

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys":{}}', '{"keys":[],"keys":[]}'])
    def test_what_is_no_key_set_says_so(self, text: str) -> None:
        for read in (trusted_keys_from_jwks, lambda jwks: public_jwks(SIGNER, jwks)):
            with pytest.raises(MacpSessionError, match="no JSON"):
                read(text or " ")

    @given(
        st.lists(
            st.fixed_dictionaries(
                {
                    "kty": st.sampled_from(["OKP", "OKP", "EC"]),
                    "crv": st.sampled_from(["Ed25519", "Ed25519", "X25519"]),
                },
                optional={
                    "kid": st.sampled_from(["a", "b", "c", "", 1]),
                    "x": st.sampled_from([X, OTHER_X, "", 1]),
                    "alg": st.sampled_from(["EdDSA", "RS256"]),
                    "use": st.sampled_from(["sig", "enc"]),
                    "d": st.just("AA"),
                },
            )
            | st.none(),
            max_size=4,
        )
    )
    def test_the_same_keys_are_trusted_as_by_the_other_implementation(self, keys: list[object]) -> None:
        assert trusted_keys_from_jwks({"keys": keys}) == macp_sdk.trusted_keys_from_jwks({"keys": keys})


def test_only_signatures_need_the_extra() -> None:
    code = f"""
import sys
sys.modules["cryptography"] = None
from macp_rx.protocol.receipt import *
signed = {SIGNED!r}
built = build_receipt(b"", session_id="s", mode="macp.mode.task.v1", issuer="i", issued_at=0, semantics_rev=SemanticsRev("x", 1))
print(verify_receipt(built, {{}}).verdict, verify_receipt(signed, {{}}).verdict, public_jwks())
for work in (lambda: verify_receipt(signed, {TRUSTED!r}), lambda: ReceiptSigner.read({PEM!r}, "k1"),
             lambda: ReceiptSigner.read({json.dumps(JWK)!r}, "k1")):
    try:
        work()
    except ImportError as error:
        print(error)
"""
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert printed[0] == 'integrity_only integrity_only {"keys":[]}'
    assert printed[1:] == ["signatures of receipts need the package cryptography: pip install 'macp-rx[receipts]'"] * 3


def test_importing_the_package_does_not_import_cryptography() -> None:
    code = "import sys, macp_rx, macp_rx.protocol.receipt; print('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


class TestTheRealServer:
    """Its receipts are ours, byte for byte."""

    @staticmethod
    def resolved(client: MacpClient, reason: str = "because") -> str:
        session = DecisionSession(client)
        session.start(intent="receipt", participants=["alice", "bob"], ttl_ms=60_000)
        session.acting_as("alice").propose("p1", 'é "\u2028\U0001f702')
        session.commit(action="decision.selected", authority_scope="test", reason=reason)
        return session.session_id

    @staticmethod
    def rebuilt(
        client: MacpClient, session_id: str, receipt: dict[str, Any], signer: ReceiptSigner | None = None
    ) -> str:
        commitment = list(client.history(session_id))[-1].envelope
        return build_receipt(
            commitment.payload,
            session_id=session_id,
            mode=commitment.mode,
            issuer=receipt["issuer"],
            issued_at=canonical.unix_ms(receipt["issued_at"]),
            semantics_rev=SemanticsRev(**receipt["semantics_rev"]),
            signer=signer,
        )

    @on_the_real_server
    @pytest.mark.parametrize("reason", ["because", 'é\t"\\\x7f\x01\u2028\U0001f702'])
    def test_an_unsigned_receipt(self, connect: Connect, reason: str) -> None:
        client = connect("chair")
        session_id = self.resolved(client, reason)
        told = client.get_decision_receipt(session_id).receipt_json
        assert as_json(verify_receipt(told, {})) == {
            "integrity": "match",
            "attestations": [],
            "verdict": "integrity_only",
        }
        assert self.rebuilt(client, session_id, json.loads(told)) == told

    @pytest.mark.server
    @pytest.mark.parametrize("key", [PEM, json.dumps({**JWK, "kid": "k1"})], ids=["pem", "jwk"])
    def test_a_signed_receipt(self, key: str, tmp_path: Path) -> None:
        retired = json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": OTHER_X, "kid": "k0", "note": 1.5}]})
        (tmp_path / "retired.json").write_text(retired)
        server = RealServer(
            str(runtime_binary()),
            MACP_RUNTIME_ID="r1",
            MACP_RECEIPT_SIGNING_KEY=key,
            MACP_RECEIPT_SIGNING_KID="k1",
            MACP_RECEIPT_PUBLIC_KEYS_PATH=str(tmp_path / "retired.json"),
        )
        try:
            with MacpClient(target=server.target, secure=False, auth=AuthConfig.for_dev_agent("chair")) as client:
                session_id = self.resolved(client)
                told = client.get_decision_receipt(session_id).receipt_json
                jwks = client.get_receipt_keys().jwks_json
                assert jwks == public_jwks(SIGNER, retired)
                assert verify_receipt(told, trusted_keys_from_jwks(jwks)).verdict is Verdict.ATTESTED
                assert verify_receipt(told, {"k1": OTHER_X}).verdict is Verdict.INTEGRITY_ONLY
                assert self.rebuilt(client, session_id, json.loads(told), SIGNER) == told
        finally:
            server.close()
