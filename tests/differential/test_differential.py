"""The embedded runtime against the real server: the same bytes to both, and the same answers from both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

import pytest

from macp_rx import Runtime
from macp_rx.transport.loop import LoopLease
from tests.conftest import RealServer, runtime_binary
from tests.differential.differences import KNOWN
from tests.differential.generator import MODES, generate
from tests.differential.runner import Report, compare

ENOUGH = 50
"""From so many sessions on, too few that come to their end are no chance."""

Serve = Callable[..., str]
Play = Callable[[str, str, Iterable[str]], Report]


@pytest.fixture
def real_servers() -> Iterator[Serve]:
    """Starts real servers, each fresh."""
    binary = runtime_binary()
    assert binary is not None
    servers: list[RealServer] = []

    def serve(**environment: str) -> str:
        servers.append(RealServer(binary, **environment))
        return servers[-1].target

    yield serve
    for server in servers:
        server.close()


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
