"""mermaid: a Timeline as a Mermaid sequence diagram, for where text is what one can paste."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from macp_rx.diagrams.picture import clean
from macp_rx.protocol.messages import Accepted
from macp_rx.simulation.run import Refusal
from macp_rx.streams.outcome import Outcome
from macp_rx.streams.status import Connection, Status
from macp_rx.timeline import Event, Failed, Next, Timeline

__all__ = ["mermaid"]

_ENTITIES: Final = str.maketrans({"#": "#35;", ";": "#59;", "<": "#lt;", ">": "#gt;", '"': "#quot;", "%": "#37;"})


def mermaid(timeline: Timeline) -> str:
    """What was said to the runtime, and refused, as a Mermaid sequence diagram.

    It has what the reference runtime's ``macp-transcript-viz`` prints of the same session, line by line, and beside that the code
    of each refusal, and what happened to the connection. Every envelope is a line; Mermaid itself draws no more than 50,000
    characters unless it is told to.

    Args:
        timeline: of a session; values that were not said to a runtime are not in it.
    """
    aliases: dict[str, str] = {}
    body = [line for event in timeline.events for line in _lines(event, aliases)]
    header = [f"participant {alias} as {_name(sender)}" for sender, alias in sorted(aliases.items())]
    lines = ["participant RT as runtime", *header, *body]
    return "sequenceDiagram\n" + "".join(f"    {line}\n" for line in lines)


def _lines(event: Event, aliases: dict[str, str]) -> Iterator[str]:
    match event.what:
        case Next(Accepted() as accepted):  # pyright: ignore[reportUnknownVariableType]
            alias = _alias(accepted.sender, aliases)
            opens = accepted.message_type == "SessionStart"
            yield f"{alias}->>RT: {_escaped(accepted.message_type)}{f' [{_escaped(accepted.mode)}]' if opens else ''}"
            if accepted.message_type == "Commitment":
                yield "Note over RT: session Resolved"
        case Next(Refusal(sender, message_type, code)):
            alias = _alias(sender, aliases)
            yield f"{alias}--xRT: {_escaped(message_type)} (rejected: {_escaped(code)})"
        case Next(Outcome(state, commitment)) if commitment is None:
            yield f"Note over RT: session {_escaped(state.capitalize())}"
        case Next(Status(connection, _sequence, _error, missing)):
            told = f"gap: {missing} missing" if connection is Connection.GAP else connection.value
            yield f"Note over RT: {_escaped(event.lane)} {told}"
        case Failed(error):
            yield f"Note over {_alias(event.lane, aliases)}: {_escaped(type(error).__name__)}"
        case _:
            pass


def _alias(sender: str, aliases: dict[str, str]) -> str:
    """Mermaid wants an identifier, and a sender is any text."""
    return aliases.setdefault(sender, f"P{len(aliases)}")


def _name(sender: str) -> str:
    return "#101;nd" if sender == "end" else _escaped(sender) or "#32;"  # `end` is a keyword wherever it stands


def _escaped(text: str) -> str:
    return clean(text).translate(_ENTITIES)
