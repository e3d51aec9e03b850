"""One coordination under virtual time: runtime, clients, operators and agents on one clock, in one thread."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from random import Random
from typing import Any, TypeVar

from macp.v1.core_pb2 import ModeDescriptor
from macp.v1.policy_pb2 import PolicyDescriptor

from macp_rx.client import MacpClient
from macp_rx.clock import VirtualClock
from macp_rx.errors import Denial, MacpAckError, MacpSessionError
from macp_rx.protocol.messages import Accepted, Message
from macp_rx.protocol.start import SessionStart
from macp_rx.runtime import Runtime, Settings
from macp_rx.session import Agent, Outcome, Session
from macp_rx.simulation.conditions import PERFECT, Conditions, Link, behaving
from macp_rx.timeline import Completed, Event, Failed, Next, Timeline, exactly_equal
from macp_rx.transport.auth import AuthConfig

__all__ = ["Refusal", "Simulation", "simulate"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the runtime did not accept.

    Attributes:
        sender: who said it.
        message_type: what it was.
        code: why, such as ``POLICY_DENIED``.
        denials: the policy's reasons, if it was the policy.
    """

    sender: str
    message_type: str
    code: str
    denials: tuple[Denial, ...] = ()


@dataclass(frozen=True, slots=True)
class Simulation:
    """What happened in one run. Equal settings and seed give an equal one, in every process.

    Attributes:
        start: what the session was opened with.
        seed: of its chance.
        accepted: the session's history.
        outcome: how it ended.
        seconds: virtual seconds from the start to the end.
        refusals: what the runtime did not accept, in order.
        errors: agent -> what ended it, for agents that did not live to the end.
        timeline: who said what when, a lane for each; refusals among it. None where it was not wanted.
    """

    start: SessionStart
    seed: int
    accepted: tuple[Accepted, ...]
    outcome: Outcome
    seconds: float
    refusals: tuple[Refusal, ...] = ()
    errors: Mapping[str, Exception] = field(default_factory=dict[str, Exception], hash=False)
    timeline: Timeline | None = None

    def __eq__(self, other: object) -> bool:  # to Python, no error equals another
        return isinstance(other, Simulation) and all(
            exactly_equal(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)
        )

    def said_by(self, sender: str) -> tuple[Accepted, ...]:
        """What one agent said, and the runtime accepted."""
        return tuple(accepted for accepted in self.accepted if accepted.sender == sender)

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """(sender, message type) -> how often."""
        return Counter((accepted.sender, accepted.message_type) for accepted in self.accepted)

    @property
    def digest(self) -> str:
        """A hash of the history, byte for byte, of the outcome and of the time it took: equal runs have equal ones."""
        digest = hashlib.sha256()
        for accepted in self.accepted:
            digest.update(accepted.envelope.SerializeToString(deterministic=True))
        digest.update(f"{self.outcome.state} {self.seconds!r} {self.refusals!r} {sorted(self.errors)}".encode())
        return digest.hexdigest()

    def __str__(self) -> str:
        happened = f"{len(self.accepted)} accepted, {len(self.refusals)} refused"
        ended = "".join(f"; {name} ended with {error!r}" for name, error in self.errors.items())
        return f"{self.outcome.state} after {self.seconds:g} s, {happened}{ended}"


