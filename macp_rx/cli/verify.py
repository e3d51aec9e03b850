"""macp-rx receipt, receipt-keys, verify: what a decision was, and whether that is genuine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, cast

import typer
from rich.text import Text

from macp_rx.cli.connection import connected
from macp_rx.cli.ending import End
from macp_rx.cli.terminal import console, plain, print_json, show
from macp_rx.client import MacpClient
from macp_rx.errors import MacpSessionError

__all__ = ["receipt", "receipt_keys", "verify"]

SAYS: Final = {
    "attested": ("genuine: it is whole, and a trusted key has signed it", "green"),
    "integrity_only": ("whole, but nobody who is trusted has signed it", "yellow"),
    "unverified": ("not genuine: the commitment and its hash do not agree, or cannot be compared", "red"),
    "refused": ("no decision receipt", "red"),
    "match": ("it has this hash", "green"),
    "mismatch": ("it has another hash", "red"),
    "cannot_verify": ("the hash does not cover this commitment, so nothing can be said", "red"),
}


@connected()
def receipt(
    client: MacpClient, session: Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")]
) -> None:
    """Prints the decision receipt of a resolved session.

    Example: macp-rx receipt 2f1c7f4e-9b0d-4c53-8f0e-1d2c3b4a5968 --agent chair > receipt.json
    """
    _print(client.get_decision_receipt(session).receipt_json)


@connected()
def receipt_keys(client: MacpClient) -> None:
    """Prints the keys that a runtime signs receipts with, as a JSON Web Key Set.

    To trust them is to trust that runtime: keep them from a time when you did.

    Example: macp-rx receipt-keys --target 127.0.0.1:50051 > keys.json
    """
    _print(client.get_receipt_keys().jwks_json)


def verify(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A decision receipt; or, with --hash, a transcript or a commitment as JSON.",
            exists=True,
            dir_okay=False,
        ),
    ],
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSON Web Key Set of those whose signature counts.", exists=True, dir_okay=False
        ),
    ] = None,
    claimed: Annotated[
        str, typer.Option("--hash", metavar="HASH", help="The hash that the commitment should have: sha256:…")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Checks a decision receipt with a key set, or the hash of a commitment. It asks nobody.

    Its exit status is 0 if the receipt is genuine, and without --keys if it is whole; or if the commitment has the hash.

    Example: macp-rx verify receipt.json --keys keys.json
    """
    text = file.read_text(errors="strict") if _is_text(file) else ""
    if claimed:
        found, good, more = _commitment(file, text, claimed)
    else:
        found, good, more = _receipt(text, keys)
    if as_json:
        print_json({"verdict": found, "good": good, **more})
    else:
        says, style = SAYS[found]
        out = console()
        show(out, Text.assemble((found.replace("_", " ").upper(), f"bold {style}"), f" {says}"))
        for name, value in more.items():
            show(out, Text.assemble((f"{name:<16} ", "dim"), plain(value)))
    raise typer.Exit(End.OK if good else End.FAILED)


def _is_text(file: Path) -> bool:
    try:
        file.read_text()
    except UnicodeDecodeError:
        return False
    return True


def _receipt(text: str, keys: Path | None) -> tuple[str, bool, dict[str, str]]:
    from macp_rx.protocol.receipt import Verdict, trusted_keys_from_jwks, verify_receipt

    try:
        trusted = trusted_keys_from_jwks(keys.read_text()) if keys else {}
    except (MacpSessionError, UnicodeDecodeError) as error:
        raise MacpSessionError(f"{keys}: {error}") from None
    found = verify_receipt(text, trusted)
    more: dict[str, str] = {}
    if found.verdict in (Verdict.ATTESTED, Verdict.INTEGRITY_ONLY):
        from macp_rx.protocol import jcs

        members = cast("dict[str, object]", jcs.decode(text))
        commitment = cast("dict[str, object]", members["commitment"])
        more = {
            name: str(members.get(name)) for name in ("session_id", "mode", "issuer", "issued_at", "commitment_hash")
        }
        more |= {
            "action": str(commitment["action"]),
            "outcome": "positive" if commitment["outcome_positive"] else "negative",
        }
        more["attestations"] = ", ".join(found.attestations) or "none"
    good = found.verdict is Verdict.ATTESTED or (keys is None and found.verdict is Verdict.INTEGRITY_ONLY)
    return str(found.verdict), good, more


def _commitment(file: Path, text: str, claimed: str) -> tuple[str, bool, dict[str, str]]:
    from macp_rx.protocol.commitment import Integrity, hash_of, project_wire, verify_commitment_hash
    from macp_rx.protocol.validation import validate_commitment_hash

    validate_commitment_hash(claimed)
    wires = _commitments(file, text)
    found = {verify_commitment_hash(wire, claimed) for wire in wires}
    for verdict in (
        Integrity.MATCH,
        Integrity.CANNOT_VERIFY,
        Integrity.MISMATCH,
    ):  # one of several that has it is enough
        if verdict in found:
            break
    if verdict is Integrity.CANNOT_VERIFY:
        return str(verdict), False, {}
    hashes = ", ".join(hash_of(project_wire(wire)) for wire in wires)
    return str(verdict), verdict is Integrity.MATCH, {"commitment_hash": hashes}


def _commitments(file: Path, text: str) -> list[bytes]:
    """The commitments in a file, as they go over the wire."""
    from macp.v1.core_pb2 import CommitmentPayload

    from macp_rx import transcript
    from macp_rx.protocol import canonical, jcs
    from macp_rx.protocol.messages import Accepted
    from macp_rx.timeline import Failed, Next

    try:
        members = jcs.decode(text)
    except MacpSessionError:  # several lines: a transcript
        members = None
    if isinstance(members, dict) and "action" in members:
        return [canonical.from_json(cast("object", members), CommitmentPayload).SerializeToString()]
    wires: list[bytes] = []
    for event in transcript.timeline(file).events:
        match event.what:
            case Failed(error):
                raise error
            case Next(Accepted(message_type="Commitment") as accepted):
                wires.append(accepted.envelope.payload)
            case _:
                pass
    if not wires:
        raise MacpSessionError(f"{file} holds no commitment")
    return wires


def _print(text: str) -> None:
    console().print(text, markup=False, soft_wrap=True)
