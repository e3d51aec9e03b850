"""Agents that are killed by SIGKILL, again and again, and what they coordinate.

Every agent's messages have one order, whatever happens when: each waits for the one before. Alice and bob ask a slow oracle, wait
for timers, say the same several times, and are refused things.

Run as a process: ``python -m tests.chaos.mortal target memory asked agent…``. For each line on its input it forks, so that a life
costs no start of Python. ``events N`` lives until its N-th event, which is something heard, said, or written into the memory,
before and after it; ``seconds T`` is killed from outside, wherever it is then; ``on`` lives on. It answers with a line when that
life has ended.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import reactivex as rx
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ObjectionPayload, ProposalPayload, VotePayload
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, Agent, AuthConfig, MacpClient, Message, agents
from macp_rx import operators as mo
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision

__all__ = ["PANEL", "Life", "living", "panel"]

PANEL = ("chair", "alice", "bob")
SLOW = 0.02
"""Seconds that the oracle may take, and that timers run."""

ALICES_PART = ["Evaluation", "Objection", "Evaluation", "Evaluation", "Evaluation"]


def panel(asked: Callable[[str], None]) -> dict[str, Agent]:
    """The agents.

    Args:
        asked: hears of each question to the oracle, and of each answer.
    """

    @agents.remembered
    async def oracle(question: str) -> float:
        asked(f"asked {question}")
        await asyncio.sleep(Random().random() * SLOW)
        return Random(question).randint(0, 100) / 100

    async def evaluated(proposal: Accepted[ProposalPayload], by: str) -> Message | None:
        if proposal.payload.proposal_id != "p2":
            return None
        question = f"{proposal.session_id} {by}"
        confidence = await oracle(question)
        asked(f"knows {question}")
        return decision.evaluate("p2", "APPROVE", confidence=confidence)

    def again(accepted: Accepted) -> Message | None:
        return decision.propose("p1", "once more") if accepted.sender == "alice" else None

    chair = agents.merge(
        agents.opening(decision.propose("p1", "canary"), decision.propose("p2", "blue-green")),
        agents.on(ObjectionPayload).say(again),  # refused
        agents.majority_committer(action="rollout.approved", electorate=["alice", "bob"]),
    )

    def alice_later(events: Observable[Accepted]) -> Observable[Message]:
        return events.pipe(
            mo.sent_by("alice"),
            mo.of_type(EvaluationPayload),
            ops.filter(lambda own: own.payload.proposal_id == "p2"),
            ops.delay(SLOW),
            ops.map(lambda _: decision.raise_objection("p1", reason="on second thoughts")),
        )

    def alice_insists(events: Observable[Accepted]) -> Observable[Message]:
        return events.pipe(
            mo.sent_by("alice"),
            mo.of_type(ObjectionPayload),
            ops.flat_map(lambda _: rx.interval(SLOW / 2).pipe(ops.take(3))),
            ops.map(lambda _: decision.evaluate("p1", "REVIEW", confidence=0.5)),
        )

    def alice_votes(vote: Accepted[VotePayload]) -> list[Message]:
        if vote.sender != "bob":
            return []
        return [
            decision.vote("nothing", "APPROVE"),  # refused
            decision.vote("p2", "REJECT"),
            decision.vote("p1", "APPROVE"),
        ]

    alice = agents.merge(
        agents.on(ProposalPayload).say(lambda proposal: evaluated(proposal, "alice")),
        alice_later,
        alice_insists,
        agents.on(VotePayload).say(alice_votes),
    )

    def bob_votes(events: Observable[Accepted]) -> Observable[Message]:
        """When all was said, and nobody has spoken for a while."""

        def complete(said: list[Accepted] | None) -> bool:
            if said is None:
                return False
            by = {name: [one.message_type for one in said if one.sender == name] for name in PANEL}
            return by["alice"] == ALICES_PART and by["bob"] == ["Evaluation"]

        so_far: list[Accepted] = []
        return events.pipe(
            ops.scan(lambda said, one: [*said, one], so_far),
            mo.silence(SLOW),
            ops.filter(complete),
            ops.map(lambda _: decision.vote("p1", "APPROVE", reason="nobody has more to say")),
        )

    bob = agents.merge(agents.on(ProposalPayload).say(lambda proposal: evaluated(proposal, "bob")), bob_votes)
    return {"chair": chair, "alice": alice, "bob": bob}


class _Mortal(agents.Memory):
    def __init__(self, path: str, event: Callable[[], None]) -> None:
        super().__init__(path)
        self._event = event

    def keep(self, session_id: str, agent: str, what: str, key: str, value: str = "") -> None:
        self._event()
        super().keep(session_id, agent, what, key, value)
        self._event()


def _live(target: str, path: str, asked: str, names: list[str], events: int) -> None:
    def event() -> None:
        nonlocal events
        events -= 1
        if not events:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(agent: Agent) -> Agent:
        def watching(heard: Observable[Accepted]) -> Observable[Message]:
            return agent(heard.pipe(ops.do_action(lambda _: event()))).pipe(ops.do_action(lambda _: event()))

        return watching

    file = open(asked, "a", encoding="utf-8")  # noqa: SIM115 - it ends with this process
    memory = _Mortal(path, event)
    its = panel(lambda line: print(line, file=file, flush=True))
    for name in names:
        client = MacpClient(target=target, secure=False, auth=AuthConfig.for_dev_agent(name))
        agents.serve(client, watched(its[name]), mode=DECISION, memory=memory, on_error=lambda _where, _error: None)
    sys.stdin.read()  # until whoever started it has enough


def main(target: str, path: str, asked: str, *names: str) -> None:
    """Lives once for each line on the input."""
    while line := os.read(0, 100).decode():  # not by sys.stdin: what it had read ahead, a child would have, too
        how, _, number = line.strip().partition(" ")
        child = os.fork()
        if not child:
            _live(target, path, asked, list(names), int(number) if how == "events" else 0)
            os._exit(0)
        if how == "seconds":
            select.select([], [], [], float(number))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(
            signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), flush=True
        )


class Life:
    """The process, and its lives one after the other."""

    def __init__(self, target: str, folder: Path, *names: str) -> None:
        files = [str(folder / f"{name}-{'-'.join(names)}") for name in ("memory", "asked")]
        self._asked = Path(files[1])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.mortal", target, *files, *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def begin(self, how: str) -> None:
        """Begins the next life."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{how}\n")
        self._process.stdin.flush()

    def end(self) -> str:
        """Waits for the end of this life, and tells what it was."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    @property
    def asked(self) -> list[str]:
        """What the oracle was asked, and when an answer was known."""
        return self._asked.read_text().splitlines()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def living(target: str, folder: Path, *names: str) -> Iterator[Life]:
    """A process for these agents, as long as the block runs."""
    life = Life(target, folder, *names)
    try:
        yield life
    finally:
        life.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
