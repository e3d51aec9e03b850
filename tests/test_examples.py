"""The worked examples: the same story on each runtime, under virtual time and simulated; a page each; it prints what happens."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from macp_rx import Accepted, MacpClient, Runtime
from macp_rx.clock import VirtualClock
from macp_rx.simulation import simulate
from tests.conftest import Connect

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "examples").glob("*.py"))


@dataclass(frozen=True)
class Story:
    """What happens in an example.

    Attributes:
        initiator: who runs it.
        lines: what is accepted behind the SessionStart, as it prints, without what the commitment adds.
        seconds: how long it takes in virtual time.
    """

    initiator: str
    lines: str
    seconds: float


STORIES = {
    "rollout": Story(
        "lead",
        """
        2 lead Proposal: proposal_id='everywhere', option='all at once'
        3 security Objection: proposal_id='everywhere', reason='there is no way back', severity='critical'
        4 lead Proposal: proposal_id='canary', option='5 % of the traffic first', rationale='there is no way back'
        5 security Evaluation: proposal_id='canary', recommendation='APPROVE', confidence=0.9
        6 ops Vote: proposal_id='canary', vote='APPROVE'
        7 director Vote: proposal_id='canary', vote='APPROVE', reason='no vote from product'
        8 lead Commitment: action='rollout.approved'
        """,
        0.5,
    ),
    "negotiation": Story(
        "buyer",
        """
        2 buyer Proposal: proposal_id='1', title='80'
        3 seller CounterProposal: proposal_id='2', supersedes_proposal_id='1', title='120'
        4 buyer CounterProposal: proposal_id='3', supersedes_proposal_id='2', title='95'
        5 seller CounterProposal: proposal_id='4', supersedes_proposal_id='3', title='105'
        6 buyer Accept: proposal_id='4'
        7 buyer Commitment: action='deal.accepted'
        """,
        0,
    ),
    "delegation": Story(
        "planner",
        """
        2 planner TaskRequest: task_id='report', title='the figures of the third quarter'
        3 crawler TaskAccept: task_id='report', assignee='crawler'
        4 crawler TaskUpdate: task_id='report', progress=0.25, message='first page'
        5 crawler TaskUpdate: task_id='report', progress=0.5, message='second page'
        6 crawler TaskReject: task_id='report', reason='the third page does not load'
        7 archive TaskAccept: task_id='report', assignee='archive'
        8 archive TaskUpdate: task_id='report', progress=0.9, message="found last year's copy"
        9 archive TaskComplete: task_id='report', assignee='archive', output=b'the report'
        10 planner Commitment: action='task.completed'
        """,
        0.5,
    ),
    "handoff": Story(
        "nora",
        """
        2 nora HandoffOffer: handoff_id='incident-7', target_participant='dan', scope='the disk of db-3'
        3 nora HandoffContext: handoff_id='incident-7', content_type='text/plain', context=b'It fills up by 1 GB an hour. The old logs are gone already.'
        4 dan HandoffAccept: handoff_id='incident-7', accepted_by='dan', reason='implicit accept (timeout)', implicit=True
        5 nora Commitment: action='handoff.accepted'
        """,  # noqa: E501 - as it prints
        1.25,  # the runtime accepts after 0.5, and then it is silent for 0.75
    ),
    "two_person_approval": Story(
        "operator",
        """
        2 operator ApprovalRequest: request_id='r1', action='delete all data of customer 4711', required_approvals=2
        3 alice Approve: request_id='r1', reason='the customer has asked for it'
        4 bob Abstain: request_id='r1', reason='the customer is a friend'
        5 carol Approve: request_id='r1', reason='no invoice is open'
        6 operator Commitment: action='deletion.approved'
        """,
        0.3,
    ),
    "convergence": Story(
        "ana",
        """
        2 ana Contribute: value='3'
        3 ben Contribute: value='8'
        4 cleo Contribute: value='5'
        5 ben Contribute: value='7'
        6 ana Contribute: value='4'
        7 ben Contribute: value='6'
        8 ana Contribute: value='5'
        9 ben Contribute: value='5'
        10 ana Commitment: action='estimate.accepted'
        """,
        0,
    ),
    "panel": Story(
        "editor",
        """
        2 editor Proposal: proposal_id='text', option='Agents say what they want; a runtime decides what was said.'
        3 rule Vote: proposal_id='text', vote='APPROVE'
        4 small Vote: proposal_id='text', vote='APPROVE'
        5 broken Vote: proposal_id='text', vote='REJECT'
        6 hanging Vote: proposal_id='text', vote='ABSTAIN'
        7 large Vote: proposal_id='text', vote='APPROVE'
        8 editor Commitment: action='text.approved'
        """,
        0.5,
    ),
}
"""Of the examples that are one session."""


@contextmanager
def example(name: str, client: MacpClient) -> Iterator[Any]:
    """An example, whose policy is not left behind on a runtime that others use."""
    module = importlib.import_module(f"examples.{name}")
    yield module
    if hasattr(module, "POLICY"):
        client.unregister_policy(module.POLICY.policy_id)


def told(heard: list[Accepted]) -> list[str]:
    """What was accepted behind the SessionStart, as it prints; of the commitment who made it, and what it is to."""
    return [re.sub(r"(Commitment: action='[^']*').*", r"\1", str(accepted)) for accepted in heard[1:]]


def lines(story: str) -> list[str]:
    return [line.strip() for line in story.strip().splitlines()]


@pytest.mark.parametrize("name", STORIES)
def test_everybody_says_what_the_example_describes(connect: Connect, name: str) -> None:
    story, heard = STORIES[name], list[Accepted]()
    client = connect(story.initiator)
    with example(name, client) as module:
        outcome = module.coordinate(client, heard.append)
    assert told(heard) == lines(story.lines)
    assert (outcome.state, outcome.positive) == ("RESOLVED", True)


@pytest.mark.parametrize("name", STORIES)
def test_the_same_is_said_under_virtual_time(macp_runtime: Runtime, virtual_time: VirtualClock, name: str) -> None:
    story, heard = STORIES[name], list[Accepted]()
    with MacpClient.embedded(agent=story.initiator, runtime=macp_runtime) as client:
        with example(name, client) as module:
            outcome = module.coordinate(client, heard.append)
        assert virtual_time.seconds == story.seconds
    assert told(heard) == lines(story.lines)
    assert (outcome.state, outcome.positive) == ("RESOLVED", True)


@pytest.mark.parametrize("name", STORIES)
def test_the_same_is_said_in_a_simulation_and_nothing_is_refused(name: str) -> None:
    module: Any = importlib.import_module(f"examples.{name}")
    simulated = simulate(module.AGENTS, module.START, policy=getattr(module, "POLICY", None))
    assert told(list(simulated.accepted)) == lines(STORIES[name].lines)
    assert (simulated.outcome.state, simulated.seconds) == ("RESOLVED", STORIES[name].seconds)
    assert not simulated.refusals


def check_refunds(client: MacpClient) -> None:
    from examples import hundred_sessions

    by_session = defaultdict[str, list[Accepted]](list)
    outcomes = hundred_sessions.coordinate(client, lambda accepted: by_session[accepted.session_id].append(accepted))
    assert [outcome.state for outcome in outcomes] == ["RESOLVED"] * 100
    assert [outcome.positive for outcome in outcomes] == [amount <= 700 for amount in range(10, 1001, 10)]
    asked = set[int]()
    for heard in by_session.values():
        amount = int(heard[1].payload.option)  # type: ignore[attr-defined]
        asked.add(amount)
        assert [f"{accepted.sender} {accepted.message_type}" for accepted in heard] == [
            "desk SessionStart",
            "desk Proposal",
            "risk Vote",
            *(["audit Vote"] if amount <= 700 else []),
            "desk Commitment",
        ]
    assert asked == set(range(10, 1001, 10))


def test_a_hundred_sessions_do_not_mix(connect: Connect) -> None:
    check_refunds(connect("desk"))


def test_a_hundred_sessions_do_not_mix_under_virtual_time(macp_runtime: Runtime) -> None:
    with MacpClient.embedded(agent="desk", runtime=macp_runtime) as client:
        check_refunds(client)


def test_each_example_is_tested() -> None:
    assert [page.stem for page in PAGES] == sorted([*STORIES, "hundred_sessions"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_an_example_is_a_page_that_says_what_happens_and_stands_in_the_docs(page: Path) -> None:
    text = page.read_text()
    assert len(text.splitlines()) <= 80
    assert len((ast.get_docstring(ast.parse(text)) or "").splitlines()) >= 5
    assert f"python examples/{page.name}" in (ROOT / "docs" / "examples.md").read_text()


def printed_by(page: Path) -> str:
    ran = subprocess.run([sys.executable, page], capture_output=True, text=True, check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    # a machine that is busy with something else may hold any callback for longer than 100 ms, and then it is told
    assert [line for line in ran.stderr.splitlines() if " held the I/O thread for " not in line] == []
    return ran.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_an_example_prints_what_happens(page: Path) -> None:
    printed = printed_by(page)
    assert printed.splitlines()[-1].startswith("RESOLVED: ")
    if page.stem in STORIES:
        for line in lines(STORIES[page.stem].lines):
            assert line in printed


def test_the_docs_show_what_the_rollout_prints() -> None:
    (shown,) = re.findall(r"<!-- printed -->\n```\n(.*?)```", (ROOT / "docs" / "examples.md").read_text(), re.DOTALL)
    assert shown == printed_by(ROOT / "examples" / "rollout.py")
