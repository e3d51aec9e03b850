"""The public names, listed: a name that comes or goes is a decision, not an accident."""

from __future__ import annotations

import subprocess
import sys

import macp_rx
from macp_rx import operators

PUBLIC = [
    "Accepted",
    "Agent",
    "AuthConfig",
    "Clock",
    "Connection",
    "DecisionSession",
    "Denial",
    "ExtensionSession",
    "HandoffSession",
    "LoopClock",
    "MacpAckError",
    "MacpClient",
    "MacpClosedError",
    "MacpError",
    "MacpGapError",
    "MacpIdentityMismatchError",
    "MacpOverflowError",
    "MacpRefusedError",
    "MacpSessionError",
    "MacpStream",
    "MacpStreamError",
    "MacpTimeoutError",
    "MacpTranscriptError",
    "MacpTransportError",
    "MacpWouldBlockError",
    "Message",
    "MultiRoundSession",
    "Outcome",
    "ProposalSession",
    "QuorumSession",
    "RetryPolicy",
    "Runtime",
    "Session",
    "SessionStart",
    "SessionStream",
    "Status",
    "Stream",
    "TaskSession",
    "agents",
    "build_envelope",
    "new_message_id",
    "new_session_id",
    "operators",
    "rpc_stream",
    "serialize_message",
    "stream",
]

OPERATORS = [
    "Confidence",
    "Count",
    "Denials",
    "Participation",
    "Permitted",
    "Tally",
    "UNDECIDED",
    "Undecided",
    "Verdict",
    "after",
    "at_least",
    "commit_if_decided",
    "commitment",
    "confidence",
    "deadline",
    "debounce_tally",
    "dedupe",
    "deliver_on",
    "escalate",
    "in_mode",
    "in_session",
    "majority",
    "map_async",
    "missing_after",
    "of_type",
    "on_phase",
    "outcome",
    "participation",
    "payloads",
    "plurality",
    "remind_every",
    "retry_with_backoff",
    "send_to",
    "sent_by",
    "shared",
    "silence",
    "states",
    "supermajority",
    "tally",
    "unanimous",
    "under_policy",
    "until_resolved",
    "until_ttl",
    "vetoed",
    "weighted",
    "within",
]


def names(module: object) -> list[str]:
    """The names that a module re-exports as itself, without its submodules."""
    kinds = ("macp_rx.", "typing", "collections")
    return [
        name
        for name in dir(module)
        for value in [getattr(module, name)]
        if not name.startswith("_") and (not hasattr(value, "__spec__") or name in ("agents", "operators"))
        if getattr(value, "__module__", "macp_rx.").startswith(kinds) or hasattr(value, "__spec__")
    ]


def test_the_package_exports_what_is_listed_here() -> None:
    assert sorted(names(macp_rx)) == sorted(PUBLIC)


def test_a_star_imports_what_is_listed_here() -> None:
    brought: dict[str, object] = {}
    exec("from macp_rx import *", brought)
    assert sorted(brought.keys() - {"__builtins__"}) == sorted(PUBLIC)


def test_the_operators_are_what_is_listed_here() -> None:
    assert sorted(names(operators)) == sorted(OPERATORS)


def test_importing_the_package_brings_neither_the_command_line_nor_the_tests() -> None:
    code = "import sys, macp_rx; print([m for m in ('rich', 'typer', 'pytest', 'macp_rx.cli') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert printed.stdout == "[]\n"


def test_both_sdks_live_in_one_process() -> None:
    """The messages are the classes of macp-proto, the same ones as macp-sdk-python's: no second descriptor pool entry."""
    import macp_sdk
    from macp.v1 import envelope_pb2

    assert macp_sdk.MacpClient is not macp_rx.MacpClient
    assert macp_rx.build_envelope(
        mode="m", message_type="t", session_id=macp_rx.new_session_id(), payload=b""
    ).__class__ is (envelope_pb2.Envelope)
