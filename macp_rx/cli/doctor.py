"""macp-rx doctor: is everything in order between here and a runtime, and if not, what helps."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Final

import typer
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import SessionState
from rich.text import Text

from macp_rx.cli.connection import connected
from macp_rx.cli.ending import End, cure_of, end_of
from macp_rx.cli.terminal import STYLES, console, plain, print_json, show
from macp_rx.client import MacpClient
from macp_rx.envelope import build_envelope
from macp_rx.errors import MacpAckError, MacpError, MacpGapError, MacpTransportError
from macp_rx.protocol.messages import DECISION, MACP_VERSION, STANDARD_MODES

__all__ = ["Finding", "doctor"]

STREAMS: Final = 128
"""Streams that a server allows on a connection (`protocol.md` 1.0)."""

LOOKED_AT: Final = 1000
"""So many sessions are looked at, at most: one page."""

SKEW: Final = 1.0
"""Seconds that two clocks may differ before it is worth a word: a deadline counts from the initiator's clock."""

ENDED: Final = (
    SessionState.SESSION_STATE_RESOLVED,
    SessionState.SESSION_STATE_CANCELLED,
    SessionState.SESSION_STATE_EXPIRED,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look has found.

    Attributes:
        check: what was looked at.
        state: ``ok``, ``warn`` or ``fail``.
        found: what there is, in words.
        cure: what helps; blank if nothing is needed.
        end: the exit status that it calls for.
    """

    check: str
    state: str
    found: str
    cure: str = ""
    end: End = End.OK


@connected()
def doctor(
    client: MacpClient,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each finding.")] = False,
) -> None:
    """Looks whether a runtime can be reached, what it is and can do, who you are to it, and what may become a trouble.

    It changes nothing there. Its exit status is that of the first failure, by kind.

    Example: macp-rx doctor --target runtime.example.com:50051 --token "$TOKEN"
    """
    out, err = console(), console(err=True)
    end = End.OK
    findings = _examined(client)
    while True:
        with err.status("looking"):
            finding = next(findings, None)
        if finding is None:
            break
        end = end or finding.end
        if as_json:
            print_json({name: getattr(finding, name) for name in ("check", "state", "found", "cure")})
            continue
        show(
            out,
            Text.assemble(
                (f"{finding.state:<5}", STYLES[finding.state]), (f"{finding.check:<13}", "bold"), plain(finding.found)
            ),
        )
        if finding.cure:
            show(out, Text(f"{'':<18}{finding.cure}", "dim"))
    raise typer.Exit(end)


def _examined(client: MacpClient) -> Iterator[Finding]:
    begun = time.monotonic()
    try:
        answer = client.initialize()
    except MacpError as error:
        yield _failed("reach", error)
        return
    yield from _runtime(client, answer, time.monotonic() - begun)
    yield from _capabilities(answer)
    yield _clock(client)
    yield from _caller(client)


def _failed(check: str, error: MacpError) -> Finding:
    return Finding(check, "fail", str(error), cure_of(error), end_of(error))


def _runtime(client: MacpClient, answer: core_pb2.InitializeResponse, seconds: float) -> Iterator[Finding]:
    yield Finding("reach", "ok", f"{client.target} answers, the first time in {1000 * seconds:.0f} ms")
    info = answer.runtime_info
    yield Finding("runtime", "ok", f"{info.name} {info.version}")
    spoken = answer.selected_protocol_version
    yield Finding("protocol", "ok" if spoken == MACP_VERSION else "warn", f"MACP {spoken}")


def _capabilities(answer: core_pb2.InitializeResponse) -> Iterator[Finding]:
    has = answer.capabilities
    abilities = {
        "streams of sessions": has.sessions.stream,
        "lists of sessions": has.sessions.list_sessions,
        "a watch of sessions": has.sessions.watch_sessions,
        "cancelling": has.cancellation.cancel_session,
        "registering policies": has.policy_registry.register_policy,
        "what-if": has.policy_registry.what_if_replay,
        "decision receipts": has.decision_receipt.get_decision_receipt,
    }
    lacking = [name for name, there in abilities.items() if not there]
    if lacking:
        yield Finding(
            "abilities", "warn", f"it has no {', no '.join(lacking)}", "commands that need them will be refused"
        )
    else:
        yield Finding("abilities", "ok", "all that macp-rx uses")
    missing = [mode for mode in STANDARD_MODES if mode not in answer.supported_modes]
    if missing:
        yield Finding("modes", "warn", f"it has no {', no '.join(missing)}", "sessions of them cannot be started there")
    else:
        extensions = len(answer.supported_modes) - len(STANDARD_MODES)
        yield Finding("modes", "ok", f"the five standard ones, and {extensions} more")
    if has.decision_receipt.get_decision_receipt and not has.decision_receipt.signed:
        yield Finding(
            "receipts",
            "warn",
            "not signed: whoever holds one cannot tell who issued it",
            "give the runtime a key: --receipt-key",
        )
    elif has.decision_receipt.signed:
        yield Finding("receipts", "ok", "signed")


def _clock(client: MacpClient) -> Finding:
    """The server's clock beside ours, by the event that a watch of the mode registry begins with."""
    before = client.clock.now_ms
    try:
        first = next(iter(client.watch_mode_registry(timeout=client.default_timeout)), None)
    except MacpError as error:
        return _failed("clock", error)
    after = client.clock.now_ms
    if first is None:
        return Finding("clock", "warn", "it does not tell its time")
    seconds = (first.change.observed_at_unix_ms - (before + after) / 2) / 1000
    give_or_take = (after - before) / 2000
    side = "ahead" if seconds > 0 else "behind"
    told = f"the runtime's is {abs(seconds):.3f} s {side} of ours, give or take {give_or_take:.3f} s"
    if abs(seconds) - give_or_take > SKEW:
        return Finding("clock", "warn", told, "a session's deadline counts from its initiator's clock: set both by NTP")
    return Finding("clock", "ok", told)


def _caller(client: MacpClient) -> Iterator[Finding]:
    """What only somebody with a credential can ask."""
    if client.auth is None:
        yield Finding("caller", "warn", "nobody: only the runtime itself can be asked about", cure_of(_nobody))
        return
    try:
        sessions = tuple(islice(client.list_sessions(page_size=LOOKED_AT), LOOKED_AT))
        yield _identity(client)
    except MacpError as error:
        yield _failed("caller", error)
        return
    mine = [each for each in sessions if _names(each, client.auth.sender)]
    yield _streams(client, [each for each in mine if each.state not in ENDED], len(sessions))
    yield _history(client, (each for each in reversed(mine) if each.state in ENDED))


_nobody = MacpTransportError("UNAUTHENTICATED")


def _names(session: core_pb2.SessionMetadata, sender: str) -> bool:
    return not sender or sender == session.initiator or sender in session.participants


def _identity(client: MacpClient) -> Finding:
    """Whether the credential is for whom it is said to be: by a message to a session that nobody has.

    The runtime looks at the sender before it looks for the session, and refuses the message in any case (`protocol.md` 2.1).
    """
    assert client.auth is not None
    name = client.auth.sender
    probe = build_envelope(
        mode=DECISION, message_type="Vote", session_id=client.clock.new_id(), payload=b"", sender=name
    )
    try:
        client.send(probe)
    except MacpAckError as refusal:
        if refusal.code != "SESSION_NOT_FOUND":
            return _failed("caller", refusal)
    return Finding("caller", "ok", f"the credential is valid{f', and speaks for {name}' if name else ''}")


def _streams(client: MacpClient, open_sessions: list[core_pb2.SessionMetadata], looked_at: int) -> Finding:
    count = len(open_sessions)
    told = f"{count} open session{'' if count == 1 else 's'} of yours{' at least' if looked_at == LOOKED_AT else ''}"
    if count > STREAMS:
        cure = "macp_rx opens more connections; a client with one connection hangs"
        return Finding("streams", "warn", f"{told}; a connection carries {STREAMS} streams", cure)
    return Finding("streams", "ok", f"{told}; a connection carries {STREAMS} streams")


def _history(client: MacpClient, ended: Iterable[core_pb2.SessionMetadata]) -> Finding:
    """Whether it forgets the history of sessions that have ended: by reading one."""
    session = next(iter(ended), None)
    if session is None:
        return Finding("history", "ok", "no session of yours has ended, so whether it is kept then cannot be told")
    try:
        count = sum(1 for _ in client.history(session.session_id))
    except MacpGapError:
        cure = "read sessions while they run, record them; or run it with MACP_COMPACT_TERMINAL_LOGS=0"
        return Finding("history", "warn", "forgotten when a session ends", cure)
    except MacpError as error:
        return _failed("history", error)
    return Finding("history", "ok", f"kept when a session ends: one that has still tells its {count} envelopes")
