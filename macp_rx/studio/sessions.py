"""What every page hears: which sessions there are, and whether the runtime is reached. One watch, however many pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from macp.v1.core_pb2 import SessionMetadata
from macp.v1.envelope_pb2 import SessionState
from reactivex.disposable import Disposable, SerialDisposable

from macp_rx.client import MacpClient
from macp_rx.streams.retry import Backoff, RetryPolicy, is_transient
from macp_rx.streams.stream import Demand
from macp_rx.studio.frames import frame

__all__ = ["Sessions"]

Rows = Mapping[str, Mapping[str, object]]
"""What a page is told of each session, by its id."""

NONE: Final[Rows] = {}

PACE: Final = 0.2
"""Seconds between two lists, and between two frames to a page: what changes meanwhile is told together."""

RETRY: Final = RetryPolicy(first=0.1, cap=2.0, give_up_after=float("inf"), first_contact=float("inf"))


class Sessions:
    """The sessions of a runtime as they are now. Everything happens on the client's clock.

    Args:
        client: who asks.
    """

    def __init__(self, client: MacpClient) -> None:
        self._client = client
        self._clock = client.clock
        self._backoff = Backoff(RETRY, client.clock)
        self._watching, self._listing, self._waiting = SerialDisposable(), SerialDisposable(), SerialDisposable()
        self._demand = Demand(client.clock)
        self._metadata: Mapping[str, SessionMetadata] = {}
        self._rows: Rows | None = None  # until the runtime has told them
        self._runtime: Mapping[str, object] = {"target": client.target, "reached": None}
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Begins to watch. The watch of roots answers at once, and breaks with the connection: it tells whether there is one."""
        roots = self._client.watch_roots()
        self._watching.disposable = roots.subscribe(self._reached, self._lost, self._lost)

    def stop(self) -> None:
        """Watches no more."""
        for each in (self._watching, self._listing, self._waiting):
            each.dispose()

    def find(self, session_id: str) -> SessionMetadata | None:
        """What the runtime tells of a session; None if it knows no such session."""
        return self._metadata.get(session_id)

    async def frames(self) -> AsyncGenerator[str]:
        """What a page is to hear: all of it, and then what has changed since it was told last, however much that was."""
        told: Rows | None = None
        while True:
            changed, rows = self._changed, self._rows
            before, now = told or NONE, rows or NONE
            news = [row for session_id, row in now.items() if before.get(session_id) != row]
            gone = [session_id for session_id in before if session_id not in now]
            whole = told is None and rows is not None
            yield frame("sessions", {"runtime": self._runtime, "whole": whole, "changed": news, "gone": gone})
            told = rows
            await changed.wait()
            await asyncio.sleep(PACE)

    # The watch.

    def _reached(self, _change: object) -> None:
        if self._runtime["reached"] is not True:
            self._backoff.reset()
            self._tell(reached=True)
            listed = self._client.live_sessions()
            self._listing.disposable = listed.subscribe(self._list, self._lost, scheduler=self._demand)

    def _list(self, sessions: Mapping[str, SessionMetadata]) -> None:
        self._metadata = sessions
        self._rows = {session_id: _row(metadata) for session_id, metadata in sessions.items()}
        self._notify()
        self._demand.pause()
        self._clock.run_later(PACE, self._demand.resume)

    def _lost(self, error: Exception | None = None) -> None:
        self._watching.disposable = Disposable()
        self._listing.disposable = Disposable()
        refused = error is not None and not is_transient(error)
        self._tell(reached=False, refused=refused, why=str(error or "the runtime has ended the watch"))
        self._waiting.disposable = self._clock.run_later(self._backoff.next() or 0, self.start)

    def _tell(self, *, reached: bool, refused: bool = False, why: str = "") -> None:
        self._runtime = {"target": self._client.target, "reached": reached, "refused": refused, "why": why}
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _row(metadata: SessionMetadata) -> dict[str, object]:
    return {
        "id": metadata.session_id,
        "mode": metadata.mode,
        "state": SessionState.Name(metadata.state).removeprefix("SESSION_STATE_"),
        "started": metadata.started_at_unix_ms,
        "deadline": metadata.expires_at_unix_ms,
        "initiator": metadata.initiator,
        "participants": list(metadata.participants),
        "policy": metadata.policy_version,
    }
