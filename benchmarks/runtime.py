"""The embedded runtime: its kernel in process, its port, its restart. Peer where there is one: the real server."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc.aio
from google.protobuf.message import Message
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ProposalPayload, VotePayload
from macp.v1 import core_pb2, core_pb2_grpc
from macp.v1.envelope_pb2 import Envelope

from benchmarks import Row, ratio, wait_for
from benchmarks.courses import ALL, FEW, Course, courses
from benchmarks.server import AGENT, CONFIGURATION, METADATA, VERSION, connect, open_sessions, running_server
from macp_rx import Accepted, Runtime
from macp_rx.protocol.messages import DECISION, message_type_of
from macp_rx.runtime import SqliteStore, dev_identity, kernel
from macp_rx.runtime.state import Kept, State

__all__ = ["rows"]

AGENTS = FEW
POLICY = "policy.std.majority"
SESSIONS = 1000
SENDS = 5000
IN_FLIGHT = 64
SUBSCRIBERS = 2000
KEPT = 100_000


def rows(rounds: int) -> Iterable[Row]:
    """Rates are accepted messages a second."""
    yield from _kernel(rounds)
    yield from _port(max(3, rounds // 5))
    yield _subscribers()
    yield _restart()


# The kernel alone.


def _kernel(rounds: int) -> Iterable[Row]:
    requests = [request for _ in range(SESSIONS) for request in _session()]
    rates = [len(requests) / _answered(requests) for _ in range(rounds)]
    rate = statistics.median(rates)
    shown = f"{rate / 1000:.1f} k/s"
    what = "kernel, decision sessions of 5 agents under a policy: accepted messages per core"
    yield Row(what, shown, "", "none", None, "≥ 30 k/s", rate >= 30_000)
    yield _growth(max(3, rounds // 5))


def _growth(rounds: int) -> Row:
    """What a message costs late in a session, through what it costs early: of the course in which that is most."""
    figures: dict[str, tuple[float, float, float]] = {}
    for name, course in courses().items():
        early, late = zip(*(_early_and_late(course) for _ in range(rounds)), strict=True)
        figures[name] = ratio(late, early), statistics.median(late) * 1e6, statistics.median(early) * 1e6
    worst = max(figures, key=lambda name: figures[name][0])
    times, late, early = figures[worst]
    what = (
        f"kernel: cost of a message at the end of a long session, worst of {len(figures)} courses in all modes: {worst}"
    )
    return Row(what, f"{late:.1f} us", f"{early:.1f} us", "after 10 such", times, "≤ 1.3x", times <= 1.3)


def _session() -> Iterator[core_pb2.SendRequest]:
    session_id = str(uuid.uuid4())
    start = core_pb2.SessionStartPayload(
        intent="benchmark",
        participants=AGENTS,
        ttl_ms=86_400_000,
        mode_version=VERSION,
        configuration_version=CONFIGURATION,
        policy_version=POLICY,
    )
    yield _request(session_id, AGENT, start)
    yield _request(session_id, AGENT, ProposalPayload(proposal_id="p1", option="one"))
    for agent in AGENTS:
        yield _request(session_id, agent, _evaluation())
    for agent in AGENTS:
        yield _request(session_id, agent, VotePayload(proposal_id="p1", vote="APPROVE"))
    commitment = core_pb2.CommitmentPayload(
        commitment_id="c1",
        action="decision.approved",
        authority_scope="benchmark",
        reason="carried",
        outcome_positive=True,
        mode_version=VERSION,
        configuration_version=CONFIGURATION,
    )
    yield _request(session_id, AGENT, commitment)


def _evaluation() -> EvaluationPayload:
    return EvaluationPayload(proposal_id="p1", recommendation="APPROVE", confidence=0.5, reason="as before")


def _request(session_id: str, sender: str, payload: Message) -> core_pb2.SendRequest:
    return core_pb2.SendRequest(
        envelope=Envelope(
            macp_version="1.0",
            mode=DECISION,
            message_type=message_type_of(payload),
            message_id=str(uuid.uuid4()),
            session_id=session_id,
            sender=sender,
            payload=payload.SerializeToString(),
        )
    )


CALLERS = {agent: dev_identity(agent) for agent in ALL}


def _answered(requests: list[core_pb2.SendRequest]) -> float:
    """CPU seconds for these requests, all of which are accepted."""
    began = time.process_time()
    _said(State(), requests)
    return time.process_time() - began


def _said(state: State, requests: Iterable[core_pb2.SendRequest]) -> State:
    for request in requests:
        state, reply, _ = kernel.answer(state, "Send", CALLERS[request.envelope.sender], request, 1)
        if not reply.ack.ok:  # type: ignore[union-attr]
            raise SystemExit(f"benchmarks: refused: {reply}")
    return state


def _early_and_late(course: Course) -> tuple[float, float]:
    """CPU seconds a message, after 10 of its kind and at the end: a tenth of them each."""
    state = _said(State(), course.opening + course.repeated[:10])
    span = len(course.repeated) // 10
    seconds: list[float] = []
    for requests in (course.repeated[10 : 10 + span], course.repeated[10 + span : -span], course.repeated[-span:]):
        began = time.process_time()
        state = _said(state, requests)
        seconds.append(time.process_time() - began)
    return seconds[0] / span, seconds[2] / span


# A port.


@contextmanager
def _served(*arguments: str) -> Iterator[str]:
    """A `macp-rx serve` of its own process, without limits."""
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("macp-rx")),
            "serve",
            "--bind=127.0.0.1:0",
            "--message-limit=100000000",
            "--session-start-limit=100000000",
            *arguments,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        yield next(word.rstrip(",") for word in words if word.startswith("127.0.0.1:"))
    finally:
        process.kill()
        process.wait()


def _port(rounds: int) -> Iterable[Row]:
    with (
        tempfile.TemporaryDirectory() as folder,
        _served() as ours,
        _served(f"--store={folder}/sessions.sqlite") as stored,
        running_server() as real,
    ):
        targets = {"ours": ours, "stored": stored, "real": real}
        rates: dict[str, list[float]] = {name: [] for name in targets}
        for _ in range(rounds):
            for name, target in targets.items():
                # many short sessions: the real server's cost of a message grows with its session
                sessions = open_sessions(target, SENDS // 50)
                rates[name].append(SENDS / asyncio.run(_sends(target, sessions)))
    each = {name: statistics.median(values) for name, values in rates.items()}
    for name, what in (("ours", "in memory"), ("stored", "each in SQLite before its Ack")):
        times = ratio(rates[name], rates["real"])
        bar, holds = ("≥ 1500/s", each[name] >= 1500) if name == "ours" else ("", None)
        shown = f"{each[name]:.0f}/s", f"{each['real']:.0f}/s"
        title = f"port, {IN_FLIGHT} in flight, {what}: accepted sends, with the client on the same two cores"
        yield Row(title, *shown, "macp-runtime in memory, same client", times, bar, holds)


async def _sends(target: str, sessions: list[str]) -> float:
    """Wall seconds for the sends, by a bare grpc.aio client."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = core_pb2_grpc.MACPRuntimeServiceStub(channel)
        left = iter(range(SENDS))

        async def send() -> None:
            for number in left:
                payload = ProposalPayload(proposal_id=str(number), option="x")
                request = _request(sessions[number % len(sessions)], AGENT, payload)
                reply = await stub.Send(request, metadata=METADATA)
                if not reply.ack.ok:
                    raise SystemExit(f"benchmarks: refused: {reply.ack.error}")

        began = time.monotonic()
        await asyncio.gather(*(send() for _ in range(IN_FLIGHT)))
        return time.monotonic() - began


