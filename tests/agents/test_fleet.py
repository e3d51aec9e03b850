"""Fleets: agents on the workers of a Dask cluster, which are spawned, killed, retired, cut off and added."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import dask
import psutil
import pytest
from distributed import Client, LocalCluster, Worker
from macp.modes.decision.v1.decision_pb2 import ProposalPayload
from reactivex import operators as ops
from rich.table import Table

from macp_rx import (
    Accepted,
    Agent,
    Connection,
    DecisionSession,
    MacpAckError,
    MacpClient,
    MacpSessionError,
    MacpWouldBlockError,
    Outcome,
    Runtime,
    agents,
)
from macp_rx.agents import Fleet, Memory, Served
from macp_rx.diagrams.cards import card_of
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision
from tests.chaos.proxy import Proxy
from tests.conftest import check_threads, dial, running_server

VOTER = agents.voter(lambda _: "APPROVE")
REFUSED = decision.vote("nothing", "APPROVE")

quiet = {"distributed.logging.distributed": "critical", "distributed.worker.multiprocessing-method": "spawn"}


@contextmanager
def workers(count: int, **settings: Any) -> Iterator[Client]:
    """A cluster of so many workers, one process and one slot each."""
    with (
        dask.config.set({**quiet, **settings}),
        LocalCluster(n_workers=count, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    with workers(3) as client:
        yield client


@pytest.fixture(scope="module")
def changing() -> Iterator[Client]:
    """A cluster for tests that change it; it gives up a task whose worker has died once."""
    with workers(2, **{"distributed.scheduler.allowed-failures": 0}) as client:
        yield client


def running(cluster: Client, count: int) -> list[str]:
    """The workers, when so many are up."""

    def status(dask_worker: Worker) -> str:
        return str(dask_worker.status.name)

    until(lambda: list(cluster.run(status, on_error="ignore").values()) == ["running"] * count)
    return list(cluster.nthreads())


@pytest.fixture
def target() -> Iterator[str]:
    with Runtime() as runtime, runtime.serve() as server:
        yield server.target


@pytest.fixture
def chair(target: str) -> Iterator[MacpClient]:
    with dial(target) as client:
        yield client


def start(chair: MacpClient, count: int) -> list[DecisionSession]:
    sessions = [DecisionSession(chair) for _ in range(count)]
    for session in sessions:
        session.start(intent="a fleet", participants=["chair", "alice", "bob"], ttl_ms=600_000)
    return sessions


def fleet_of(target: str, cluster: Client, agent: Agent = VOTER, name: str = "alice", **options: Any) -> Fleet:
    return agents.serve(partial(dial, target, name), agent, on=cluster, mode=DECISION, **options)


def until(holds: Callable[[], object], seconds: float = 20) -> float:
    """Waits until something holds, and tells for how many seconds; it is looked at again and again."""
    began = time.monotonic()
    pause = threading.Event()
    while not holds():
        assert time.monotonic() - began < seconds, f"it does not hold after {seconds} s"
        pause.wait(0.05)
    return time.monotonic() - began


def serving(fleet: Fleet, sessions: list[DecisionSession]) -> dict[str, Served] | None:
    """Who serves what, if each of these sessions has caught up, and is served once."""
    found = [one for one in fleet.status() if one.connection is Connection.CAUGHT_UP]
    by_id = {one.session_id: one for one in found}
    assert len(by_id) == len(found), "a session is served twice"
    return by_id if all(session.session_id in by_id for session in sessions) else None


def served(fleet: Fleet, sessions: list[DecisionSession]) -> dict[str, Served]:
    until(lambda: serving(fleet, sessions))
    found = serving(fleet, sessions)
    assert found is not None
    return found


def loads(found: dict[str, Served]) -> Counter[str]:
    return Counter(one.worker for one in found.values())


def propose_and_commit(session: DecisionSession) -> None:
    session.propose("p1", "canary")
    session.events.pipe(ops.filter(lambda said: said.message_type == "Vote"), ops.take(1)).run()
    session.commit(action="rollout.approved", authority_scope="a test", reason="alice approves")


def history(session: DecisionSession) -> list[Accepted]:
    return session.client.history(session.session_id).pipe(ops.to_list()).run()


# Agents, of functions of a module and otherwise.


async def thinks(proposal: Accepted[ProposalPayload]) -> str:
    """As long as the session's id will have it: some are done soon, and some see all of the trouble."""
    await asyncio.sleep(Random(proposal.session_id).random() * 5)
    return "APPROVE"


