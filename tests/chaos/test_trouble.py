"""200 points of trouble while 20 agents talk in 10 sessions: nothing lost, nothing twice, nothing left."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from macp_rx import Accepted, DecisionSession, MacpClient, Runtime
from macp_rx import operators as mo
from macp_rx.errors import MacpGapError
from macp_rx.streams.session import OnGap
from macp_rx.streams.status import Connection, Status
from tests.chaos.conftest import FileServer, Serve
from tests.chaos.proxy import Link, Proxy
from tests.conftest import Recorder, dial, wait_until

SESSIONS = 10
CANCELLED = 3  # so many of the sessions end by a cancel, the others by a commitment

# a half-open connection is found by a ping, and a connection that was refused is tried again, sooner than by default
IMPATIENT = [
    ("grpc.keepalive_time_ms", 300),
    ("grpc.http2.ping_timeout_ms", 300),
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
]

KINDS = {"cut": 30, "reset": 30, "stall": 14, "refuse": 8, "delay": 8, "silence": 5, "kill": 4, "terminate": 1}
"""What may happen, in percent, beyond once each."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("seed", metafunc.config.getoption("--chaos-seed") or [1])


class Chaos:
    """Makes trouble at seeded points of the talk's progress.

    Args:
        points: how often.
        of: how many steps the talk has.
        server: is restarted if given.
    """

    def __init__(self, proxy: Proxy, chance: random.Random, points: int, of: int, server: FileServer | None) -> None:
        self._proxy = proxy
        self._chance = chance
        self._points = sorted(chance.choices(range(of), k=points))
        kinds = {kind: share for kind, share in KINDS.items() if server or kind not in ("kill", "terminate")}
        # each once at least: of 200 that are left to chance, none may be a SIGTERM, and so no GOAWAY is ever met
        self._kinds = [*kinds, *chance.choices(list(kinds), list(kinds.values()), k=points - len(kinds))]
        chance.shuffle(self._kinds)
        self._server = server
        self._step = 0
        self._restarting: set[asyncio.Task[None]] = set()

    def step(self) -> None:
        """The talk has gone on by one message; trouble may be due."""
        self._step += 1
        while self._points and self._points[0] < self._step:
            self._points.pop(0)
            self._strike(self._kinds.pop())

    def _strike(self, kind: str) -> None:
        seconds = self._chance.uniform(0.02, 0.2)
        which = self._chance.choice([list, self._one])
        match kind:
            case "cut" | "reset":
                self._proxy.cut(which, reset=kind == "reset")
            case "silence":
                self._proxy.silence(which)
            case "stall":
                self._proxy.stall(seconds)
            case "refuse":
                self._proxy.refuse_for(seconds)
                self._proxy.cut(which)
            case "delay":
                self._proxy.delay(self._chance.choice([0, seconds / 10]))
            case _:
                assert self._server is not None
                how = signal.SIGKILL if kind == "kill" else signal.SIGTERM
                task = asyncio.get_running_loop().create_task(asyncio.to_thread(self._server.restart, how))
                self._restarting.add(task)
                task.add_done_callback(self._restarting.discard)

    def _one(self, links: list[Link]) -> list[Link]:
        return [self._chance.choice(links)] if links else []

    async def end(self) -> None:
        """Every point was struck, and the server runs."""
        assert not self._points
        await asyncio.gather(*self._restarting)
        self._proxy.delay(0)


@dataclass
class Reader:
    """One subscriber of one session's stream."""

    session_id: str
    on_gap: OnGap
    heard: Recorder = field(default_factory=Recorder)
    statuses: list[Status] = field(default_factory=list)

    def subscribe(self, client: MacpClient) -> None:
        events = client.session_events(self.session_id, on_gap=self.on_gap)
        events.status.subscribe(self.statuses.append)
        events.subscribe(self.heard)

    @property
    def accepted(self) -> list[Accepted]:
        return self.heard.items  # type: ignore[return-value]

    @property
    def gaps(self) -> list[Status]:
        return [status for status in self.statuses if status.connection is Connection.GAP]