def _subscribers() -> Row:
    """Session streams that one port of one process holds, each of which then hears one more envelope."""
    with _served() as target, connect(target) as client:
        session_id = open_sessions(target, 1)[0]
        heard = {1: 0, 2: 0}
        began, told = threading.Event(), threading.Event()

        def hear(accepted: Accepted) -> None:
            heard[accepted.sequence] += 1
            if heard[1] == SUBSCRIBERS:
                began.set()
            if heard[2] == SUBSCRIBERS:
                told.set()

        for _ in range(SUBSCRIBERS):
            client.session_events(session_id).subscribe(hear)
        wait_for(began)
        since = time.monotonic()
        client.send(_request(session_id, AGENT, ProposalPayload(proposal_id="p1", option="x")).envelope)
        wait_for(told)
        seconds = time.monotonic() - since
    what = "port: session streams held by one process, all of which hear the next envelope"
    return Row(
        what, f"{heard[2]} (within {seconds:.2f} s)", "", "none", None, f"≥ {SUBSCRIBERS}", heard[2] >= SUBSCRIBERS
    )


def _restart() -> Row:
    """A restart from SQLite; the sessions are of 13 messages each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sessions.sqlite"
        store = SqliteStore(path)
        _fill(store)
        store.close()
        began = time.monotonic()
        with Runtime(store=path) as runtime:
            seconds = time.monotonic() - began
            count = sum(session.accepted for session in runtime.state.sessions.values())
    what = f"restart from SQLite: {count} messages judged again"
    return Row(what, f"{seconds:.1f} s", "", "none", None, "< 10 s", seconds < 10)


def _fill(store: SqliteStore) -> None:
    """Puts 100,000 messages into a store in one transaction: how they came is not what is measured."""
    state = State()
    kept: list[Kept] = []
    for _ in range(KEPT // 13 + 1):
        for request in _session():
            state, _, events = kernel.answer(state, "Send", CALLERS[request.envelope.sender], request, 1)
            kept += [event for event in events if isinstance(event, Kept)]
    store.keep(kept)
