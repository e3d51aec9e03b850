"""The embedded runtime against the real server: the same bytes to both, and the same answers from both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from macp_rx import Runtime
from macp_rx.runtime import Settings, static_tokens
from macp_rx.transport.loop import LoopLease
from tests.conftest import running_server
from tests.differential.differences import KNOWN
from tests.differential.generator import MODES, generate
from tests.differential.runner import Report, compare
from tests.differential.steps import PAYLOADS

ENOUGH = 50
"""From so many sessions on, too few that come to their end are no chance."""

Serve = Callable[..., str]
Play = Callable[[str, str, Iterable[str]], Report]


@pytest.fixture
def real_servers() -> Iterator[Serve]:
    """Starts real servers, each fresh."""
    with ExitStack() as stack:

        def serve(**environment: str) -> str:
            return stack.enter_context(running_server(**environment)).target

        yield serve


@pytest.fixture
def play() -> Iterator[Play]:
    """Plays seeds on two targets, on the loop that the embedded runtime uses: grpc.aio wants one loop in a process."""
    lease = LoopLease()

    def play(real: str, ours: str, seeds: Iterable[str]) -> Report:
        work = compare(real, ours, map(generate, seeds))
        return asyncio.run_coroutine_threadsafe(work, lease.clock.loop).result()

    yield play
    lease.release()


def check(report: Report) -> None:
    if report.divergences:
        pytest.fail(report.fail_text(), pytrace=False)


@pytest.mark.server
def test_both_runtimes_answer_the_same(seeds: list[str], real_servers: Serve, play: Play, reports: list[str]) -> None:
    with Runtime() as runtime, runtime.serve() as served:
        report = play(real_servers(), served.target, seeds)
    reports.append(f"{seeds[0]} and on: {report}")
    check(report)
    if len(seeds) >= ENOUGH:
        assert report.resolved >= len(seeds) / 3, "most sessions should come to a commitment"


@pytest.mark.server
def test_both_runtimes_give_tokens_the_same_rights(
    seeds_of_all: list[str], real_servers: Serve, play: Play, reports: list[str], tmp_path: Path
) -> None:
    tokens = random_tokens(seeds_of_all)
    file = tmp_path / "tokens.json"  # and not a variable: 500 sessions have more tokens than one may hold
    file.write_text(tokens)
    with Runtime(identify=static_tokens(tokens)) as runtime, runtime.serve() as served:
        report = play(real_servers(MACP_AUTH_TOKENS_FILE=str(file)), served.target, seeds_of_all)
    reports.append(f"tokens: {report}")
    check(report)


@pytest.mark.server
def test_both_runtimes_keep_the_same_limits(
    seeds_of_all: list[str], real_servers: Serve, play: Play, reports: list[str]
) -> None:
    limits = Settings(
        max_payload_bytes=400, default_page_size=2, max_page_size=3, starts_per_minute=3, messages_per_minute=9
    )
    limited = real_servers(
        MACP_MAX_PAYLOAD_BYTES="400",
        MACP_LIST_SESSIONS_DEFAULT_PAGE_SIZE="2",
        MACP_LIST_SESSIONS_MAX_PAGE_SIZE="3",
        MACP_SESSION_START_LIMIT_PER_MINUTE="3",
        MACP_MESSAGE_LIMIT_PER_MINUTE="9",
    )
    with Runtime(settings=limits) as runtime, runtime.serve() as served:
        report = play(limited, served.target, seeds_of_all)
    reports.append(f"limits: {report}")
    check(report)


@pytest.mark.server
def test_both_runtimes_forget_the_same_histories(
    seeds_of_all: list[str], real_servers: Serve, play: Play, reports: list[str], tmp_path: Path
) -> None:
    compacting = real_servers(MACP_MEMORY_ONLY="0", MACP_DATA_DIR=str(tmp_path))
    with Runtime(settings=Settings(compact_ended=True)) as runtime, runtime.serve() as served:
        report = play(compacting, served.target, seeds_of_all)
    reports.append(f"compaction: {report}")
    check(report)


def random_tokens(seeds: Iterable[str]) -> str:
    """A file of static tokens: every agent's name is its token, most may do what they need, some lack a right or the token."""
    tokens: list[dict[str, object]] = [{"token": "judge", "sender": "judge"}]
    for scenario in map(generate, seeds):
        random = Random(f"rights of {scenario.seed}")
        for agent in sorted(scenario.agents):
            rights: dict[str, object] = {"token": agent, "sender": agent}
            if random.random() < 0.15:
                rights["allowed_modes"] = random.sample([*PAYLOADS, "ext.none"], random.randint(0, 5))
            if random.random() < 0.1:
                rights["can_start_sessions"] = False
            if random.random() < 0.2:
                rights["max_open_sessions"] = random.randint(0, 2)
            if random.random() < 0.7:
                rights["can_manage_mode_registry"] = True
            if random.random() < 0.15:
                rights["is_observer"] = True
            if random.random() < 0.05:
                rights["sender"] = random.choice(sorted(scenario.agents))
            if random.random() < 0.95:
                tokens.append(rights)
    return json.dumps(tokens)


@pytest.mark.server
def test_the_judge_finds_nothing_between_two_real_servers(real_servers: Serve, play: Play) -> None:
    seeds = [f"{mode}:{number}" for mode in MODES for number in range(5)]
    report = play(real_servers(), real_servers(), seeds)
    check(report)
    assert set(report.known) <= {"lost status"}


@pytest.mark.server
def test_the_judge_finds_what_differs_and_tells_where(real_servers: Serve, play: Play) -> None:
    small = real_servers(MACP_MAX_PAYLOAD_BYTES="100")
    report = play(real_servers(), small, ["decision:1", "quorum:1"])
    told = report.fail_text()
    assert len(report.divergences) == 2
    assert "PAYLOAD_TOO_LARGE" in told
    assert "SessionStart" in told
    assert "--differential-seed decision:1" in told


def test_every_wanted_difference_has_its_reason() -> None:
    assert len({known.name for known in KNOWN}) == len(KNOWN)
    assert all(len(known.reason) > 30 for known in KNOWN)
