"""Plays scenarios on two runtimes at once and tells where they differ."""

from __future__ import annotations

import asyncio
import pprint
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.differential.answers import Plain
from tests.differential.differences import KNOWN, Situation
from tests.differential.steps import Frame, Scenario
from tests.differential.targets import Conversation, Target, connected

__all__ = ["Divergence", "Report", "compare"]

IN_FLIGHT = 24
"""Scenarios at once; each has three streams at most."""


@dataclass(frozen=True)
class Divergence:
    """The first place where a scenario went differently.

    Attributes:
        scenario: its scenario.
        step: the number of the step, from 1; None for what the watches told.
        what: the step in words.
        real: what the real server answered.
        ours: what the embedded runtime answered.
        before: the steps before, in words, each with its answer.
    """

    scenario: Scenario
    step: int | None
    what: str
    real: Plain
    ours: Plain
    before: tuple[str, ...]

    def __str__(self) -> str:
        place = f"step {self.step} of {len(self.scenario.steps)}" if self.step else "at the end"
        return "\n".join(
            [
                f"=== {self.scenario.seed}, {place}: {self.what}",
                "  what differs:",
                *(f"    {line}" for line in _differing(self.real, self.ours)),
                "  real server:",
                _indented(self.real),
                "  embedded runtime:",
                _indented(self.ours),
                "  before it:",
                *(f"    {line}" for line in self.before),
                f"  again: pytest tests/differential --differential-seed {self.scenario.seed}",
            ]
        )


@dataclass
class Report:
    """What came of a run.

    Attributes:
        sessions: how many scenarios were played.
        steps: how many steps were compared.
        resolved: how many scenarios brought a session to its resolution on the real server.
        known: wanted differences by name, and how often they were met.
        divergences: the others.
    """

    sessions: int = 0
    steps: int = 0
    resolved: int = 0
    known: Counter[str] = field(default_factory=Counter)
    divergences: list[Divergence] = field(default_factory=list)

    def __str__(self) -> str:
        known = ", ".join(f"{name} {count}" for name, count in sorted(self.known.items())) or "none"
        return (
            f"{self.sessions} sessions, {self.steps} steps, {self.resolved} resolved; "
            f"wanted differences: {known}; divergences: {len(self.divergences)}"
        )

    def fail_text(self, limit: int = 5) -> str:
        """The first divergences in full, and the seeds of all."""
        shown = "\n\n".join(str(divergence) for divergence in self.divergences[:limit])
        seeds = " ".join(divergence.scenario.seed for divergence in self.divergences)
        return f"{self}\n\n{shown}\n\nseeds: {seeds}"


async def compare(real: str, ours: str, scenarios: Iterable[Scenario]) -> Report:
    """Plays scenarios on both targets, many at once, each step on both before the next.

    Args:
        real: where the real server listens.
        ours: where the embedded runtime does.
        scenarios: what to play.
    """
    report = Report()
    places = asyncio.Semaphore(IN_FLIGHT)
    played: list[tuple[Scenario, tuple[str, ...]]] = []
    async with connected("the real server", real) as server, connected("the embedded runtime", ours) as embedded:
        await asyncio.gather(server.begin(), embedded.begin())

        async def play(scenario: Scenario) -> None:
            async with places:
                log = await _play(scenario, server, embedded, report)
            if log is not None:
                played.append((scenario, log))

        async with asyncio.TaskGroup() as group:
            for scenario in scenarios:
                group.create_task(play(scenario))
        await asyncio.gather(server.end(), embedded.end())
        for scenario, log in played:
            _compare_watches(scenario, log, server, embedded, report)
        report.resolved = sum(_resolved(scenario, server) for scenario, _log in played)
    return report


