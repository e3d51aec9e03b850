"""macp-rx sessions, cancel, suspend, resume."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from macp.v1.core_pb2 import SessionMetadata
from macp.v1.envelope_pb2 import Ack, SessionState

from macp_rx.cli.connection import connected
from macp_rx.cli.terminal import console, print_json, print_table
from macp_rx.client import MacpClient
from macp_rx.protocol import canonical
from macp_rx.protocol.modes import MODES

__all__ = ["cancel", "mode_of", "name_of", "resume", "sessions", "state_of", "suspend"]

Session = Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why, for people.", show_default=False)]


class State(StrEnum):
    """The states of a session."""

    OPEN = "open"
    SUSPENDED = "suspended"
    RESOLVED = "resolved"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@connected()
def sessions(
    client: MacpClient,
    mode: Annotated[str, typer.Option(metavar="MODE", help="Only of this mode: decision, or its full name.")] = "",
    state: Annotated[
        State | None,
        typer.Option(metavar="STATE", help="Only in this one: open, suspended, resolved, cancelled or expired."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of canonical JSON for each.")] = False,
) -> None:
    """Lists the sessions in the runtime's memory, those that have ended included, by id.

    Example: macp-rx sessions --mode decision --state open --agent chair
    """
    wanted = mode_of(mode)
    listed = client.list_sessions(page_size=1000)
    found = (each for each in listed if wanted in ("", each.mode) and state in (None, state_of(each.state).lower()))
    if as_json:
        for each in found:
            print_json(canonical.to_json(each))
        return
    err = console(err=True)
    with err.status("listing sessions"):
        rows = [_row(each, client.clock.now_ms) for each in found]
    print_table(("SESSION", "MODE", "STATE", "TIME LEFT", "INITIATOR", "PARTICIPANTS"), rows)
    err.print(f"{len(rows)} session{'' if len(rows) == 1 else 's'}", style="dim")


@connected()
def cancel(client: MacpClient, session: Session, reason: Reason = "") -> None:
    """Cancels a session. On one that has ended it changes nothing.

    Example: macp-rx cancel 2f1c7f4e-9b0d-4c53-8f0e-1d2c3b4a5968 --reason "asked twice" --agent chair
    """
    acknowledged(session, client.cancel_session(session, reason=reason))


@connected()
def suspend(client: MacpClient, session: Session, reason: Reason = "") -> None:
    """Suspends an open session: nothing is accepted in it, and its deadline stands still.

    Example: macp-rx suspend 2f1c7f4e-9b0d-4c53-8f0e-1d2c3b4a5968 --agent chair
    """
    acknowledged(session, client.suspend_session(session, reason=reason))


@connected()
def resume(client: MacpClient, session: Session, reason: Reason = "") -> None:
    """Resumes a suspended session: its deadline moves by the pause.

    Example: macp-rx resume 2f1c7f4e-9b0d-4c53-8f0e-1d2c3b4a5968 --agent chair
    """
    acknowledged(session, client.resume_session(session, reason=reason))


def acknowledged(session_id: str, ack: Ack, *, as_json: bool = False) -> None:
    """Prints what came of a message: the session's id and its state, or the Ack as canonical JSON."""
    if as_json:
        print_json(canonical.to_json(ack))
    else:
        duplicate = " duplicate" if ack.duplicate else ""
        console().print(f"{session_id} {state_of(ack.session_state)}{duplicate}", soft_wrap=True)


def state_of(state: SessionState.ValueType) -> str:
    """A state's name, such as ``OPEN``."""
    return SessionState.Name(state).removeprefix("SESSION_STATE_")


def mode_of(name: str) -> str:
    """The full name of a mode, by itself or by the short one: ``decision``."""
    return next((mode for mode in MODES if name_of(mode) == name), name)


def name_of(mode: str) -> str:
    """The short name of a mode that is built in; of another its own."""
    return mode.split(".")[-2] if mode in MODES else mode


def _row(session: SessionMetadata, now_ms: int) -> tuple[str, ...]:
    state = state_of(session.state)
    left = _duration(session.expires_at_unix_ms - now_ms) if state == "OPEN" else ""
    who = (session.initiator, ", ".join(session.participants))
    return (session.session_id, name_of(session.mode), state, left, *who)


def _duration(milliseconds: int) -> str:
    seconds = max(0, milliseconds // 1000)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
