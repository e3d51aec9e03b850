"""What each operator of a pipeline does, as a picture."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import reactivex as rx
from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, MacpClient, MacpSessionError, Message, diagrams
from macp_rx import operators as mo
from macp_rx.testing import Marbles
from macp_rx.timeline import Completed, Event, Failed, Next, Timeline
from tests.diagrams.reading import SVG, Drawn
from tests.diagrams.stories import rollout
from tests.operators.voices import LEGEND


def boxes(picture: diagrams.Svg) -> list[str]:
    """The operators, from top to bottom."""
    return [
        text.text or "" for text in Drawn(picture).root.iter(f"{SVG}text") if "code" in text.attrib["class"].split()
    ]


def lanes(picture: diagrams.Svg) -> dict[str, str]:
    """The marbles of each lane, as the text beside the picture has them."""
    lines = (line.partition(" : ") for line in picture.plain.splitlines() if " = " not in line)
    return {name.strip(): marbles for name, _, marbles in lines if "^" not in name and name != "order"}


def source() -> Any:
    return Marbles().cold("S-p-v-w-y-C|", LEGEND)


def test_operators_are_named_as_they_stand_in_the_call() -> None:
    picture = diagrams.explain([mo.of_type(VotePayload), mo.majority(electorate=3), ops.take(1)], source())
    assert boxes(picture) == ["mo.of_type(VotePayload)", "mo.majority(electorate=3)", "ops.take(1)"]


def test_an_operator_keeps_its_quotes_and_stands_in_one_line() -> None:
    picture = diagrams.explain(
        [
            ops.filter(lambda one: one.sender == "alice"),
            ops.filter(
                lambda one: one.sender != "bob",
            ),
        ],
        source(),
    )
    assert boxes(picture) == [
        'ops.filter(lambda one: one.sender == "alice")',
        "ops.filter(lambda one: one.sender != 'bob')",
    ]


def test_messages_that_are_collected_are_told_by_what_they_are() -> None:
    picture = diagrams.explain([mo.of_type(VotePayload), ops.buffer_with_count(2)], source())
    assert "2 × Vote" in Drawn(picture).texts
    assert "p1: approve, p1: reject" in Drawn(picture).texts


def test_what_passes_between_them_stands_on_their_lanes() -> None:
    picture = diagrams.explain([mo.of_type(VotePayload), mo.majority(electorate=3)], source())
    assert lanes(picture) == {"source": "a-b-c-d-e-f |", "of_type": "----c-d-e-- |", "result": "--------g-- |"}
    legend = [line for line in picture.plain.splitlines() if " = " in line]
    assert legend[1:3] == [
        "b = 2 chair Proposal: proposal_id='p1', option='canary'",
        "c = 3 alice Vote: proposal_id='p1', vote='APPROVE'",
    ]


def test_a_name_that_is_assigned_once_is_looked_up() -> None:
    pipeline = (mo.of_type(VotePayload), mo.tally())
    picture = diagrams.explain(pipeline, source())  # not in the assert, which pytest 8.3 moves to where no source is
    assert boxes(picture) == ["mo.of_type(VotePayload)", "mo.tally()"]


def test_a_name_that_is_assigned_twice_tells_nothing() -> None:
    pipeline = (mo.of_type(VotePayload), mo.tally())
    pipeline = (mo.of_type(VotePayload), mo.tally())
    assert boxes(diagrams.explain(pipeline, source())) == ["of_type", "tally"]


def test_a_parameter_tells_nothing_though_another_function_has_that_name() -> None:
    def show(pipeline: Any) -> diagrams.Svg:
        return diagrams.explain(pipeline, source())

    assert boxes(show([mo.of_type(VotePayload), ops.map(str)])) == ["of_type", "map"]


def test_without_source_an_operator_has_the_name_of_its_function() -> None:
    here = {"diagrams": diagrams, "mo": mo, "ops": ops, "source": source(), "VotePayload": VotePayload}
    picture = eval("diagrams.explain([mo.of_type(VotePayload), ops.map(str), ops.map(len)], source)", here)
    assert boxes(picture) == ["of_type", "map", "map"]
    assert list(lanes(picture)) == ["source", "of_type", "map", "result"]


def test_a_composition_is_its_parts() -> None:
    picture = diagrams.explain(rx.compose(mo.of_type(VotePayload), ops.take(2)), source())
    assert boxes(picture) == ["mo.of_type(VotePayload)", "ops.take(2)"]


def chair(events: Observable[Accepted]) -> Observable[Message]:
    return events.pipe(
        mo.of_type(VotePayload),
        mo.majority(electorate=4),
        mo.within(30, otherwise=mo.UNDECIDED),
        ops.take(1),
        mo.commit_if_decided(action="rollout.approved"),
    )


def test_an_agent_that_is_one_pipe_is_explained_by_operators() -> None:
    run = rollout()
    assert run.timeline is not None
    picture = diagrams.explain(chair, run.timeline)
    assert boxes(picture)[2:4] == ["mo.within(30, otherwise=mo.UNDECIDED)", "ops.take(1)"]
    assert "rollout.approved" in Drawn(picture).texts


def test_an_agent_that_is_more_is_one_operator() -> None:
    def both(events: Observable[Any]) -> Observable[Any]:
        return rx.merge(events.pipe(ops.count()), events.pipe(ops.take(1)))

    picture = diagrams.explain(both, source())
    assert boxes(picture) == ["both"]
    assert list(lanes(picture)) == ["source", "result"]


def test_a_timer_of_an_operator_runs_in_virtual_time() -> None:
    late = Marbles().cold("-p 1h v|", LEGEND)
    picture = diagrams.explain([mo.of_type(VotePayload), mo.within(60, otherwise=mo.UNDECIDED)], late)
    assert "undecided" in Drawn(picture).texts
    assert "1 min" in Drawn(picture).texts


def test_it_runs_where_a_loop_runs_already() -> None:
    async def answer(item: object) -> object:
        await asyncio.sleep(3_600)
        return item

    async def cell() -> diagrams.Svg:
        return diagrams.explain([mo.map_async(answer)], Marbles().cold("-a|"))

    picture = asyncio.run(cell())
    assert lanes(picture)["result"] == "- - - 59m 59s 998ms (a |)"


def test_a_connectable_observable_keeps_its_connect() -> None:
    picture = diagrams.explain([ops.publish(), ops.ref_count(), ops.take(1)], source())
    assert lanes(picture)["result"] == "(a |)"
    assert "a = 1 chair SessionStart" in picture.plain


@pytest.mark.parametrize(
    ("events", "lane"),
    [
        ([LEGEND["v"].accepted(1), LEGEND["w"].accepted(2)], "- a b |"),
        (Timeline((Event(2_000, "a", Next(1)), Event(3_000, "a", Failed(ValueError("x"))))), "--a b"),
        (Timeline((Event(2_000, "a", Next(1)), Event(4_000, "b", Completed()))), "--a-|"),
        (Timeline(), "|"),
    ],
)
def test_envelopes_and_timelines_come_in_as_they_are(events: Any, lane: str) -> None:
    plain = diagrams.explain([ops.map(lambda item: item)], events).plain
    assert f"source  : {lane}" in plain.splitlines()


def test_what_is_no_pipeline_is_an_error() -> None:
    with pytest.raises(MacpSessionError, match="without operators explains nothing"):
        diagrams.explain([], source())
    with pytest.raises(MacpSessionError, match="str is no operator: of a stream it makes str"):
        diagrams.explain([str], source())
    with MacpClient.embedded(agent="chair") as client, pytest.raises(MacpSessionError, match="on a _IoClock"):
        diagrams.explain([ops.take(1)], client.session_events("00000000-0000-4000-8000-000000000000"))