def simulate(
    agents: Mapping[str, Agent],
    start: SessionStart,
    *,
    opening: Sequence[Message[Any]] = (),
    initiator: str | None = None,
    policy: PolicyDescriptor | None = None,
    modes: Sequence[ModeDescriptor] = (),
    conditions: Conditions | Mapping[str, Conditions] = PERFECT,
    settings: Settings | None = None,
    seed: int = 0,
    timeline: bool = True,
) -> Simulation:
    """Runs a coordination to its end, under virtual time, and tells what happened.

    Agents, client, operators and runtime are the ones that run in production. The calling thread does it all; nothing else has
    a clock, an id or chance. The run ends with the session: what is on its way to an agent then, nobody hears.

    Args:
        agents: name -> what it does. Agents keep their state in their pipelines, so that they can be used again.
        start: what the session is opened with.
        opening: what the initiator says first, behind the SessionStart, and before any agent speaks.
        initiator: who opens it; the first of the agents by default. Need not be an agent.
        policy: one to register before, which ``start.policy_version`` names.
        modes: extension modes to register before, one of which ``start.mode`` names.
        conditions: what it is like for all, or for those that are named.
        settings: the runtime's limits.
        seed: of ids, jitter and conditions.
        timeline: record who said what when.

    Raises:
        MacpSessionError: agents without a name; a name in ``conditions`` that nobody has.
        MacpAckError: the runtime refused the SessionStart or the opening.
        MacpRefusedError: the runtime refused a policy or a mode.
    """
    if not agents and initiator is None:
        raise MacpSessionError("a simulation needs agents, or an initiator at the least")
    initiator = next(iter(agents)) if initiator is None else initiator
    given = conditions if isinstance(conditions, Mapping) else dict.fromkeys(agents, conditions)
    unknown = sorted(set(given) - set(agents))
    if unknown:
        raise MacpSessionError(f"conditions names {', '.join(unknown)}, and the agents are {', '.join(agents)}")
    clock = VirtualClock(seed)
    runtime = Runtime(clock=clock, settings=settings, policies=() if policy is None else (policy,))
    recorder = _Recorder(clock)
    client = MacpClient.over(runtime.connect(), auth=AuthConfig.for_dev_agent(initiator))
    for mode in modes:
        client.register_ext_mode(mode)
    session = Session.open(client, start)
    for message in opening:
        session.send(message)
    begun = clock.time
    session.events.subscribe(recorder.accepted)
    links: list[MacpClient] = []
    for name, agent in agents.items():
        its = given.get(name, PERFECT)
        random = Random(f"{seed} {name}")
        if its.is_local:
            taking_part = session.acting_as(name)
        else:
            link = Link(runtime.connect(), its, random)
            links.append(MacpClient.over(link, auth=AuthConfig.for_dev_agent(name)))
            taking_part = Session.at(links[-1], session.address)
        # without a network all hear the same at the same instant, and one stream for them all is twice as fast (measured)
        events = session.events if its.is_local and name in start.participants else taking_part.events
        report = partial(recorder.error, name)
        taking_part.spoken(behaving(agent, its, random, clock), events, report).subscribe(on_error=report)
    outcome = session.outcome.run()
    seconds = (clock.time - begun) / 1_000_000
    for each in (client, *links):
        each.close()
    runtime.close()
    return Simulation(
        start,
        seed,
        tuple(recorder.history),
        outcome,
        seconds,
        tuple(recorder.refusals),
        recorder.errors,
        recorder.timeline(agents) if timeline else None,
    )


class _Recorder:
    """What is noted during a run."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._times: list[int] = []
        self.history: list[Accepted] = []
        self.refusals: list[Refusal] = []
        self.errors: dict[str, Exception] = {}
        self._events: list[Event] = []

    def accepted(self, accepted: Accepted) -> None:
        self.history.append(accepted)
        self._events.append(Event(self._clock.time, accepted.sender, Next(accepted)))

    def error(self, name: str, error: Exception) -> None:
        if isinstance(error, MacpAckError):
            refusal = Refusal(name, error.what, error.code, tuple(error.denials))
            self.refusals.append(refusal)
            self._events.append(Event(self._clock.time, name, Next(refusal)))
        else:
            self.errors[name] = error
            self._events.append(Event(self._clock.time, name, Failed(error)))

    def timeline(self, agents: Mapping[str, Agent]) -> Timeline:
        ended = [Event(self._clock.time, name, Completed()) for name in agents if name not in self.errors]
        return Timeline((*self._events, *ended))