class Talk:
    """20 agents in 10 sessions, and who reads: through the proxy.

    Args:
        target: the server itself.
        speak: where the agents speak, the server itself or the proxy.
        read: the proxy.
        rounds: how many messages each agent says in its session, by session.
    """

    def __init__(self, target: str, speak: str, read: str, rounds: list[int]) -> None:
        self.direct = connect(target)
        self._speaking = [connect(speak) for _ in range(3)]
        # one reads many sessions, whose ends it watches for; two read few, and ask for them
        self._reading = [connect(read) for _ in range(3)]
        self._rounds = rounds
        self.accepted: dict[str, list[str]] = {}
        """The message ids that each session has accepted, in order."""
        self.sessions = [DecisionSession(self.direct) for _ in range(SESSIONS)]
        self.readers: list[Reader] = []
        for number, session in enumerate(self.sessions):
            session.start(intent="chaos", participants=["chair", *senders(number)], ttl_ms=600_000)
            session.propose("p1", "one")
            for on_gap, client in ("fail", self._reading[0]), ("continue", self._reading[1 + number % 2]):
                self.readers.append(Reader(session.session_id, on_gap))
                self.readers[-1].subscribe(client)
        for reader in self.readers:
            reader.heard.wait_for(2)

    async def go_on(self, chaos: Chaos) -> None:
        """Everybody talks; who is done with its session ends it."""
        async with asyncio.TaskGroup() as talk:
            for number in range(SESSIONS):
                talk.create_task(self._talk(number, chaos))

    async def _talk(self, number: int, chaos: Chaos) -> None:
        session_id = self.sessions[number].session_id
        session = DecisionSession(self._speaking[number % 3], session_id)
        async with asyncio.TaskGroup() as talk:
            for agent in senders(number):
                talk.create_task(self._say(session.acting_as(agent), self._rounds[number], chaos))
        # a server that compacts forgets it all with the session's end
        ids = [accepted.message_id async for accepted in self.direct.history(session_id)]
        if number < CANCELLED:
            await session.rx.cancel().pipe(mo.retry_with_backoff())  # no message, so it has no retry of its own
        else:
            ack = await session.rx.commit(action="chaos.survived", authority_scope="test", reason="all is said")
            ids.append(ack.message_id)
        self.accepted[session_id] = ids
        chaos.step()

    async def _say(self, session: DecisionSession, rounds: int, chaos: Chaos) -> None:
        for _ in range(rounds):
            await session.rx.evaluate("p1", "APPROVE", confidence=0.5)
            chaos.step()

    def close(self) -> None:
        for client in (self.direct, *self._speaking, *self._reading):
            client.close()


def senders(number: int) -> list[str]:
    return [f"left-{number}", f"right-{number}"]


def connect(target: str) -> MacpClient:
    return dial(target, options=IMPATIENT)


