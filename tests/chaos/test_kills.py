"""Agents killed with ``kill -9`` at seeded points, and started again: the histories are those of agents that never died."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from macp.v1.envelope_pb2 import Envelope
from reactivex import operators as ops

from macp_rx import DecisionSession, MacpClient, Outcome
from tests.chaos.mortal import PANEL, Life, living
from tests.conftest import dial, running_server

KILLS = 100
OPEN = 6
"""Sessions that are under way at a time; each kill hits all of them."""

pytestmark = pytest.mark.server

Said = dict[str, list[tuple[str, str, bytes]]]
"""Who has said what, in order: type, id and payload."""


def said(client: MacpClient, session_id: str) -> Said:
    history: list[Envelope] = (
        client.history(session_id).pipe(ops.map(lambda accepted: accepted.envelope), ops.to_list()).run()
    )
    return {
        name: [(one.message_type, one.message_id, one.payload) for one in history[1:] if one.sender == name]
        for name in PANEL
    }


class Coordinations:
    """Sessions that are started one after the other, so that some are always under way."""

    def __init__(self, client: MacpClient, random: Random) -> None:
        self._client = client
        self._random = random
        self._changed = threading.Condition()
        self.started: list[str] = []
        self.outcomes: dict[str, Outcome] = {}

    def top_up(self) -> None:
        while len(self.started) - len(self.outcomes) < OPEN:
            self.start(f"{self._random.getrandbits(128):032x}")

    def start(self, session_id: str) -> None:
        session = DecisionSession(self._client, session_id)
        session.start(intent="to the end", participants=PANEL, ttl_ms=600_000)
        self.started.append(session_id)

        def ended(outcome: Outcome) -> None:
            with self._changed:
                self.outcomes[session_id] = outcome
                self._changed.notify_all()

        session.outcome.subscribe(ended)

    def wait(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.outcomes) == len(self.started), 60), "some have not ended"


def how_to_die(random: Random) -> str:
    """Most at an event; one in five anywhere, as the clock will have it."""
    return f"seconds {random.random() * 0.4:.4f}" if random.random() < 0.2 else f"events {random.randint(1, 250)}"


def killed(lives: list[Life], coordinations: Coordinations, random: Random) -> None:
    """Lets each process die its share of deaths, all at the same time, and live on after the last."""

    def die(life: Life, ways: list[str]) -> None:
        for way in ways:
            life.begin(way)
            ends.append(life.end())
            enough.release()
        life.begin("on")

    ends: list[str] = []
    enough = threading.Semaphore(0)
    ways = [[how_to_die(random) for _ in range(KILLS // len(lives))] for _ in lives]
    threads = [threading.Thread(target=die, args=pair) for pair in zip(lives, ways, strict=True)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        coordinations.top_up()
        enough.acquire(timeout=0.05)  # new sessions for those who wait for something to happen
    assert ends == ["SIGKILL"] * KILLS


@pytest.mark.parametrize("seed", [1])
def test_agents_that_are_killed_a_hundred_times_lead_to_the_same_histories(seed: int, tmp_path: Path) -> None:
    histories: list[dict[str, Said]] = []
    sessions: list[str] = []
    for mortal in (True, False):
        folder = tmp_path / f"{mortal}"
        folder.mkdir()
        with ExitStack() as stack:
            server = stack.enter_context(running_server())
            client = stack.enter_context(dial(server.target))
            random = Random(seed)
            lives = [stack.enter_context(living(server.target, folder, *who)) for who in (("alice",), ("chair", "bob"))]
            coordinations = Coordinations(client, random)
            if mortal:
                killed(lives, coordinations, random)
                sessions = coordinations.started
            else:
                for life in lives:
                    life.begin("on")
                for session_id in sessions:
                    coordinations.start(session_id)
            coordinations.wait()
            assert {outcome.state for outcome in coordinations.outcomes.values()} == {"RESOLVED"}
            histories.append({session_id: said(client, session_id) for session_id in sessions})
            for life in lives:
                known = set[str]()
                for line in life.asked:  # what was known once was not asked again
                    what, _, question = line.partition(" ")
                    assert what == "knows" or question not in known
                    known |= {question} if what == "knows" else set()
    died, lived = histories
    assert len(sessions) > OPEN
    assert died == lived
