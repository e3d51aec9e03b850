"""macp-rx watch: what sessions accept, as it happens."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from typing import Annotated

import typer
from macp.v1.envelope_pb2 import SessionState
from macp.v1.policy_pb2 import PolicyDescriptor
from rich.text import Text

from macp_rx.cli.connection import connected
from macp_rx.cli.terminal import STYLES, console, show
from macp_rx.client import MacpClient
from macp_rx.errors import MacpSessionError
from macp_rx.protocol.messages import Accepted
from macp_rx.streams.stream import Stream

__all__ = ["All", "Mode", "SessionId", "Wait", "events_of", "printed", "watch"]

SessionId = Annotated[str | None, typer.Argument(metavar="SESSION", help="The session's id.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="Every open session that you may read, as they appear.")]
Mode = Annotated[
    str,
    typer.Option("--mode", metavar="MODE", help="Only of this mode: decision, or its full name.", show_default=False),
]
Wait = Annotated[float, typer.Option(help="Seconds to wait for a session that has not been started yet.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="A line of a transcript for each: canonical JSON.")]


@connected()
def watch(
    client: MacpClient,
    session: SessionId = None,
    all_sessions: All = False,
    mode: Mode = "",
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Shows what a session accepts, from its start on and live, until it ends.

    What becomes of the connection is told on standard error; nothing is lost or repeated by it.

    Example: macp-rx watch 2f1c7f4e-9b0d-4c53-8f0e-1d2c3b4a5968 --agent chair
    """
    events = events_of(client, session, all_sessions=all_sessions, mode=mode, wait=wait)
    printed(events, as_json=as_json, now_ms=lambda: client.clock.now_ms, policy_of=_asks(client))
    if session is not None and not as_json:
        state = SessionState.Name(client.get_session(session).metadata.state).removeprefix("SESSION_STATE_")
        show(console(), Text(state, f"bold {STYLES[state]}"))


def events_of(
    client: MacpClient, session: str | None, *, all_sessions: bool, mode: str = "", wait: float = 0
) -> Stream[Accepted]:
    """What a command is to follow: one session, or all. Tells of lost connections on standard error.

    Raises:
        MacpSessionError: neither, or both.
        MacpTransportError: the runtime cannot be reached. A stream would go on trying, and whoever has typed a wrong address
            should not have to wait.
    """
    from macp_rx.cli.sessions import mode_of

    if (session is None) != all_sessions:
        raise MacpSessionError("name a SESSION, or --all, and not both")
    client.initialize()
    logging.getLogger("macp_rx.streams").setLevel(logging.INFO)
    if session is None:
        return client.all_events(mode=mode_of(mode))
    return client.session_events(session, wait=wait)


def printed(
    events: Iterable[Accepted],
    *,
    as_json: bool,
    now_ms: Callable[[], int],
    policy_of: Callable[[str], PolicyDescriptor] | None = None,
) -> None:
    """Prints envelopes as they come: with their lanes, or as lines of a transcript."""
    if as_json:
        from macp_rx.transcript import line

        for accepted in events:
            sys.stdout.write(line(accepted, now_ms()))
            sys.stdout.flush()
        return
    from macp_rx.cli.lanes import Lanes

    out = console()
    lanes = Lanes(out) if policy_of is None else Lanes(out, policy_of)
    for accepted in events:
        lanes.show(accepted)


def _asks(client: MacpClient) -> Callable[[str], PolicyDescriptor]:
    def policy_of(policy_id: str) -> PolicyDescriptor:
        return client.get_policy(policy_id).policy_descriptor

    return policy_of