@pytest.fixture
def points(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--chaos-points")


@contextmanager
def survived(
    target: str, seed: int, points: int, server: FileServer | None = None, *, cut_sends: bool = True
) -> Iterator[Talk]:
    """Lets the agents talk through trouble until every stream has ended. When all is closed, nothing is left.

    Args:
        target: the server itself.
        seed: decides when and how trouble strikes.
        points: how often it does.
        server: is restarted now and then, if given.
        cut_sends: the agents speak through the proxy, too. A server that keeps files does not broadcast what it accepts from a
            caller whose connection breaks in the middle, and may have it at another place after a restart (measured with
            0.13.0): then a stream can only tell that it is not whole.
    """
    chance = random.Random(seed)
    rounds = [chance.randrange(points // 8, points // 2) for _ in range(SESSIONS)]
    with Proxy(target) as proxy:
        talk = Talk(target, proxy.target if cut_sends else target, proxy.target, rounds)
        try:
            chaos = Chaos(proxy, chance, points, 2 * sum(rounds) + SESSIONS, server)
            asyncio.run(through(talk, chaos))
            for reader in talk.readers:
                reader.heard.wait_for_end()
            yield talk
        finally:
            talk.close()
        proxy.wait_until(lambda connections: connections == 0, 1)


async def through(talk: Talk, chaos: Chaos) -> None:
    await talk.go_on(chaos)
    await chaos.end()


def check_complete(talk: Talk) -> None:
    """Every stream has said exactly what the server has accepted, and has ended cleanly."""
    for reader in talk.readers:
        expected = list(talk.direct.history(reader.session_id))
        assert [accepted.message_id for accepted in expected] == talk.accepted[reader.session_id]
        assert reader.heard.error is None
        assert reader.accepted == expected


@pytest.mark.server
def test_nothing_is_lost_and_nothing_comes_twice(serve: Serve, seed: int, points: int) -> None:
    server = serve(MACP_COMPACT_TERMINAL_LOGS="0", MACP_SHUTDOWN_DRAIN_SECS="0")
    with survived(server.target, seed, points, server, cut_sends=False) as talk:
        check_idle(talk)
        check_complete(talk)
        check_outcomes(talk)


@pytest.mark.server
def test_nothing_comes_twice_where_sends_are_cut_too(serve: Serve, seed: int, points: int) -> None:
    server = serve(MACP_MEMORY_ONLY="1")
    with survived(server.target, seed, points // 4) as talk:
        check_idle(talk)
        check_complete(talk)
        check_outcomes(talk)


@pytest.mark.server
def test_what_a_server_has_never_told_is_found_out(serve: Serve, seed: int, points: int) -> None:
    """A stream that says it is whole is whole, and one that is not says so: with files and restarts, and sends cut too.

    Its order is that in which the server told: a restart puts a message that was cut and sent again back at its first place.
    """
    server = serve(MACP_COMPACT_TERMINAL_LOGS="0", MACP_SHUTDOWN_DRAIN_SECS="0")
    with survived(server.target, seed, points // 4, server) as talk:
        check_idle(talk)
        for reader in talk.readers:
            whole = reader.heard.error is None and not reader.gaps
            assert whole or isinstance(reader.heard.error, MacpGapError | None)
            if whole:
                ids = [accepted.message_id for accepted in reader.accepted]
                assert sorted(ids) == sorted(talk.accepted[reader.session_id])
        check_outcomes(talk)


@pytest.mark.server
def test_what_a_server_has_forgotten_is_told(serve: Serve, seed: int, points: int) -> None:
    server = serve(MACP_SHUTDOWN_DRAIN_SECS="0")
    with survived(server.target, seed, points, server, cut_sends=False) as talk:
        check_idle(talk)
        for reader in talk.readers:
            expected = talk.accepted[reader.session_id]
            ids = [accepted.message_id for accepted in reader.accepted]
            assert ids == expected[: len(ids)]
            assert [accepted.sequence for accepted in reader.accepted] == list(range(1, len(ids) + 1))
            missing = len(expected) - len(ids)
            if reader.on_gap == "fail" and missing:
                assert isinstance(reader.heard.error, MacpGapError)
                assert (reader.heard.error.seen, reader.heard.error.lowest) == (len(ids), len(expected))
            else:
                assert reader.heard.error is None
                assert [status.missing for status in reader.gaps] == ([missing] if missing else [])
        check_outcomes(talk)


def test_an_embedded_runtime_keeps_no_call(seed: int, points: int) -> None:
    with Runtime() as runtime, runtime.serve("127.0.0.1:0") as server:
        with survived(server.target, seed, points // 4) as talk:
            check_complete(talk)
            check_outcomes(talk)
        wait_until(runtime.clock, lambda: runtime.open_calls == 0, 1)


def check_idle(talk: Talk) -> None:
    """All clients are on the one I/O loop: soon after the last stream has ended nothing runs there."""
    wait_until(talk.direct.clock, lambda: not asyncio.all_tasks(), 1)


def check_outcomes(talk: Talk) -> None:
    for number, session in enumerate(talk.sessions):
        assert session.outcome.run().state == ("CANCELLED" if number < CANCELLED else "RESOLVED")
