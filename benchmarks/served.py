"""Agents that serve all sessions: 500 decisions at once in one process, its runtime included. There is no peer.

Each session has three voters, each served under an identity of its own, and a committer. First all sessions are opened, and the
agents are there; then a proposal is made in each, and all of them must be resolved.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

import psutil
import reactivex as rx
from macp.v1 import core_pb2
from reactivex import Observable

from benchmarks import Row, wait_for
from macp_rx import Accepted, Agent, DecisionSession, MacpClient, Outcome, Runtime, SessionStart, Stream, agents
from macp_rx import operators as mo
from macp_rx.protocol.messages import DECISION

__all__ = ["rows"]

SESSIONS = 500
VOTERS = ("alice", "bob", "carol")
RUNS = 3


def rows(rounds: int) -> Iterable[Row]:
    """From the first proposal to the last outcome; and what a session with its agents takes while it waits."""
    del rounds  # each run is a process of its own
    runs = [_measured() for _ in range(RUNS)]
    each = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    what = f"agents.serve, {SESSIONS} decisions at once, 3 voters and a committer, embedded runtime and all"
    resolved = f"{each['resolved']:.0f}"
    yield Row(f"{what}: resolved", resolved, "", "none", None, f"{SESSIONS}", each["resolved"] == SESSIONS)
    yield Row(f"{what}: CPU per session", f"{each['cpu'] * 1e3:.2f} ms", "", "none", None, "", None)
    yield Row(f"{what}: wall clock per session", f"{each['wall'] * 1e3:.2f} ms", "", "none", None, "", None)
    yield Row(f"{what}: memory per open session", f"{each['memory'] / 1000:.0f} kB", "", "none", None, "", None)


def _measured() -> dict[str, float]:
    printed = subprocess.run([sys.executable, "-m", "benchmarks.served"], check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(printed.stdout)
    return figures


def _run() -> dict[str, float]:
    with Runtime() as runtime:
        chair = MacpClient.embedded(agent="chair", runtime=runtime)
        _warm(chair)
        ended = threading.Event()
        outcomes: list[Outcome] = []

        def resolved(outcome: Outcome) -> None:
            outcomes.append(outcome)
            if len(outcomes) == SESSIONS:
                ended.set()

        clients = [chair, *(MacpClient.embedded(agent=name, runtime=runtime) for name in VOTERS)]
        agents.serve(chair, _committer())
        for client in clients[1:]:
            agents.serve(client, agents.voter(_approve))
        chair.each_session(_outcome).subscribe(resolved)
        before = psutil.Process().memory_info().rss
        sessions = [_open(chair, number) for number in range(SESSIONS)]
        _settled(clients)
        memory = psutil.Process().memory_info().rss - before
        wall, cpu = time.monotonic(), time.process_time()
        rx.merge(*(session.rx.propose("p1", "canary") for session in sessions)).subscribe()
        wait_for(ended)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        positive = sum(outcome.state == "RESOLVED" and outcome.positive for outcome in outcomes)
        for client in clients:
            client.close()
    return {"resolved": positive, "wall": wall / SESSIONS, "cpu": cpu / SESSIONS, "memory": memory / SESSIONS}


def _open(chair: MacpClient, number: int) -> DecisionSession:
    start = SessionStart(
        mode=DECISION,
        intent=f"rollout {number}",
        participants=["chair", *VOTERS],
        ttl_ms=600_000,
        policy_version="policy.std.majority",
    )
    return DecisionSession.open(chair, start)


def _warm(chair: MacpClient) -> None:
    """One session to its end, so that imports and code paths are no part of what is measured."""
    session = _open(chair, 0)
    session.propose("p1", "canary")
    panel: dict[str, Agent] = {name: agents.voter(_approve) for name in VOTERS}
    agents.run(session, {**panel, "chair": _committer()})


def _committer() -> Agent:
    return agents.majority_committer(action="rollout.approved", electorate=VOTERS)


def _settled(clients: list[MacpClient]) -> None:
    """Waits until the agents hear every session: each has a subscription to it, and one to what sessions there are."""
    expected = SESSIONS + 1
    done = threading.Event()

    def look() -> None:
        if all(len(client.subscriptions) >= expected for client in clients):
            done.set()
        else:
            clients[0].clock.run_later(0.05, look)

    clients[0].clock.run_soon(look)
    wait_for(done)


def _approve(_proposal: object) -> str:
    return "APPROVE"


def _outcome(_metadata: core_pb2.SessionMetadata, events: Stream[Accepted]) -> Observable[Outcome]:
    return events.pipe(mo.outcome())


if __name__ == "__main__":
    print(json.dumps(_run()))
