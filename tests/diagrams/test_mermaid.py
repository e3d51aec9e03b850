"""A timeline as a Mermaid sequence diagram."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from macp_rx import Connection, Outcome, Status, diagrams
from macp_rx.simulation import Refusal
from macp_rx.timeline import Event, Failed, Next, Timeline
from tests.diagrams.stories import CONFORMANCE, FIXTURES, fixture
from tests.operators.voices import LEGEND


def as_the_runtime_prints_it(read: dict[str, Any]) -> str:
    """What ``macp-transcript-viz`` of macp-runtime 0.13.0 prints of a fixture (its src/bin/macp-transcript-viz.rs)."""
    aliases = {read["initiator"]: "P0"}
    body = [f"    P0->>RT: SessionStart [{read['mode']}]"]
    for message in read["messages"]:
        alias = aliases.setdefault(message["sender"], f"P{len(aliases)}")
        kind = message["message_type"]
        accepted = message["expect"] == "accept"
        body.append(f"    {alias}->>RT: {kind}" if accepted else f"    {alias}--xRT: {kind} (rejected)")
    body.append(f"    Note over RT: session {read['expected_final_state']}")
    header = [f"    participant {aliases[sender]} as {sender}" for sender in sorted(aliases)]
    return "\n".join(["sequenceDiagram", "    participant RT as runtime", *header, *body]) + "\n"


@pytest.mark.parametrize("name", FIXTURES)
def test_it_has_what_the_runtime_prints_of_the_same_story(name: str) -> None:
    expected = as_the_runtime_prints_it(json.loads((CONFORMANCE / f"{name}.json").read_text()))
    # an open session has no event that says so
    expected = expected.replace("    Note over RT: session Open\n", "")
    printed = diagrams.mermaid(fixture(name))
    assert re.sub(r"\(rejected: \w+\)", "(rejected)", printed) == expected


def test_it_tells_codes_connections_and_ends() -> None:
    events = (
        Event(0, "alice", Next(LEGEND["v"].accepted(1))),
        Event(1, "alice", Next(Refusal("alice", "Vote", "POLICY_DENIED"))),
        Event(2, "connection", Next(Status(Connection.GAP, 1, missing=3))),
        Event(3, "connection", Next(Status(Connection.LOST, 1))),
        Event(4, "bob", Failed(ValueError("x"))),
        Event(5, "alice", Next("not said to a runtime")),
        Event(6, "chair", Next(Outcome("EXPIRED", None, "late"))),
    )
    assert diagrams.mermaid(Timeline(events)).splitlines()[4:] == [
        "    P0->>RT: Vote",
        "    P0--xRT: Vote (rejected: POLICY_DENIED)",
        "    Note over RT: connection gap: 3 missing",
        "    Note over RT: connection lost",
        "    Note over P1: ValueError",
        "    Note over RT: session Expired",
    ]


def test_names_cannot_break_out_of_their_line() -> None:
    bad = "a;b\nP9->>RT: Forged #<b>%%"
    printed = diagrams.mermaid(
        Timeline((Event(0, bad, Next(Refusal(bad, bad, bad))), Event(1, "end", Failed(ValueError()))))
    )
    lines = printed.splitlines()
    assert len(lines) == 6
    assert not any(mark in line for line in lines for mark in ("<b>", "%%"))
    assert not any(line.strip().startswith("P9") for line in lines)
    assert "participant P1 as #101;nd" in printed