def insists(_proposal: Accepted[ProposalPayload]) -> list[Any]:
    return [REFUSED]


def dies_at_first(mark: Path) -> Agent:
    """An agent whose process dies as soon as something is proposed, the first time that it is."""

    def die(_proposal: Accepted[ProposalPayload]) -> str:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "APPROVE"

    return agents.voter(die)


def memory_unless(mark: Path) -> Memory:
    if mark.exists():
        raise RuntimeError("no disk here")
    return Memory(mark.with_suffix(".sqlite"))


class TestServing:
    def test_each_session_is_served_by_the_worker_that_has_the_fewest(
        self, cluster: Client, target: str, chair: MacpClient
    ) -> None:
        with fleet_of(target, cluster) as fleet:
            before = start(chair, 12)
            assert set(loads(served(fleet, before)).values()) == {4}
            assert set(loads(served(fleet, before))) == set(cluster.nthreads())
            for session in before:
                propose_and_commit(session)
            until(lambda: not fleet.status())
        for session in before:
            assert [said.message_type for said in history(session)] == [
                "SessionStart",
                "Proposal",
                "Vote",
                "Commitment",
            ]

    def test_they_hold_no_slot_and_no_thread(self, cluster: Client, target: str, chair: MacpClient) -> None:
        def threads() -> int:
            return threading.active_count()

        with fleet_of(target, cluster) as fleet:
            served(fleet, start(chair, 3))
            few = sum(cluster.run(threads).values())
            served(fleet, start(chair, 20))
            assert sum(cluster.run(threads).values()) == few
            assert cluster.submit(pow, 2, 10).result(timeout=10) == 1024

    def test_only_the_sessions_that_are_wanted(self, cluster: Client, target: str, chair: MacpClient) -> None:
        first, second = start(chair, 2)
        with fleet_of(target, cluster, where=lambda metadata: metadata.session_id == second.session_id) as fleet:
            served(fleet, [second])
            assert [one.session_id for one in fleet.status()] == [second.session_id]
        assert first.session_id != second.session_id

    def test_what_is_told(self, cluster: Client, target: str, chair: MacpClient) -> None:
        with fleet_of(target, cluster) as fleet:
            (session,) = start(chair, 1)
            session.propose("p1", "canary")
            until(lambda: any(one.session_id == session.session_id and one.sequence == 3 for one in fleet.status()))
            (one,) = (one for one in fleet.status() if one.session_id == session.session_id)
            assert one.worker in cluster.nthreads()
            assert one.since is not None
            assert (one.connection, one.reconnects, one.lag) == (Connection.CAUGHT_UP, 0, 0)
            assert isinstance(fleet.__rich__(), Table)
            (line,) = (line for line in str(fleet).splitlines() if session.session_id in line)
            assert "caught up" in line
            assert one.worker in line
            (row,) = card_of(fleet).rows
            assert (row.name, row.text) == (one.worker, "1 sessions")
            assert card_of(fleet).title == repr(fleet) == "Fleet(1 sessions)"

    def test_how_far_behind_it_is(self, cluster: Client, target: str, chair: MacpClient) -> None:
        proxy = Proxy(target)
        try:
            with fleet_of(proxy.target, cluster) as fleet:
                (session,) = start(chair, 1)
                served(fleet, [session])
                proxy.refuse()
                proxy.cut()
                until(lambda: fleet.status()[0].lag > 0.3)
                (line,) = (line for line in str(fleet).splitlines() if session.session_id in line)
                assert re.search(r"\d\.\d s", line)
                proxy.accept()
                until(lambda: fleet.status()[0].lag == 0)
                assert fleet.status()[0].reconnects == 1
        finally:
            proxy.close()


