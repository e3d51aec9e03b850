"""A fleet on one worker of Dask: its connection, its memory, and the sessions that it takes part in.

A session is a coroutine on the worker's loop, and holds neither a thread nor one of the worker's slots; the work of all is done
on the I/O thread of their one connection. It ends with the session; when Dask takes it back, as it does when nobody wants it any
more; and with the worker, which Dask closes when it has lost its scheduler, so that it does not serve beside who has taken over.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, time
from typing import Any

from distributed import Reschedule, Worker, WorkerPlugin, get_worker
from distributed.worker_state_machine import SecedeEvent
from macp.v1 import core_pb2
from reactivex import Observable
from reactivex import operators as ops

from macp_rx.agents.fleet import Served, pickled
from macp_rx.agents.running import taking_part
from macp_rx.client import MacpClient
from macp_rx.errors import MacpError
from macp_rx.memory import Memory
from macp_rx.protocol.messages import Accepted, Message
from macp_rx.session import Agent
from macp_rx.streams.status import Connection, Status
from macp_rx.streams.stream import Stream

__all__ = ["Serving", "UnfitWorkerError", "UnknownFleetError", "status", "take_part"]

Key = tuple[str, str, int]


class UnknownFleetError(MacpError):
    """A worker does not know the fleet, as its scheduler was started anew."""


class UnfitWorkerError(MacpError):
    """A worker cannot serve: the agent, the connection or the memory could not be made there.

    Args:
        worker: its address.
        why: what failed.
    """

    def __init__(self, worker: str, why: str) -> None:
        super().__init__(f"the worker {worker} cannot serve: {why}")
        self.worker = worker


async def take_part(fleet: str, key: Key, metadata: bytes) -> None:
    """The task of one session: takes part until the session has ended.

    Args:
        fleet: the name of its fleet.
        key: its own.
        metadata: the session's.

    Raises:
        UnfitWorkerError, UnknownFleetError: another worker may do better.
    """
    worker = get_worker()
    # `distributed.secede` is for tasks that have a thread; this is what it does for the worker's slots
    worker.handle_stimulus(SecedeEvent(key=key, compute_duration=0.0, stimulus_id=f"macp-{time()}"))
    serving = worker.plugins.get(fleet)
    if not isinstance(serving, Serving):
        raise UnknownFleetError(f"the worker {worker.address} does not know {fleet}")
    await serving.take_part(key, core_pb2.SessionMetadata.FromString(metadata))


def status(fleet: str, dask_worker: Worker) -> tuple[Served, ...]:
    """What a worker serves of a fleet; Dask runs it there."""
    serving = dask_worker.plugins.get(fleet)
    return serving.status() if isinstance(serving, Serving) else ()


@dataclass(slots=True, eq=False)
class _Session:
    """One session, told of by the I/O thread."""

    session_id: str
    ended: asyncio.Future[None]
    since: datetime
    sequence: int = 0
    connection: Connection | None = None
    connected: int = 0
    behind: float | None = field(default_factory=monotonic)  # since when; None while it has all that was accepted

    def hear(self, accepted: Accepted) -> None:
        self.sequence = accepted.sequence

    def happened(self, status: Status) -> None:
        self.connection = status.connection
        self.connected += status.connection is Connection.CONNECTED
        if status.connection is Connection.CAUGHT_UP:
            self.behind = None
        elif self.behind is None:
            self.behind = monotonic()

    @property
    def lag(self) -> float:
        return 0.0 if (behind := self.behind) is None else monotonic() - behind


class Serving(WorkerPlugin):
    """A fleet on one worker.

    Args:
        name: the fleet's.
        what: how to connect, the agent and its memory, as bytes.
    """

    idempotent = True  # to register it again changes nothing where it is known

    def __init__(self, name: str, what: bytes) -> None:
        self.name = name
        self._what = what

    async def setup(self, worker: Worker) -> None:
        """Called by Dask when the worker comes to know the fleet."""
        self._worker: Any = worker
        self._sessions: dict[Key, _Session] = {}
        self._client: MacpClient | None = None
        self._memory: Memory | None = None
        self._unfit: UnfitWorkerError | None = None
        try:
            connect: Callable[[], MacpClient]
            memory: str | Path | Callable[[], Memory] | None
            connect, self._agent, memory = pickle.loads(self._what)
            self._client = connect()
            self._memory = Memory(memory) if isinstance(memory, str | Path) else memory() if memory else None
        except Exception as error:
            self._unfit = UnfitWorkerError(worker.address, f"{type(error).__name__}: {error}")
            raise self._unfit from None

    async def teardown(self, worker: Worker) -> None:
        """Called by Dask when the fleet is no more, or the worker."""
        for session in self._sessions.values():
            _end(session)
        if self._client is not None:
            await self._client.aclose()
        if self._memory is not None:
            self._memory.close()

    def transition(self, key: Any, start: str, finish: str, **_more: Any) -> None:
        """Called by Dask when a task changes its state: one that it takes back does not end by itself."""
        session = self._sessions.get(key) if finish == "released" else None
        if session is not None:  # nobody hears of this, unless Dask wants it here again meanwhile
            _end(session, Reschedule())

    async def take_part(self, key: Key, metadata: core_pb2.SessionMetadata) -> None:
        """Takes part in a session until it has ended."""
        if self._unfit is not None or self._client is None:
            raise self._unfit or UnknownFleetError("the fleet is no more")
        loop = asyncio.get_running_loop()
        session = self._sessions[key] = _Session(metadata.session_id, loop.create_future(), datetime.now(UTC))

        events = self._client.session_events(metadata.session_id, on_gap="continue")
        saying = taking_part(self._client, _heard(self._agent, session.hear), self._memory, self._report)
        watching = events.status.subscribe(session.happened)

        def over() -> None:
            loop.call_soon_threadsafe(_end, session)

        taking = saying(metadata, events).subscribe(on_completed=over)
        try:
            await session.ended
        finally:
            del self._sessions[key]
            taking.dispose()
            watching.dispose()

    def status(self) -> tuple[Served, ...]:
        """What it serves."""
        return tuple(
            Served(
                session.session_id,
                self._worker.address,
                session.since,
                session.sequence,
                session.connection,
                max(0, session.connected - 1),
                session.lag,
            )
            for session in self._sessions.values()
        )

    def _report(self, session_id: str, error: Exception) -> None:
        try:
            as_it_is = pickled(error)
        except Exception:  # it is told by its text
            as_it_is = b""
        self._worker.log_event(self.name, (session_id, f"{type(error).__name__}: {error}", as_it_is))


def _end(session: _Session, error: Exception | None = None) -> None:
    if not session.ended.done():
        session.ended.set_exception(error) if error is not None else session.ended.set_result(None)


def _heard(agent: Agent, hear: Callable[[Accepted], None]) -> Agent:
    """The agent, and who else hears what it hears."""

    def hearing(events: Observable[Accepted]) -> Observable[Message]:
        tapped = events.pipe(ops.do_action(hear))
        return agent(events.derived(tapped, can_wait=True) if isinstance(events, Stream) else tapped)

    return hearing
