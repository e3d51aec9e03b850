"""macp-rx send."""

from __future__ import annotations

import sys
from typing import Annotated, Final, cast

import typer

from macp_rx.cli.connection import connected
from macp_rx.cli.sessions import acknowledged
from macp_rx.client import MacpClient
from macp_rx.errors import MacpSessionError
from macp_rx.protocol import canonical, jcs
from macp_rx.protocol.messages import Message, payload_type
from macp_rx.protocol.start import SessionStart
from macp_rx.session import Address, Session

__all__ = ["send"]

NEW: Final = "new"


@connected()
def send(
    client: MacpClient,
    session: Annotated[
        str, typer.Argument(metavar="SESSION", help=f"The session's id; {NEW!r} makes one for a SessionStart.")
    ],
    message_type: Annotated[str, typer.Argument(metavar="TYPE", help="The message's type, such as Vote.")],
    payload: Annotated[
        str, typer.Argument(metavar="JSON", help="Its payload as canonical JSON; - reads it from standard input.")
    ] = "{}",
    message_id: Annotated[
        str, typer.Option("--id", metavar="ID", help="The message's id; one that is known already changes nothing.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the Ack as canonical JSON.")] = False,
) -> None:
    """Sends one message, and prints the session's id and its state.

    The mode is the session's. A SessionStart names it beside the members of its payload, and has defaults for its versions;
    a Commitment has them, too. In a mode without payloads of MACP's own the JSON itself is the payload.

    Example: macp-rx send 2f1c7f4e-9b0d-4c53-8f0e-1d2c3b4a5968 Vote '{"proposal_id":"p1","vote":"APPROVE"}' --agent alice
    """
    text = sys.stdin.read() if payload == "-" else payload
    if message_type == "SessionStart":
        start = SessionStart.from_json(text)
        session_id = client.clock.new_id() if session == NEW else session
        versions = (start.mode_version, start.configuration_version, start.policy_version)
        opened = Session.at(client, Address(start.mode, session_id, *versions))
        ack = client.send(opened.envelope(start.message, message_id))
        acknowledged(session_id, ack, as_json=as_json)
        return
    if session == NEW:
        raise MacpSessionError(f"only a SessionStart goes to a {NEW} session; name the session's id")
    known = Session.of(client, client.get_session(session).metadata)
    ack = client.send(known.envelope(_message(known.mode, message_type, text), message_id))
    acknowledged(session, ack, as_json=as_json)


def _message(mode: str, message_type: str, text: str) -> Message:
    cls = payload_type(mode, message_type)
    value = jcs.decode(text)
    if cls is None:
        return Message(mode, text.encode(), message_type)
    payload = canonical.from_json(value, cls)
    known = [field.name for field in cls.DESCRIPTOR.fields]
    unknown = sorted(
        cast("dict[str, object]", value).keys() - known
    )  # a reader passes over them; a person has mistyped
    if unknown:
        raise MacpSessionError(f"a {message_type} has no {', '.join(unknown)}; it has {', '.join(known)}")
    return Message("", payload, message_type)
