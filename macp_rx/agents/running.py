"""What runs agents: several in one session, and one in every session of a mode."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, overload

import reactivex as rx
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Ack
from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.disposable import CompositeDisposable

from macp_rx.agents.fleet import Fleet
from macp_rx.client import MacpClient
from macp_rx.errors import MacpError, MacpSessionError
from macp_rx.memory import Memory
from macp_rx.session import Agent, Outcome, Session
from macp_rx.streams.all_sessions import Project, Where
from macp_rx.streams.session import SessionStream
from macp_rx.streams.stream import Stream
from macp_rx.transport.auth import AuthConfig

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["outcome_of", "run", "serve", "taking_part"]

_log = logging.getLogger("macp_rx.agents")

Panel = Mapping[str, Agent] | Mapping[AuthConfig, Agent]
"""Who takes part as what: a name, on a runtime with dev authentication, or a credential; and the agent."""


def outcome_of(
    session: Session,
    panel: Panel,
    *,
    memory: Memory | None = None,
    on_error: Callable[[str, Exception], None] | None = None,
) -> Stream[Outcome]:
    """Lets several agents take part and emits how the session ends. Cold: they join with the subscription, and leave with it.

    The session may be started before or within 30 seconds. See `Session.join` for what an agent's errors do.

    Args:
        session: the coordination.
        panel: name, or credential, and agent. The session's own identity is kept for its name.
        memory: what the agents remember beyond the history, so that they can be started again.
        on_error: hears who had which error, refusals included; logged by default.
    """
    for name, agent in panel.items():
        if not callable(agent):
            raise MacpSessionError(f"the agent of {name} is a function from events to messages, not {agent!r}")

    def subscribe(
        observer: abc.ObserverBase[Outcome], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        joined = CompositeDisposable()
        try:
            for who, agent in panel.items():
                name = who if isinstance(who, str) else who.sender
                report = None if on_error is None else partial(on_error, name)
                joined.add(_identity(session, who).join(agent, memory=memory, on_error=report))
        except Exception:
            joined.dispose()
            raise
        return CompositeDisposable(joined, session.outcome.subscribe(observer, scheduler=scheduler))

    return session.outcome.derived(Observable(subscribe))


def run(
    session: Session,
    panel: Panel,
    *,
    memory: Memory | None = None,
    on_error: Callable[[str, Exception], None] | None = None,
) -> Outcome:
    """Lets several agents take part, waits for the end of the session, and tells how it ended. See `outcome_of`.

    Args:
        session: the coordination.
        panel: name, or credential, and agent.
        memory: what the agents remember beyond the history, so that they can be started again.
        on_error: hears who had which error, refusals included; logged by default.
    """
    return outcome_of(session, panel, memory=memory, on_error=on_error).run()


@overload
def serve(
    client: MacpClient,
    agent: Agent,
    *,
    mode: str = "",
    where: Where | None = None,
    memory: Memory | None = None,
    on_error: Callable[[str, Exception], None] | None = None,
    on: None = None,
) -> abc.DisposableBase: ...
@overload
def serve(
    connect: Callable[[], MacpClient],
    agent: Agent,
    /,
    *,
    mode: str = "",
    where: Where | None = None,
    memory: str | Path | Callable[[], Memory] | None = None,
    on_error: Callable[[str, Exception], None] | None = None,
    on: Client,
) -> Fleet: ...


def serve(
    client: MacpClient | Callable[[], MacpClient],
    agent: Agent,
    *,
    mode: str = "",
    where: Where | None = None,
    memory: Memory | str | Path | Callable[[], Memory] | None = None,
    on_error: Callable[[str, Exception], None] | None = None,
    on: Client | None = None,
) -> abc.DisposableBase:
    """Lets an agent take part in every session that the client may read, as they appear, until each ends.

        session 1   S-p-v-C
        says        --v----
        session 2   ----S-p-v-C
        says        ------v----

    Each session has a subscription of its own of the agent, so their states do not mix. An error in one session ends the
    agent there, and nowhere else.

    Started again, it finds the sessions that have not ended, and goes on in each where it was; see `Session.join`.

    With ``on`` it does so on the workers of a Dask cluster (`Fleet`, docs/cluster.md):

        fleet = agents.serve(partial(MacpClient, target=…, auth=…), agent, on=Client(…), memory="agent.sqlite")

    Args:
        client: the connection, and who takes part; with ``on``, a function that connects, as each process must for itself.
        agent: the agent.
        mode: only sessions of this mode.
        where: only sessions that it says yes to, by their metadata when they appear.
        memory: what the agent remembers beyond the histories, so that it can be started again; what it remembers of a session is
            forgotten with the session's end. With ``on``, the path of its file or a function that opens one.
        on_error: hears in which session there was which error, refusals included; the watch's own with a blank id. Logged by
            default.
        on: a Dask cluster to take part on (``pip install 'macp-rx[dask]'``). Its workers need this package.

    Returns:
        Dispose it, and the agent leaves all sessions.

    Raises:
        MacpSessionError: the agent, or what it is to be served with, is not what it must be.
    """
    if on is not None:
        if not callable(agent):
            raise MacpSessionError(f"an agent is a function from events to messages, not {agent!r}")
        if isinstance(client, MacpClient) or isinstance(memory, Memory):
            raise MacpSessionError(
                "a connection or an open file cannot be sent to a worker: on a cluster, serve takes a function that connects, "
                "such as partial(MacpClient, target=…), and the path of the memory's file or a function that opens one"
            )
        return Fleet(client, agent, on=on, mode=mode, where=where, memory=memory, on_error=on_error)
    if not isinstance(client, MacpClient) or not isinstance(memory, Memory | None):
        raise MacpSessionError(
            "in one process, serve takes a MacpClient and a Memory; functions that make them are for on="
        )
    watching = client.each_session(taking_part(client, agent, memory, on_error), mode=mode, where=where)
    return watching.subscribe(on_error=_lost if on_error is None else partial(on_error, ""))


def taking_part(
    client: MacpClient, agent: Agent, memory: Memory | None, on_error: Callable[[str, Exception], None] | None
) -> Project[Ack]:
    """What makes of a session what an agent says in it, with errors reported: completes, whatever happens.

    Args:
        client: who takes part.
        agent: the agent.
        memory: what it remembers.
        on_error: hears in which session there was which error; logged by default.
    """

    def take_part(metadata: core_pb2.SessionMetadata, events: SessionStream) -> Observable[Ack]:
        session = Session.of(client, metadata)
        report = session.log_error if on_error is None else partial(on_error, metadata.session_id)

        def ended(error: Exception, _source: Observable[Ack]) -> Observable[Ack]:
            report(error)
            return rx.empty()

        def forget() -> None:
            if memory is not None:
                try:
                    memory.forget(metadata.session_id)
                except MacpError as error:  # the session is over all the same
                    report(error)

        try:
            return session.spoken(agent, events, report, memory=memory, on_end=forget).pipe(ops.catch(ended))
        except Exception as error:  # the agent has not even begun
            return ended(error, rx.empty())

    return take_part


def _identity(session: Session, who: str | AuthConfig) -> Session:
    auth = session.client.auth
    same = auth is not None and who in (auth, auth.sender)
    return session if same else session.acting_as(who)


def _lost(error: Exception) -> None:
    _log.error("an agent is served no more: %s", error)