async def _play(scenario: Scenario, server: Target, embedded: Target, report: Report) -> tuple[str, ...] | None:
    """Plays one scenario up to its first divergence. Returns its log if it came to its end."""
    report.sessions += 1
    real, ours = Conversation(scenario, server), Conversation(scenario, embedded)
    log: list[str] = []
    try:
        for number, step in enumerate(scenario.steps, start=1):
            told, said = await asyncio.gather(real.take(step), ours.take(step))
            report.steps += 1
            if told != said:
                # listed and not watched: what a watch tells may come after the answer
                sessions = await embedded.listed(scenario.session_ids)
                situation = Situation(scenario, step, told, said, sessions)
                known = next((known for known in KNOWN if known.explains(situation)), None)
                if known is None:
                    report.divergences.append(Divergence(scenario, number, str(step), told, said, tuple(log)))
                    return None
                report.known[known.name] += 1
                if known.ends:
                    return None
                if isinstance(step, Frame) and real.over(step.stream) != ours.over(step.stream):
                    real.leave(step.stream)
                    ours.leave(step.stream)
            log.append(f"{number}. {step} -> {_brief(told)}")
        return tuple(log)
    finally:
        real.give_up()
        ours.give_up()


def _compare_watches(
    scenario: Scenario, log: tuple[str, ...], server: Target, embedded: Target, report: Report
) -> None:
    for session_id in sorted(scenario.session_ids):
        told, said = server.lifecycle.get(session_id, []), embedded.lifecycle.get(session_id, [])
        if told != said:
            what = f"WatchSessions told of {session_id!r}"
            report.divergences.append(Divergence(scenario, None, what, told, said, log))
    for agent in sorted(scenario.agents):
        told, said = server.signals.get(agent, []), embedded.signals.get(agent, [])
        if told != said:
            what = f"WatchSignals told of {agent!r}"
            report.divergences.append(Divergence(scenario, None, what, told, said, log))


def _resolved(scenario: Scenario, server: Target) -> bool:
    return any(
        event["event"] == "EVENT_TYPE_RESOLVED"
        for session_id in scenario.session_ids
        for event in server.lifecycle.get(session_id, [])
    )


def _brief(answer: Plain) -> str:
    """An answer on one line."""
    match answer:
        case {"ack": {"error": {"code": code, "details": details}}}:
            return f"{code} {details or ''}".rstrip()
        case {"ack": {"ok": True, "duplicate": duplicate, "session_state": state}}:
            return f"ok, {state}{', duplicate' if duplicate else ''}"
        case {"status": status, "code": code, "details": details}:
            return f"{status} {code} {details or ''}".rstrip()
        case {"error": {"code": code, "message_id": message_id, "details": details}}:
            return f"{code} for {message_id!r} {details or ''}".rstrip()
        case {"message_type": message_type, "message_id": message_id, "timestamp_unix_ms": stamp}:
            return f"{message_type} {message_id!r} at {stamp}"
        case {"ended": how}:
            return f"ended with {_brief(how)}"
        case {"event": str(event)}:
            return event
        case list():
            return f"[{', '.join(map(_brief, answer))}]"
    text = pprint.pformat(answer, width=10_000, compact=True)
    return text if len(text) <= 500 else f"{text[:500]}…"


def _differing(real: Plain, ours: Plain, path: str = "") -> Iterator[str]:
    if isinstance(real, dict) and isinstance(ours, dict):
        for key in [*real, *(key for key in ours if key not in real)]:
            yield from _differing(real.get(key, "(nothing)"), ours.get(key, "(nothing)"), f"{path}.{key}")
    elif isinstance(real, list) and isinstance(ours, list) and len(real) == len(ours):
        for index, (told, said) in enumerate(zip(real, ours, strict=True)):
            yield from _differing(told, said, f"{path}[{index}]")
    elif real != ours:
        yield f"{path or 'answer'}: real {_brief(real)}, embedded {_brief(ours)}"


def _indented(answer: Plain) -> str:
    text = pprint.pformat(answer, width=130, sort_dicts=False)
    return "\n".join(f"    {line}" for line in text[:4000].splitlines())
