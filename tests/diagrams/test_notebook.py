"""Rich output: what IPython makes of our values."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import reactivex as rx
from IPython.core.formatters import DisplayFormatter

from macp_rx import Accepted, DecisionSession, MacpClient, MacpSessionError
from macp_rx import operators as mo
from macp_rx.diagrams import notebook
from macp_rx.protocol.modes import decision, handoff, multi_round, proposal, quorum, task
from macp_rx.simulation import Record, Sweep
from macp_rx.timeline import Next
from tests.diagrams.reading import Drawn
from tests.diagrams.stories import fixture, long, rollout


@pytest.fixture
def shell() -> Any:
    """As much of an IPython as shows values."""
    return SimpleNamespace(display_formatter=DisplayFormatter())


def shown(shell: Any, value: object) -> tuple[list[str], str]:
    """The texts in the picture, and the text beside it."""
    bundle, _metadata = shell.display_formatter.format(value)
    assert set(bundle) == {"image/svg+xml", "text/plain"}
    return Drawn(bundle["image/svg+xml"]).texts, bundle["text/plain"]


def test_timelines_and_simulations(shell: Any) -> None:
    notebook.register(shell)
    run = rollout()
    texts, plain = shown(shell, run)
    assert str(run) in texts
    assert "Commitment" in texts
    assert plain == str(run)
    texts, plain = shown(shell, fixture("quorum_happy_path"))
    assert "ApprovalRequest" in texts
    assert plain.splitlines()[:3] == str(fixture("quorum_happy_path")).splitlines()[:3]
    assert "b = 2 agent://coordinator ApprovalRequest: request_id='r1'" in plain
    assert shown(shell, long(1_000))[1] == "a Timeline of 1000 events on 3 lanes"


def test_a_simulation_without_a_timeline_tells_its_outcome(shell: Any) -> None:
    from dataclasses import replace

    notebook.register(shell)
    assert "rollout.approved" in shown(shell, replace(rollout(), timeline=None))[0]


def test_verdicts_outcomes_tallies(shell: Any) -> None:
    notebook.register(shell)
    verdict = mo.Verdict("p1", False, "a majority can no longer approve", mo.Count(0, 2, 0))
    texts, plain = shown(shell, verdict)
    assert texts[0] == "Verdict: against p1"
    assert plain.splitlines()[1:] == [
        "  reason  a majority can no longer approve",
        "  votes   0 approve, 2 reject, 0 abstain",
    ]
    assert "no verdict in time" in shown(shell, mo.UNDECIDED)[0]
    assert shown(shell, rollout().outcome)[1].splitlines()[0] == "RESOLVED"
    texts, plain = shown(shell, mo.Tally().plus("p2", "REJECT").plus("p1", "APPROVE"))
    assert plain.splitlines() == [
        "Tally",
        "  p1  1 approve, 0 reject, 0 abstain",
        "  p2  0 approve, 1 reject, 0 abstain",
    ]
    assert "1 approve, 0 reject, 0 abstain" in texts


@pytest.mark.parametrize(
    ("mode", "story", "row"),
    [
        (decision, "decision_reject_paths", "  votes      p1 (agent://a: APPROVE, good)"),
        (proposal, "proposal_happy_path", "  accepts       agent://buyer: p1; agent://seller: p1"),
        (task, "task_happy_path", "  current_assignee  agent://worker"),
        (handoff, "handoff_happy_path", "  commitment  handoff.accepted"),
        (quorum, "quorum_happy_path", "  ballots       agent://alice: Approve, lgtm; agent://bob: Approve, ship it"),
        (multi_round, "multi_round_happy_path", "  contributions  agent://alice: option_a; agent://bob: option_a"),
    ],
    ids=lambda given: given if isinstance(given, str) and "_path" in given else "",
)
def test_the_state_of_every_mode(shell: Any, mode: Any, story: str, row: str) -> None:
    notebook.register(shell)
    said = [event.what.value for event in fixture(story).events if isinstance(event.what, Next)]
    states: list[Any] = []
    accepted = rx.from_iterable(one for one in said if isinstance(one, Accepted))
    accepted.pipe(mo.states(mode)).subscribe(states.append)
    texts, plain = shown(shell, states[-1])
    assert texts[0] == plain.splitlines()[0] == f"{mode.__name__.rpartition('.')[2]}: {states[-1].phase}"
    assert row in plain.splitlines()


def test_sweeps_and_sessions(shell: Any) -> None:
    notebook.register(shell)
    records = [Record({"rule": "majority"}, seed, "RESOLVED", True, 2.0 + seed, 6, 0, (), "") for seed in range(10)]
    texts, plain = shown(shell, Sweep(records))
    assert "rule=majority" in texts
    assert plain == str(Sweep(records))
    with MacpClient.embedded(agent="chair") as client:
        session = DecisionSession(client)
        texts, plain = shown(shell, session)
        assert session.session_id in texts
        assert plain == repr(session)


def test_it_is_an_extension_that_can_be_taken_away(shell: Any) -> None:
    before = shell.display_formatter.format(mo.UNDECIDED)
    notebook.load_ipython_extension(shell)
    assert shell.display_formatter.format(mo.UNDECIDED) != before
    notebook.unload_ipython_extension(shell)
    assert shell.display_formatter.format(mo.UNDECIDED) == before


def test_outside_of_ipython_it_says_so() -> None:
    with pytest.raises(MacpSessionError, match="there is no IPython here"):
        notebook.register()


def test_importing_it_needs_no_ipython() -> None:
    import subprocess
    import sys

    code = "import sys, macp_rx.diagrams.notebook; print('IPython' in sys.modules, 'cairosvg' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert printed.stdout == "False False\n"
