"""Simulations: five agents who decide by majority under a policy, from the SessionStart to the commitment."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable

import psutil

from benchmarks import Row
from macp_rx import SessionStart, agents
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision
from macp_rx.protocol.policy import VotingRules, build_decision_policy
from macp_rx.simulation import Simulation, simulate, sweep

__all__ = ["rows"]

NAMES = ("chair", "alice", "bob", "carol", "dave")
POLICY = build_decision_policy("policy.majority", "half of them", voting=VotingRules(algorithm="majority"))
START = SessionStart(
    mode=DECISION, intent="pick a rollout", participants=NAMES, ttl_ms=60_000, policy_version="policy.majority"
)
DAY = SessionStart(mode=DECISION, intent="wait", participants=NAMES, ttl_ms=86_400_000)
PROPOSAL = decision.propose("p1", "canary")
RUNS = 100
SWEPT = 10_000


def _approve(_proposal: object) -> str:
    return "APPROVE"


VOTERS = {name: agents.voter(_approve) for name in NAMES}
PANEL = {**VOTERS, "chair": agents.merge(VOTERS["chair"], agents.majority_committer(action="rollout.approved"))}


def vote(*, seed: int, timeline: bool = True) -> Simulation:
    """Seven messages: the start, a proposal, votes until three of five approve, the rest of them, the commitment."""
    return simulate(PANEL, START, opening=[PROPOSAL], policy=POLICY, seed=seed, timeline=timeline)


def _silent_day() -> Simulation:
    return simulate(VOTERS, DAY)


def rows(rounds: int) -> Iterable[Row]:
    """Sessions a second on one core, a sweep on all of them, what memory it takes, and a day."""
    for timeline, bar in ((True, 300), (False, 0)):
        rates = [_per_second(timeline) for _ in range(rounds)]
        rate = statistics.median(rates)
        what = f"simulated decision sessions of 5 agents under a policy, timeline {'recorded' if timeline else 'off'}: per core"
        yield Row(what, f"{rate:.0f}/s", "", "none", None, f"≥ {bar}/s" if bar else "", rate >= bar if bar else None)
    began = time.perf_counter()
    swept = sweep(vote, seeds=SWEPT, progress=False)
    seconds = time.perf_counter() - began
    cores = len(os.sched_getaffinity(0))
    yield Row(
        f"sweep of {len(swept)} of them on {cores} cores", f"{seconds:.1f} s", "", "none", None, "< 30 s", seconds < 30
    )
    grown = _growth()
    what = "2000 of them after 500: resident memory grows by"
    yield Row(what, f"{grown:.1f} MB", "", "none", None, "flat (≤ 2 MB)", grown <= 2)
    day = min(_cpu(_silent_day) for _ in range(rounds)) * 1000
    yield Row("a session of 24 hours in which nobody speaks", f"{day:.1f} ms", "", "none", None, "< 50 ms", day < 50)


def _cpu(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def _per_second(timeline: bool) -> float:
    return RUNS / _cpu(lambda: [vote(seed=seed, timeline=timeline) for seed in range(RUNS)])


def _growth() -> float:
    process = psutil.Process()
    for seed in range(500):
        vote(seed=seed)
    gc.collect()
    before = process.memory_info().rss
    for seed in range(2000):
        vote(seed=seed)
    gc.collect()
    return (process.memory_info().rss - before) / 1e6
