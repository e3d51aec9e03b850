"""Decision receipts, ``macp-receipt/1``: a commitment, its hash, and who vouches for it (`protocol.md` 10.2, RFC-MACP-0013 A).

Building a receipt and checking its integrity need nothing but this package. Signatures, made or checked, need the extra:
``pip install 'macp-rx[receipts]'``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from macp_rx.errors import MacpRefusedError, MacpSessionError
from macp_rx.protocol import jcs
from macp_rx.protocol.canonical import rfc3339
from macp_rx.protocol.commitment import Integrity, hash_of, project_wire, read_projection
from macp_rx.protocol.encoding import base64, base64url, unbase64, unbase64url
from macp_rx.protocol.messages import STANDARD_MODES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "FORMAT",
    "Attestation",
    "ReceiptSigner",
    "SemanticsRev",
    "Verdict",
    "Verification",
    "build_receipt",
    "public_jwks",
    "trusted_keys_from_jwks",
    "verify_receipt",
]

FORMAT: Final = "macp-receipt/1"

_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})  # RFC 7518, 6

# Points whose order divides 8, by their y: under such a key one signature fits any message. `protocol.md` 10.2 asks for a strict
# check, which refuses them; that of OpenSSL does not.
_P: Final = 2**255 - 19
_Y8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER: Final = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})


@dataclass(frozen=True, slots=True)
class SemanticsRev:
    """Which rules the session was decided by.

    Attributes:
        implementation: name of the runtime, such as ``macp-runtime``.
        rev: number of the revision, which means something to that implementation only.
    """

    implementation: str
    rev: int


class Attestation(StrEnum):
    """What comes of checking one attestation."""

    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN_KEY = "unknown_key"
    UNSUPPORTED = "unsupported"


class Verdict(StrEnum):
    """What a receipt is worth."""

    ATTESTED = "attested"
    """It is whole, and someone who is trusted signed it."""
    INTEGRITY_ONLY = "integrity_only"
    """It is whole, but nobody who is trusted says so."""
    UNVERIFIED = "unverified"
    """The commitment and its hash do not agree, or cannot be compared."""
    REFUSED = "refused"
    """No ``macp-receipt/1``."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify_receipt` found.

    Attributes:
        verdict: what the receipt is worth.
        integrity: whether the commitment has the recorded hash; None if it was not looked at.
        attestations: one result for each attestation, in their order; none unless the integrity is a match.
    """

    verdict: Verdict
    integrity: Integrity | None = None
    attestations: tuple[Attestation, ...] = ()


def build_receipt(
    wire: bytes,
    *,
    session_id: str,
    mode: str,
    issuer: str,
    issued_at: int,
    semantics_rev: SemanticsRev,
    signer: ReceiptSigner | None = None,
) -> str:
    """The receipt of a session that was resolved, as canonical JSON. The same arguments give the same bytes, signed or not.

    Args:
        wire: payload of the resolving Commitment, as received.
        session_id: the session.
        mode: its mode.
        issuer: who issues it: ``runtime:<id>``.
        issued_at: Unix milliseconds; whole seconds are written.
        semantics_rev: the rules that the session was decided by.
        signer: signs it; without one it has no attestation.

    Raises:
        MacpRefusedError: RECEIPT_UNAVAILABLE, for a mode off the standards track, and for a commitment that the hash does not
            cover, such as one with a field of a newer protocol.
    """
    if mode not in STANDARD_MODES:
        raise MacpRefusedError(
            "RECEIPT_UNAVAILABLE", f"there are receipts for the standard modes only, not for {mode!r}"
        )
    try:
        projection = project_wire(wire)
    except MacpSessionError as error:
        raise MacpRefusedError("RECEIPT_UNAVAILABLE", f"the commitment cannot be hashed: {error}") from None
    body: dict[str, object] = {
        "receipt_format": FORMAT,
        "session_id": session_id,
        "mode": mode,
        "commitment": projection,
        "commitment_hash": hash_of(projection),
        "commitment_wire_b64": base64(wire),
        "semantics_rev": {"implementation": semantics_rev.implementation, "rev": semantics_rev.rev},
        "issuer": issuer,
        "issued_at": rfc3339(issued_at // 1000 * 1000),
    }
    return jcs.encode({**body, "attestations": [_attest(body, signer)] if signer else []})


def verify_receipt(receipt: str | Mapping[str, object], trusted_keys: Mapping[str, str]) -> Verification:
    """Checks a receipt. It never raises for what the receipt says: that has a verdict.

    Args:
        receipt: the receipt, as text or as what a JSON reader made of it. Prefer the text: in it a member that stands twice is
            seen, and refused.
        trusted_keys: kid -> public key, as the ``x`` of its JWK; see `trusted_keys_from_jwks`. With none, the integrity alone is
            checked.

    Raises:
        ImportError: a signature of a trusted key is to be checked, and the extra ``receipts`` is not installed.
    """
    try:
        members = _object(jcs.decode(receipt)) if isinstance(receipt, str) else receipt
    except MacpSessionError:
        return Verification(Verdict.REFUSED)
    if members.get("receipt_format") != FORMAT:
        return Verification(Verdict.REFUSED)
    integrity = _integrity(members)
    if integrity is not Integrity.MATCH:
        return Verification(Verdict.UNVERIFIED, integrity)
    body = {name: value for name, value in members.items() if name != "attestations"}
    attestations = tuple(_check(entry, body, trusted_keys) for entry in _list(members.get("attestations")))
    verdict = Verdict.ATTESTED if Attestation.VALID in attestations else Verdict.INTEGRITY_ONLY
    return Verification(verdict, integrity, attestations)


def trusted_keys_from_jwks(jwks: str | Mapping[str, object]) -> dict[str, str]:
    """The keys of a JSON Web Key Set that can check a receipt, as `verify_receipt` takes them.

    Keys of other kinds, uses and algorithms are passed over (RFC 7517, 5), and so is one that tells its private half, and
    every key of a kid that names more than one.

    Args:
        jwks: the key set, as GetReceiptKeys returns it or as what a JSON reader made of it. To trust what a runtime says of
            itself is to trust that runtime.

    Raises:
        MacpSessionError: no key set.
    """
    keys = _keys_of(jwks)
    kids = [key.get("kid") for key in keys]
    return {
        str(key["kid"]): str(key["x"])
        for key in keys
        if _is_ed25519(key) and key.get("alg", "EdDSA") == "EdDSA" and key.get("use", "sig") == "sig"
        if key.get("kid") and kids.count(key["kid"]) == 1 and not _PRIVATE_MEMBERS & key.keys()
    }


def public_jwks(signer: ReceiptSigner | None = None, retired: str | Mapping[str, object] | None = None) -> str:
    """The key set that a runtime publishes, as canonical JSON: the key that signs, then those that did.

    Args:
        signer: whose public key comes first.
        retired: key set of the keys that no longer sign; the signing key among them is left out.

    Raises:
        MacpSessionError: a retired key is no Ed25519 key with a kid, tells its private half, or shares its kid with another.
    """
    published: list[Mapping[str, object]] = [signer.public_jwk] if signer else []
    for key in _keys_of(retired) if retired else []:
        kid = key.get("kid")
        if not (isinstance(kid, str) and kid):
            raise MacpSessionError(f"a retired key has no kid: {sorted(key)}")
        if private := sorted(_PRIVATE_MEMBERS & key.keys()):
            raise MacpSessionError(
                f"the retired key {kid!r} tells its private half in {private[0]!r}; publish the public one"
            )
        if not _is_ed25519(key):
            raise MacpSessionError(f"the retired key {kid!r} is no Ed25519 key: kty OKP, crv Ed25519, x of 32 bytes")
        if signer and (kid, key["x"]) == (signer.kid, signer.public_jwk["x"]):
            continue
        if kid in [known["kid"] for known in published]:
            raise MacpSessionError(f"the kid {kid!r} names more than one key")
        published.append(key)
    return jcs.encode({"keys": published})


@dataclass(frozen=True, slots=True, eq=False)
class ReceiptSigner:
    """Signs receipts with an Ed25519 key; `read` makes one.

    Attributes:
        kid: name of the key, by which a verifier finds its public half.
        key: the private key.
    """

    kid: str
    key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def read(cls, text: str, kid: str = "") -> ReceiptSigner:
        """Reads a private key: a PKCS#8 PEM without a passphrase, or a JWK (kty OKP, crv Ed25519).

        Args:
            text: the key.
            kid: its name; a JWK brings its own.

        Raises:
            MacpSessionError: no such key, no kid, or another kid than the JWK's own. The text never shows the key.
            ImportError: the extra ``receipts`` is not installed.
        """
        text = text.strip()
        if text.startswith("-----BEGIN"):
            key = _from_pem(text)
        elif text.startswith("{"):
            jwk = cast("dict[str, object]", jcs.decode(text))
            key = _from_jwk(jwk)
            own = jwk.get("kid")
            if isinstance(own, str) and own:
                if kid and kid != own:
                    raise MacpSessionError(f"the JWK's own kid is {own!r}, not {kid!r}")
                kid = own
        else:
            raise MacpSessionError("the signing key is neither a PKCS#8 PEM nor a JWK")
        if not kid:
            raise MacpSessionError("the signing key has no kid")
        return cls(kid, key)

    @property
    def public_jwk(self) -> dict[str, object]:
        """The public half, as GetReceiptKeys tells it."""
        x = _public_x(self.key)
        return {"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": x, "alg": "EdDSA", "use": "sig"}

    def sign(self, data: bytes) -> bytes:
        """The signature, 64 bytes. Ed25519 is deterministic: the same data gives the same bytes."""
        return self.key.sign(data)


def _from_pem(text: str) -> Ed25519PrivateKey:
    _need_extra()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(text.encode(), password=None)
    except TypeError:
        raise MacpSessionError("the signing key is encrypted; give one without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise MacpSessionError("the signing key is no PKCS#8 PEM of a private key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise MacpSessionError(f"the signing key is no Ed25519 key but a {type(key).__name__}")
    return key


def _from_jwk(jwk: Mapping[str, object]) -> Ed25519PrivateKey:
    if (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
        raise MacpSessionError("the signing key's JWK is of no Ed25519 key: kty OKP, crv Ed25519")
    seed = _key_bytes(jwk.get("d"))
    if seed is None:
        raise MacpSessionError('the signing key\'s JWK has no "d" of 32 bytes in base64url')
    _need_extra()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed)
    if jwk.get("x", _public_x(key)) != _public_x(key):
        raise MacpSessionError('the "x" of the signing key\'s JWK does not belong to its "d"')
    return key


def _public_x(key: Ed25519PrivateKey) -> str:
    return base64url(key.public_key().public_bytes_raw())


def _need_extra() -> None:
    try:
        import_module("cryptography")
    except ImportError:
        raise ImportError(
            "signatures of receipts need the package cryptography: pip install 'macp-rx[receipts]'"
        ) from None


# A receipt's parts.


def _integrity(members: Mapping[str, object]) -> Integrity:
    try:
        projection = read_projection(members.get("commitment"))
        if hash_of(projection) != members.get("commitment_hash"):
            return Integrity.MISMATCH
        if "commitment_wire_b64" in members:
            wire = unbase64(members["commitment_wire_b64"], "commitment_wire_b64")
            if project_wire(wire) != projection:
                return Integrity.MISMATCH
    except MacpSessionError:
        return Integrity.CANNOT_VERIFY
    return Integrity.MATCH


def _attest(body: Mapping[str, object], signer: ReceiptSigner) -> dict[str, str]:
    """An attestation: a JWS (RFC 7515, F) whose payload, detached, is the receipt without its attestations."""
    header = base64url(jcs.encode({"alg": "EdDSA", "kid": signer.kid}).encode())
    return {"type": "jws", "jws": f"{header}..{base64url(signer.sign(_signing_input(header, body)))}"}


def _check(attestation: object, body: Mapping[str, object], trusted_keys: Mapping[str, str]) -> Attestation:
    members = _object(attestation)
    if members.get("type") != "jws":
        return Attestation.UNSUPPORTED
    parts = str(members.get("jws")).split(".")
    if len(parts) != 3 or parts[1]:
        return Attestation.INVALID
    try:
        protected, signature = unbase64url(parts[0]), unbase64url(parts[2])
        header = _object(jcs.decode(protected.decode()))
    except (MacpSessionError, UnicodeDecodeError):
        return Attestation.INVALID
    if header.get("alg") != "EdDSA":
        return Attestation.UNSUPPORTED
    kid = header.get("kid")
    if not isinstance(kid, str) or kid not in trusted_keys:
        return Attestation.UNKNOWN_KEY
    try:
        signed = _is_signed(_signing_input(parts[0], body), signature, unbase64url(trusted_keys[kid]))
    except MacpSessionError:  # the body has no canonical form, or the key is no base64url
        signed = False
    return Attestation.VALID if signed else Attestation.INVALID


def _signing_input(header: str, body: Mapping[str, object]) -> bytes:
    text = jcs.encode(body)
    if _has_float(body):  # 4.0 is 4 to RFC 8785; but a receipt has integers only, and 4.0 was never signed
        raise MacpSessionError("a receipt has no fractions")
    return f"{header}.{base64url(text.encode())}".encode()


def _is_signed(data: bytes, signature: bytes, public: bytes) -> bool:
    if len(public) != 32 or len(signature) != 64 or _is_small(public) or _is_small(signature[:32]):
        return False
    _need_extra()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _is_small(point: bytes) -> bool:
    return (int.from_bytes(point, "little") & 2**255 - 1) % _P in _SMALL_ORDER


def _has_float(value: object) -> bool:
    match value:
        case float():
            return True
        case dict():
            return any(map(_has_float, cast("dict[str, object]", value).values()))
        case list() | tuple():
            return any(map(_has_float, cast("list[object]", value)))
        case _:
            return False


# JSON.


def _keys_of(jwks: str | Mapping[str, object]) -> list[Mapping[str, object]]:
    keys = (_object(jcs.decode(jwks)) if isinstance(jwks, str) else jwks).get("keys")
    if not isinstance(keys, list):
        raise MacpSessionError('no JSON Web Key Set: it has no array "keys"')
    return [_object(key) for key in cast("list[object]", keys)]


def _is_ed25519(key: Mapping[str, object]) -> bool:
    return (key.get("kty"), key.get("crv")) == ("OKP", "Ed25519") and _key_bytes(key.get("x")) is not None


def _key_bytes(text: object) -> bytes | None:
    """The 32 bytes of a JWK's ``x`` or ``d``; None if it is not that."""
    try:
        raw = unbase64url(str(text))
    except MacpSessionError:
        return None
    return raw if len(raw) == 32 else None


def _object(value: object) -> Mapping[str, object]:
    """A JSON object; an empty one for any other value."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[object]:
    return cast("list[object]", value) if isinstance(value, list) else ()
