"""macp-rx serve: the embedded runtime on a real port."""

from __future__ import annotations

import os
import signal
import ssl
import threading
from pathlib import Path
from typing import Annotated, Final

import typer
from macp.v1 import policy_pb2
from rich.console import Console

from macp_rx.cli.connection import is_loopback
from macp_rx.cli.policy_file import read_policy
from macp_rx.errors import MacpRefusedError, MacpSessionError
from macp_rx.protocol.receipt import ReceiptSigner
from macp_rx.runtime import Runtime, Settings, Tls, dev_identity, static_tokens
from macp_rx.runtime.identity import Identify
from macp_rx.runtime.registries import with_policies
from macp_rx.runtime.service import host_of
from macp_rx.runtime.state import State

__all__ = ["serve"]

NETWORK: Final = "Network"
LIMITS: Final = "Limits"
STATE: Final = "State"
RECEIPTS: Final = "Receipts"

DEFAULT: Final = Settings()

INTERRUPTED: Final = 130
"""Exit status of a process that the second signal ended."""


def serve(
    bind: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Where to listen; port 0 takes a free one.",
            envvar="MACP_BIND_ADDR",
            rich_help_panel=NETWORK,
        ),
    ] = "127.0.0.1:50051",
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="PEM of the certificate.",
            envvar="MACP_TLS_CERT_PATH",
            dir_okay=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="PEM of its key.", envvar="MACP_TLS_KEY_PATH", dir_okay=False, rich_help_panel=NETWORK
        ),
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="PEM of the CA that clients' certificates must be signed by (mutual TLS).",
            envvar="MACP_TLS_CLIENT_CA_PATH",
            dir_okay=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON file of static tokens. Without one the bearer token is the sender: development.",
            envvar="MACP_AUTH_TOKENS_FILE",
            dir_okay=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    allow_insecure: Annotated[
        bool,
        typer.Option(
            "--allow-insecure",
            help="Permit plaintext or development tokens beyond this machine.",
            envvar="MACP_ALLOW_INSECURE",
            rich_help_panel=NETWORK,
        ),
    ] = False,
    drain: Annotated[
        float,
        typer.Option(
            help="Seconds that calls under way get at the end.",
            envvar="MACP_SHUTDOWN_DRAIN_SECS",
            min=0,
            rich_help_panel=NETWORK,
        ),
    ] = 10,
    max_payload_bytes: Annotated[
        int,
        typer.Option(help="Largest payload accepted.", envvar="MACP_MAX_PAYLOAD_BYTES", min=1, rich_help_panel=LIMITS),
    ] = DEFAULT.max_payload_bytes,
    session_start_limit: Annotated[
        int,
        typer.Option(
            help="Sessions that one sender may start in a minute.",
            envvar="MACP_SESSION_START_LIMIT_PER_MINUTE",
            min=1,
            rich_help_panel=LIMITS,
        ),
    ] = 60,
    message_limit: Annotated[
        int,
        typer.Option(
            help="Other messages that one sender may send in a minute.",
            envvar="MACP_MESSAGE_LIMIT_PER_MINUTE",
            min=1,
            rich_help_panel=LIMITS,
        ),
    ] = 600,
    page_size: Annotated[
        int,
        typer.Option(
            help="Sessions on a page of ListSessions by default.",
            envvar="MACP_LIST_SESSIONS_DEFAULT_PAGE_SIZE",
            min=1,
            rich_help_panel=LIMITS,
        ),
    ] = DEFAULT.default_page_size,
    max_page_size: Annotated[
        int,
        typer.Option(
            help="The most that a request may ask for.",
            envvar="MACP_LIST_SESSIONS_MAX_PAGE_SIZE",
            min=1,
            rich_help_panel=LIMITS,
        ),
    ] = DEFAULT.max_page_size,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="SQLite file that keeps every session; without one they are gone with the process.",
            envvar="MACP_RX_STORE",
            dir_okay=False,
            rich_help_panel=STATE,
        ),
    ] = None,
    compact: Annotated[
        bool,
        typer.Option(
            "--compact/--keep-history",
            help="Forget a session's history when it ends.",
            envvar="MACP_COMPACT_TERMINAL_LOGS",
            rich_help_panel=STATE,
        ),
    ] = False,
    retention: Annotated[
        int,
        typer.Option(
            help="Seconds after its start for which a session that has ended is kept.",
            envvar="MACP_SESSION_RETENTION_SECS",
            min=0,
            rich_help_panel=STATE,
        ),
    ] = 3600,
    policies_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of policies (*.json); then no other can be registered.",
            envvar="MACP_POLICIES_DIR",
            file_okay=False,
            rich_help_panel=STATE,
        ),
    ] = None,
    policies_dry_run: Annotated[
        bool,
        typer.Option(
            "--policies-dry-run",
            help="Check that folder, and end.",
            envvar="MACP_POLICIES_DRY_RUN",
            rich_help_panel=STATE,
        ),
    ] = False,
    runtime_id: Annotated[
        str,
        typer.Option(
            metavar="ID",
            help="Who issues decision receipts: runtime:ID.",
            envvar="MACP_RUNTIME_ID",
            rich_help_panel=RECEIPTS,
        ),
    ] = DEFAULT.runtime_id,
    receipt_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Ed25519 key that signs them: PKCS#8 PEM or JWK. Needs the extra 'receipts'.",
            envvar="MACP_RECEIPT_SIGNING_KEY_PATH",
            dir_okay=False,
            rich_help_panel=RECEIPTS,
        ),
    ] = None,
    receipt_kid: Annotated[
        str,
        typer.Option(
            metavar="KID",
            help="Name of that key; a JWK brings its own.",
            envvar="MACP_RECEIPT_SIGNING_KID",
            rich_help_panel=RECEIPTS,
        ),
    ] = "",
    retired_keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON Web Key Set of the keys that no longer sign.",
            envvar="MACP_RECEIPT_PUBLIC_KEYS_PATH",
            dir_okay=False,
            rich_help_panel=RECEIPTS,
        ),
    ] = None,
) -> None:
    """Runs the embedded runtime as a server. Ctrl-C ends it, a second Ctrl-C at once.

    On this machine it serves in plaintext, and the bearer token is the sender. Beyond it, it asks for TLS and tokens.

    Example: macp-rx serve --bind 127.0.0.1:50051 --store sessions.sqlite
    """
    policies = _policies(policies_dir) if policies_dir else []
    if policies_dry_run:
        if policies_dir is None:
            raise MacpSessionError("--policies-dry-run needs --policies-dir")
        Console().print(f"{len(policies)} policies are fit")
        return
    signing_key = os.environ.get("MACP_RECEIPT_SIGNING_KEY") or (receipt_key.read_text() if receipt_key else "")
    settings = Settings(
        max_payload_bytes=max_payload_bytes,
        default_page_size=min(page_size, max_page_size),
        max_page_size=max_page_size,
        compact_ended=compact,
        policies_read_only=policies_dir is not None,
        starts_per_minute=session_start_limit,
        messages_per_minute=message_limit,
        retention_ms=retention * 1000,
        runtime_id=runtime_id,
        signer=ReceiptSigner.read(signing_key, receipt_kid) if signing_key else None,
        retired_keys=retired_keys.read_text() if retired_keys else "",
    )
    tls, identify = _tls(tls_cert, tls_key, client_ca), _identify(tokens)
    _check_exposure(bind, tls, identify, allow_insecure=allow_insecure)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: _end(stop))
    with (
        Runtime(store=store, identify=identify, settings=settings, policies=policies) as runtime,
        runtime.serve(bind, tls=tls, drain=drain) as server,
    ):
        how = "plaintext" if tls is None else "mutual TLS" if tls.client_ca else "TLS"
        who = "development tokens" if identify is dev_identity else "static tokens"
        Console().print(
            f"macp-rx runtime on [bold cyan]{server.target}[/], {how}, {who}; Ctrl-C ends it", soft_wrap=True
        )
        stop.wait()


