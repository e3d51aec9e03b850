"""A fleet: one agent in every session of a mode, on the workers of a Dask cluster.

Each session is a task of Dask, which runs it elsewhere when its worker dies or leaves. So there is nothing here but a watch that
finds sessions, and what hears of their ends; what is on the workers is in `served`. That a session which is taken over goes on
without a gap, and nothing takes effect twice, is the rule of `taking_part`.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import pickle
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

from macp.v1 import core_pb2
from reactivex import Observable, abc
from reactivex.disposable import Disposable

from macp_rx.client import MacpClient
from macp_rx.errors import MacpError, MacpSessionError, MacpWouldBlockError
from macp_rx.memory import Memory
from macp_rx.session import Agent, Session
from macp_rx.streams.all_sessions import Where
from macp_rx.streams.session import SessionStream
from macp_rx.streams.status import Connection

if TYPE_CHECKING:
    from distributed import Client
    from rich.table import Table

__all__ = ["Fleet", "Served", "pickled"]

_log = logging.getLogger("macp_rx.agents")

AGAIN: Final = 1.0
"""Seconds until a cluster that cannot be asked, or has no worker that is fit, is tried again."""


@dataclass(frozen=True, slots=True)
class Served:
    """One session that a fleet takes part in.

    Attributes:
        session_id: which.
        worker: the address of the worker that serves it; blank while there is none.
        since: when that worker began.
        sequence: the last that the agent heard there.
        connection: what happened to its connection last.
        reconnects: how often it was connected again.
        lag: seconds since the agent last had all that was accepted; 0 while it has it.
    """

    session_id: str
    worker: str = ""
    since: datetime | None = None
    sequence: int = 0
    connection: Connection | None = None
    reconnects: int = 0
    lag: float = 0


@dataclass(slots=True, eq=False)
class _Wanted:
    """A session that is to be served; lives on Dask's loop."""

    metadata: core_pb2.SessionMetadata
    over: Callable[[], None]
    tries: int = 0
    key: tuple[str, str, int] | None = None
    asked: str = ""
    following: asyncio.Task[None] | None = None
    futures: list[Any] = field(default_factory=list[Any])


