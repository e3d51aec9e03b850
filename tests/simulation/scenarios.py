"""What the tests of this room simulate: functions of a module, so that another process can import them."""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from macp_rx import Agent, SessionStart, agents
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision
from macp_rx.simulation import PERFECT, Conditions, Exponential, LogNormal, Simulation, simulate
from macp_rx.simulation.chance import Number

NAMES = ("chair", "alice", "bob", "carol", "dave")
START = SessionStart(mode=DECISION, intent="pick a rollout", participants=NAMES, ttl_ms=60_000)
PROPOSAL = decision.propose("p1", "canary")


def always(vote: str) -> Callable[[object], str]:
    return lambda _proposal: vote


def panel(**votes: str) -> Mapping[str, Agent]:
    """All approve unless it is said otherwise; the chair commits."""
    voters = {name: agents.voter(always(votes.get(name, "APPROVE"))) for name in NAMES}
    chair = agents.majority_committer(action="rollout.approved", declined="rollout.declined")
    return {**voters, "chair": agents.merge(voters["chair"], chair)}


def vote(thinking: Number = 0.0, latency: Number = 0.0, *, seed: int) -> Simulation:
    """A vote of five."""
    conditions = Conditions(thinking=thinking, latency=latency)
    return simulate(panel(), START, opening=[PROPOSAL], conditions=conditions, seed=seed)


def vote_under(conditions: Conditions = PERFECT, *, seed: int) -> Simulation:
    """The same under any conditions."""
    return simulate(panel(), START, opening=[PROPOSAL], conditions=conditions, seed=seed)


def broken(fails_at: int = 3, *, seed: int) -> Simulation:
    """One run that fails."""
    if seed == fails_at:
        raise ValueError("no such rollout")
    return vote(seed=seed)


def fatal(*, seed: int) -> Simulation:
    """A run that takes its process with it."""
    os._exit(3)


def dies_once(mark: Path, *, seed: int) -> Simulation:
    """A run whose first process is killed in the middle of it, as by an operator or by the system when memory is short."""
    if seed == 70 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return vote(seed=seed)


PAIR = threading.Barrier(2)


def two_at_a_time(*, seed: int) -> Simulation:
    """A run that begins when another thread begins one."""
    PAIR.wait(30)
    return vote(seed=seed)


def process(simulation: Simulation) -> dict[str, object]:
    """A measure that tells who measured."""
    return {"process": os.getpid(), "said": len(simulation.said_by("alice"))}


EXAMPLES = (
    *("rollout", "negotiation", "delegation", "handoff", "two_person_approval", "convergence", "panel"),
    "hundred_sessions",
)


def example(name: str, *, seed: int) -> Simulation:
    """A worked example; of the one with many sessions, the one of this seed."""
    module = importlib.import_module(f"examples.{name}")
    start = module.STARTS[seed % len(module.STARTS)] if hasattr(module, "STARTS") else module.START
    conditions = Conditions(latency=LogNormal(0.01), cut_every=Exponential(0.5), outage=0.01, duplicated=0.3)
    return simulate(module.AGENTS, start, policy=getattr(module, "POLICY", None), conditions=conditions, seed=seed)