def _end(stop: threading.Event) -> None:
    if stop.is_set():
        os._exit(INTERRUPTED)
    stop.set()


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    if certificate is None and key is None:
        if client_ca is not None:
            raise MacpSessionError("--client-ca needs --tls-cert and --tls-key")
        return None
    if certificate is None or key is None:
        raise MacpSessionError("--tls-cert and --tls-key go together")
    _check_certificates(certificate, key, client_ca)
    return Tls(certificate.read_bytes(), key.read_bytes(), client_ca.read_bytes() if client_ca else None)


def _check_certificates(certificate: Path, key: Path, client_ca: Path | None) -> None:
    """Says which file is wrong: gRPC says of each only that it cannot bind (measured)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for path in (certificate, client_ca) if client_ca else (certificate,):
        try:
            context.load_verify_locations(path)
        except ssl.SSLError:
            raise MacpSessionError(f"{path} holds no certificate, or one that is not PEM") from None
    try:
        context.load_cert_chain(certificate, key, password="")  # without one, a key that needs it asks on the terminal
    except ssl.SSLError as error:
        raise MacpSessionError(
            f"{key} is not the key of {certificate} as PEM without a passphrase: {error.reason}"
        ) from None


def _identify(tokens: Path | None) -> Identify:
    if os.environ.get("MACP_AUTH_ISSUER"):  # to take development tokens instead would let in everybody
        raise MacpSessionError("MACP_AUTH_ISSUER is set, but this runtime reads no JWT; use --tokens, and unset it")
    text = os.environ.get("MACP_AUTH_TOKENS_JSON") or (tokens.read_text() if tokens else "")
    return static_tokens(text) if text else dev_identity


def _check_exposure(bind: str, tls: Tls | None, identify: Identify, *, allow_insecure: bool) -> None:
    """Beyond this machine a port needs TLS, and tokens that not everybody can make up."""
    if is_loopback(host_of(bind)) or allow_insecure:
        return
    lacking = [
        what
        for what, lacks in (
            ("TLS (--tls-cert, --tls-key)", tls is None),
            ("tokens (--tokens)", identify is dev_identity),
        )
        if lacks
    ]
    if lacking:
        raise MacpSessionError(
            f"{bind} can be reached from other machines, so this needs {' and '.join(lacking)}; or --allow-insecure"
        )


def _policies(folder: Path) -> list[policy_pb2.PolicyDescriptor]:
    """The policies of a folder, in the order of their files' names, each found fit beside those before it."""
    policies: list[policy_pb2.PolicyDescriptor] = []
    known = State()
    for path in sorted(path for path in folder.iterdir() if path.suffix == ".json"):
        policy = read_policy(path)
        try:
            known = with_policies(known, [policy])
        except MacpRefusedError as error:
            raise MacpSessionError(f"{path}: {error}") from None
        policies.append(policy)
    return policies