class Fleet(abc.DisposableBase):
    """An agent that takes part, on the workers of a Dask cluster, in every session that it may read: what `agents.serve` makes.

    A new session goes to the worker that has the fewest. One that dies or leaves has its sessions taken over by others. A session
    is lost by nobody's death but this process's: started again, it finds the sessions that have not ended.

    Args:
        connect: makes the connection of a process: this one, which watches, and each worker. Its errors, the agent's and the
            memory's are told at once for the workers that there are.
        agent: the agent; like ``connect`` it is sent by cloudpickle.
        on: the cluster.
        mode: only sessions of this mode.
        where: only sessions that it says yes to, here.
        memory: the path of a file, or what opens one, on each worker.
        on_error: hears in which session there was which error, on the watching client's I/O thread; logged by default.

    Raises:
        MacpSessionError: what a worker needs cannot be sent there.
        MacpWouldBlockError: called on Dask's own loop, on which it must wait.
    """

    def __init__(
        self,
        connect: Callable[[], MacpClient],
        agent: Agent,
        *,
        on: Client,
        mode: str = "",
        where: Where | None = None,
        memory: str | Path | Callable[[], Memory] | None = None,
        on_error: Callable[[str, Exception], None] | None = None,
    ) -> None:
        from macp_rx.agents.served import Serving

        cluster: Any = on  # Dask is typed in parts
        self._cluster = cluster
        if cluster.asynchronous:
            raise MacpWouldBlockError(
                "a fleet waits for its workers, which Dask's own loop must not: asyncio.to_thread(…)"
            )
        self._loop: asyncio.AbstractEventLoop = cluster.loop.asyncio_loop
        self._name = f"macp-fleet-{uuid4().hex}"
        self._on_error = on_error
        self._wanted: dict[str, _Wanted] = {}
        self._waiting: list[_Wanted] = []
        self._placing: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._unfit: set[str] = set()
        self._over = False
        self._serving = Serving(self._name, _sent(connect, agent, memory))
        self._watcher = connect()
        try:
            self._cluster.sync(self._begin)
        except BaseException:
            self._cluster.sync(self._forget)
            self._watcher.close()
            raise
        sessions = self._watcher.each_session(self._serve, mode=mode, where=where)
        self._watching = sessions.subscribe(on_error=partial(self._report, ""))

    async def _begin(self) -> None:
        self._cluster.subscribe_topic(self._name, self._told)
        await self._register()

    async def _register(self) -> None:
        """Lets every worker know of the fleet, those to come, too; nothing where they know."""
        from macp_rx.agents.served import UnfitWorkerError

        try:
            await self._cluster.register_plugin(self._serving, name=self._name)
        except UnfitWorkerError as error:
            raise MacpSessionError(str(error)) from None

    # On the watcher's clock: sessions appear, and are over.

    def _serve(self, metadata: core_pb2.SessionMetadata, _events: SessionStream) -> Observable[None]:
        def subscribe(
            observer: abc.ObserverBase[None], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            over = partial(self._watcher.clock.run_soon, observer.on_completed)
            self._soon(partial(self._want, _Wanted(metadata, over)))
            return Disposable()

        return Observable(subscribe)

    def _report(self, session_id: str, error: Exception) -> None:
        def tell() -> None:
            if self._on_error is not None:
                self._on_error(session_id, error)
            elif wanted is not None:
                Session.of(self._watcher, wanted.metadata).log_error(error)
            else:
                _log.error("a fleet of agents: %s", error)

        wanted = self._wanted.get(session_id)
        self._watcher.clock.run_soon(tell)

    # On Dask's loop: where sessions are served.

    def _soon(self, action: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(action)

    def _want(self, wanted: _Wanted) -> None:
        if self._over:
            return
        self._wanted[wanted.metadata.session_id] = wanted
        self._waiting.append(wanted)
        if self._placing is None:
            self._placing = self._loop.create_task(self._place())

    async def _place(self) -> None:
        """Places all that wait, those that come meanwhile, too."""
        while self._waiting:
            try:
                load = await self._load()
            except Exception as error:
                if self._cluster.status in ("closing", "closed"):
                    self._report("", MacpError(f"the cluster is gone, and its sessions are served no more: {error}"))
                    return
                await asyncio.sleep(AGAIN)  # Dask is connecting again
                continue
            waiting, self._waiting = self._waiting, []
            for wanted in waiting:
                self._submit(wanted, load)
        self._placing = None

    async def _load(self) -> Counter[str]:
        """How many sessions each worker has that is fit; of one that Dask has not told of yet, where it was to go."""
        served = await self._cluster.processing()
        where = {key: worker for worker, keys in served.items() for key in keys}
        load = Counter({worker: 0 for worker in served if worker not in self._unfit})
        for wanted in self._wanted.values():
            worker = where.get(wanted.key, wanted.asked)
            if worker in load:
                load[worker] += 1
        return load

    def _submit(self, wanted: _Wanted, load: Counter[str]) -> None:
        from macp_rx.agents.served import take_part

        session_id = wanted.metadata.session_id
        wanted.tries += 1
        wanted.key = (self._name, session_id, wanted.tries)
        wanted.asked = min(load, key=load.__getitem__, default="")
        load[wanted.asked] += 1
        there = {"workers": [wanted.asked], "allow_other_workers": True} if wanted.asked else {}
        metadata = wanted.metadata.SerializeToString()
        future = self._cluster.submit(take_part, self._name, wanted.key, metadata, key=wanted.key, pure=False, **there)
        wanted.futures = [future]
        wanted.following = self._loop.create_task(self._follow(wanted, future))

    async def _follow(self, wanted: _Wanted, future: Any) -> None:
        """Waits until a session is over, or is to be served again."""
        from distributed import KilledWorker

        from macp_rx.agents.served import UnfitWorkerError, UnknownFleetError

        session_id = wanted.metadata.session_id
        try:
            await future
        except (KilledWorker, CancelledError):  # it was unlucky with its workers, or Dask was restarted
            self._want(wanted)
            return
        except UnknownFleetError:  # a scheduler that is new knows of nothing
            with suppress(OSError, MacpSessionError):  # what does not work is told when it is tried
                await self._register()
            await asyncio.sleep(AGAIN)
            self._want(wanted)
            return
        except UnfitWorkerError as error:
            if error.worker not in self._unfit:
                self._unfit.add(error.worker)
                self._report("", MacpSessionError(str(error)))
            await asyncio.sleep(AGAIN)
            self._want(wanted)
            return
        except Exception as error:
            self._report(session_id, error)
        del self._wanted[session_id]
        wanted.over()

    def _told(self, event: tuple[float, tuple[str, str, bytes]]) -> None:
        """A worker tells of an error."""
        _when, (session_id, text, pickled) = event
        try:
            error = pickle.loads(pickled)
        except Exception:  # of a class that is not known here
            error = MacpError(text)
        self._report(session_id, error)

    # For its owner.

    def status(self) -> tuple[Served, ...]:
        """Every session that it takes part in now, and where; asks the workers.

        Raises:
            MacpWouldBlockError: called on Dask's own loop.
        """
        from macp_rx.agents.served import status

        self._check()
        told: dict[str, tuple[Served, ...]] = self._cluster.run(status, self._name, on_error="ignore")
        served = [one for worker in told.values() for one in worker]
        known = {one.session_id for one in served}
        served.extend(Served(session_id) for session_id in tuple(self._wanted) if session_id not in known)
        return tuple(sorted(served, key=lambda one: (one.worker, one.session_id)))

    def dispose(self) -> None:
        """Leaves all sessions, soon. Any number of times, from any thread."""
        if self._loop.is_closed():  # whoever closes the cluster's client first has ended the sessions
            self._watcher.close()
        else:
            self._soon(self._end_soon)

    def close(self) -> None:
        """Leaves all sessions; on return nothing is left of it, here and on the workers.

        Raises:
            MacpWouldBlockError: called on Dask's own loop.
        """
        self._check()
        if self._loop.is_closed():
            self.dispose()
        else:
            self._cluster.sync(self._ended)

    def _check(self) -> None:
        if self._cluster.asynchronous:
            raise MacpWouldBlockError(
                "Dask's own loop must not wait for its workers: dispose(), or asyncio.to_thread(…)"
            )

    async def _ended(self) -> None:
        self._end_soon()
        assert self._ending is not None
        await self._ending

    def _end_soon(self) -> None:
        if self._ending is None:
            self._ending = self._loop.create_task(self._end())

    async def _end(self) -> None:
        self._over = True
        self._watching.dispose()
        tasks = [self._placing, *(wanted.following for wanted in self._wanted.values())]
        for task in tasks:
            if task is not None:
                task.cancel()
        for wanted in self._wanted.values():
            for future in wanted.futures:
                future.release()
        self._wanted.clear()
        self._waiting.clear()
        await self._watcher.aclose()
        await self._forget()

    async def _forget(self) -> None:
        """Lets the workers forget the fleet, and leave what it serves."""
        if self._cluster.status == "running":
            self._cluster.unsubscribe_topic(self._name)
            await self._cluster.unregister_worker_plugin(self._name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # What is shown.

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table("session", "worker", "since", "sequence", "connection", "lag", "reconnects")
        for one in self.status():
            since = f"{one.since:%H:%M:%S}" if one.since is not None else ""
            connection = one.connection.value if one.connection is not None else "waiting"
            lag = f"{one.lag:.1f} s" if one.lag else ""
            table.add_row(one.session_id, one.worker, since, str(one.sequence), connection, lag, str(one.reconnects))
        return table

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=140, color_system=None)
        with console.capture() as text:
            console.print(self.__rich__())
        return text.get()

    def __repr__(self) -> str:
        return f"Fleet({len(self._wanted)} sessions)"


def pickled(what: object) -> bytes:
    """A value as bytes for another process: by cloudpickle, as Dask does, which takes functions of a notebook by value."""
    cloudpickle: Any = importlib.import_module("cloudpickle")  # which Dask brings
    return bytes(cloudpickle.dumps(what))


def _sent(connect: Callable[[], MacpClient], agent: Agent, memory: str | Path | Callable[[], Memory] | None) -> bytes:
    try:
        return pickled((connect, agent, memory))
    except Exception as error:
        raise MacpSessionError(
            f"the agent, its connection or its memory cannot be sent to a worker ({error}): make them of functions of a module"
        ) from error