class TestErrors:
    def test_they_are_told_here_and_end_the_agent_in_that_session_only(
        self, cluster: Client, target: str, chair: MacpClient
    ) -> None:
        def decide(proposal: Accepted[ProposalPayload]) -> str:
            if proposal.payload.option == "poison":
                raise LookupError("what is this?")
            return "APPROVE"

        told: list[tuple[str, Exception]] = []
        agent = agents.merge(agents.voter(decide), agents.on(ProposalPayload).say(insists))
        with fleet_of(target, cluster, agent, on_error=lambda *error: told.append(error)) as fleet:
            poisoned, healthy = start(chair, 2)
            served(fleet, [poisoned, healthy])
            poisoned.propose("p1", "poison")
            until(lambda: len(told) == 1)
            ((where, error),) = told
            assert where == poisoned.session_id
            assert isinstance(error, LookupError)
            assert str(error) == "what is this?"
            propose_and_commit(healthy)
            until(lambda: len(told) == 2)
            where, error = told[1]
            assert where == healthy.session_id
            assert isinstance(error, MacpAckError)
            assert not error.ack.ok
            until(lambda: poisoned.session_id not in {one.session_id for one in fleet.status()})

    def test_they_are_logged_by_default(
        self, cluster: Client, target: str, chair: MacpClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        class OfHereError(Exception):
            def __reduce__(self) -> Any:
                raise TypeError("not to be sent")

        def decide(_proposal: Accepted[ProposalPayload]) -> str:
            raise OfHereError("cannot")

        with caplog.at_level(logging.WARNING, "macp_rx"), fleet_of(target, cluster, agents.voter(decide)) as fleet:
            (session,) = start(chair, 1)
            session.propose("p1", "canary")
            until(lambda: "OfHereError: cannot" in caplog.text)
            assert f"alice in {session.session_id}" in caplog.text
            until(lambda: session.session_id not in {one.session_id for one in fleet.status()})

    def test_what_cannot_be_sent_is_told_at_once(self, cluster: Client, target: str) -> None:
        lock = threading.Lock()
        with pytest.raises(MacpSessionError, match="cannot be sent to a worker"):
            fleet_of(target, cluster, agents.voter(lambda _: "APPROVE" if lock.locked() else "REJECT"))

    def test_what_a_worker_cannot_make_is_told_at_once(self, cluster: Client, target: str, tmp_path: Path) -> None:
        with pytest.raises(MacpSessionError, match=r"the worker tcp://.* cannot serve: MacpError: cannot open"):
            fleet_of(target, cluster, memory=tmp_path / "nowhere" / "memory.sqlite")

    def test_a_connection_is_not_sent(self, cluster: Client, chair: MacpClient, tmp_path: Path) -> None:
        with pytest.raises(MacpSessionError, match="a function that connects"):
            agents.serve(chair, VOTER, on=cluster)  # type: ignore[call-overload]
        with Memory(tmp_path / "memory") as memory, pytest.raises(MacpSessionError, match="the path"):
            agents.serve(partial(dial, "nowhere"), VOTER, memory=memory, on=cluster)  # type: ignore[call-overload]
        with pytest.raises(MacpSessionError, match="for on="):
            agents.serve(partial(dial, "nowhere"), VOTER)  # type: ignore[call-overload]
        with pytest.raises(MacpSessionError, match="an agent is a function"):
            agents.serve(partial(dial, "nowhere"), agents.on(ProposalPayload), on=cluster)  # type: ignore[call-overload]

    def test_dasks_loop_is_not_held_up(self, cluster: Client, target: str) -> None:
        async def begin() -> None:
            with pytest.raises(MacpWouldBlockError, match=r"asyncio\.to_thread"):
                fleet_of(target, cluster)

        cluster.sync(begin)


class TestLeaving:
    def test_nothing_is_left(self, cluster: Client, target: str, chair: MacpClient) -> None:
        def connections(dask_worker: Worker) -> int:
            return sum(
                bool(one.raddr) and one.raddr.port == int(target.rpartition(":")[2])
                for one in psutil.Process().net_connections()
            )

        def names() -> list[str]:
            return sorted(thread.name for thread in threading.enumerate())

        sessions = start(chair, 10)
        with fleet_of(target, cluster):  # what Dask starts for the first
            pass
        before, there = set(threading.enumerate()), cluster.run(names)
        fleet = fleet_of(target, cluster)
        served(fleet, sessions)
        assert sum(cluster.run(connections).values()) > 0
        fleet.dispose()
        fleet.close()
        fleet.close()
        check_threads(before)
        assert cluster.run(names) == there
        assert set(cluster.run(connections).values()) == {0}
        until(lambda: not any(cluster.processing().values()))
        assert not any(cluster.run(lambda dask_worker: list(dask_worker.state.tasks)).values())
        for session in sessions:
            session.propose("p1", "canary")
        assert len(history(sessions[0])) == 2

    def test_a_fleet_that_is_started_again_goes_on(
        self, cluster: Client, target: str, chair: MacpClient, tmp_path: Path
    ) -> None:
        sessions = start(chair, 4)
        for _ in range(2):
            with fleet_of(target, cluster, memory=tmp_path / "memory.sqlite") as fleet:
                served(fleet, sessions)
                for session in sessions[:2]:
                    propose_and_commit(session)
                del sessions[:2]

    def test_a_client_that_is_gone_takes_its_fleet_with_it(
        self, cluster: Client, target: str, chair: MacpClient
    ) -> None:
        sessions = start(chair, 4)
        assert cluster.scheduler is not None
        with Client(cluster.scheduler.address) as other:
            fleet = fleet_of(target, other)
            served(fleet, sessions)
        until(lambda: not any(cluster.processing().values()))
        until(lambda: not any(cluster.run(lambda dask_worker: list(dask_worker.state.tasks)).values()))
        fleet.close()


class TestWorkers:
    def test_one_that_is_retired_hands_over_and_one_that_is_added_takes_new_load(
        self, changing: Client, target: str, chair: MacpClient
    ) -> None:
        with fleet_of(target, changing) as fleet:
            sessions = start(chair, 12)
            before = served(fleet, sessions)
            changing.cluster.scale(1)  # Dask says which one, and retires it
            until(lambda: len(changing.nthreads()) == 1)
            (staying,) = changing.nthreads()
            after = served(fleet, sessions)
            assert set(loads(after)) == {staying}
            stayed = [one.session_id for one in before.values() if one.worker == staying]
            assert [after[key].since for key in stayed] == [before[key].since for key in stayed]
            changing.cluster.scale(2)
            (added,) = set(running(changing, 2)) - {staying}
            new = start(chair, 6)
            assert {one.worker for key, one in served(fleet, new).items() if key not in before} == {added}
            for session in (*sessions, *new):
                propose_and_commit(session)

    def test_one_that_cannot_serve_is_told_of_and_left_alone(
        self, changing: Client, target: str, chair: MacpClient, tmp_path: Path
    ) -> None:
        told: list[tuple[str, Exception]] = []
        mark = tmp_path / "mark"
        memory = partial(memory_unless, mark)
        fit = set(running(changing, 2))
        with fleet_of(target, changing, memory=memory, on_error=lambda *error: told.append(error)) as fleet:
            served(fleet, start(chair, 4))
            mark.touch()
            changing.cluster.scale(3)
            running(changing, 3)
            assert set(loads(served(fleet, start(chair, 4)))) == fit
            ((where, error),) = told
            assert where == ""
            assert isinstance(error, MacpSessionError)
            assert "no disk here" in str(error)

    def test_a_session_that_kills_its_worker_is_not_lost(
        self, changing: Client, target: str, chair: MacpClient, tmp_path: Path
    ) -> None:
        running(changing, 3)
        with fleet_of(target, changing, dies_at_first(tmp_path / "mark")) as fleet:
            (session,) = start(chair, 1)
            served(fleet, [session])
            propose_and_commit(session)
            assert [said.message_type for said in history(session)].count("Vote") == 1

    def test_one_that_is_cut_off_ends_what_it_served(self, changing: Client, target: str, chair: MacpClient) -> None:
        def cut_off(dask_worker: Worker) -> None:
            dask_worker.loop.call_later(0.1, dask_worker.batched_stream.comm.abort)

        running(changing, 3)
        with fleet_of(target, changing) as fleet:
            sessions = start(chair, 9)
            lonely = min(loads(served(fleet, sessions)))
            process = psutil.Process(changing.run(os.getpid, workers=[lonely])[lonely])
            changing.run(cut_off, workers=[lonely])
            until(lambda: lonely not in changing.nthreads())
            assert lonely not in loads(served(fleet, sessions))
            psutil.wait_procs([process], timeout=10)
            assert not process.is_running()
            for session in sessions:
                propose_and_commit(session)


@pytest.mark.server
def test_three_hundred_sessions_while_workers_are_killed(cluster: Client, tmp_path: Path) -> None:
    """Chair, alice and bob have a fleet each. A worker is killed three times, and each time what it served is taken over."""
    count = 300
    told: list[tuple[str, Exception]] = []
    panel: dict[str, Agent] = {
        "chair": agents.merge(
            agents.opening(decision.propose("p1", "canary")),
            agents.majority_committer(action="rollout.approved", electorate=["alice", "bob"]),
        ),
        "alice": agents.merge(agents.voter(agents.remembered(thinks)), agents.on(ProposalPayload).say(insists)),
        "bob": agents.voter(agents.remembered(thinks)),
    }
    with ExitStack() as stack:
        target = stack.enter_context(running_server()).target
        client = stack.enter_context(dial(target))
        fleets = [
            stack.enter_context(
                fleet_of(target, cluster, agent, name, memory=tmp_path / name, on_error=lambda *one: told.append(one))
            )
            for name, agent in panel.items()
        ]
        outcomes: dict[str, Outcome] = {}
        sessions = start(client, count)
        for session in sessions:
            session.outcome.subscribe(partial(outcomes.__setitem__, session.session_id))

        def lost(worker: str) -> list[tuple[Fleet, str]]:
            return [(fleet, one.session_id) for fleet in fleets for one in fleet.status() if one.worker == worker]

        def elsewhere(taken: list[tuple[Fleet, str]]) -> bool:
            now = {fleet: serving(fleet, []) or {} for fleet in fleets}
            return all(session_id in outcomes or session_id in now[fleet] for fleet, session_id in taken)

        for enough in (20, 100, 180):
            until(lambda enough=enough: len(outcomes) >= enough)  # type: ignore[misc]
            processes = cluster.run(os.getpid)
            victim = max(processes, key=lambda worker: len(lost(worker)))
            taken = lost(victim)
            assert taken
            os.kill(processes[victim], signal.SIGKILL)
            seconds = until(lambda taken=taken: elsewhere(taken))  # type: ignore[misc]
            print(f"{len(taken)} sessions of a worker that was killed were taken over in {seconds:.1f} s")
        until(lambda: len(outcomes) == count, 60)
        assert {outcome.state for outcome in outcomes.values()} == {"RESOLVED"}
        for session in sessions:
            said = history(session)
            assert len({one.message_id for one in said}) == len(said)
            kinds = Counter((one.sender, one.message_type) for one in said)
            assert kinds[("alice", "Vote")] == kinds[("bob", "Vote")] == 1
            assert (
                kinds[("chair", "SessionStart")] == kinds[("chair", "Proposal")] == kinds[("chair", "Commitment")] == 1
            )
            assert len(said) == 5
        until(lambda: not any(fleet.status() for fleet in fleets))
        refused = Counter(where for where, error in told if isinstance(error, MacpAckError))
        assert sum(refused.values()) == len(told)  # alice's votes for nothing, and nothing else
        assert max(refused.values()) <= 2


def test_errors_go_from_process_to_process_as_they_are() -> None:
    error = MacpSessionError("bad")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is MacpSessionError
    assert str(again) == "bad"
