"""Where a runtime keeps what happened, so that a restart makes every session again (`kernel.rebuild`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Envelope

from macp_rx.errors import MacpError
from macp_rx.protocol.lifecycle import Entry, Kind
from macp_rx.protocol.policy import policy_from
from macp_rx.runtime.state import (
    Issued,
    Kept,
    Logged,
    ModeAdded,
    ModePromoted,
    ModeRemoved,
    PolicyAdded,
    PolicyRemoved,
)

__all__ = ["SqliteStore", "Store"]


class Store(Protocol):
    """Keeps what happened. Every method is called on the runtime's clock."""

    def keep(self, happened: Iterable[Kept]) -> None:
        """Keeps some things, all or none, before anybody is told of them; never nothing. What it raises refuses the request."""

    def kept(self) -> Iterator[Kept]:
        """Everything that was kept, oldest first."""
        ...

    def close(self) -> None:
        """Releases what it holds. Any number of times."""


SCHEMA: Final = """
create table happened (
    number integer primary key,
    what text not null,          -- which kind of thing
    subject text not null,       -- the session, mode or policy that it happened to
    at integer not null,         -- Unix milliseconds, where it is an entry of a session's log
    content blob not null,       -- the envelope, descriptor, name or receipt, as received
    policy blob                  -- the policy's descriptor, where a session starts
) strict;
"""
VERSION: Final = 1

ENVELOPES: Final = (Kind.START, Kind.MESSAGE, Kind.SYNTHETIC)
"""Entries whose content is an envelope; the others have none."""


class SqliteStore:
    """An append-only SQLite file: one transaction for each accepted message, on disk before it is acknowledged.

    Args:
        path: the file; made if it is not there. One runtime at a time.

    Raises:
        MacpError: the file cannot be opened, is no such store, or another runtime has it.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        try:
            # the runtime's clock is the only user, but which thread runs it is the clock's business
            self._file = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=0)
        except sqlite3.Error as error:
            raise MacpError(f"cannot open {self._path} as a store: {error}") from error
        try:
            self._open()
        except sqlite3.Error as error:
            self._file.close()
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # the other bits say why
            why = "another runtime has it" if busy else error
            raise MacpError(f"cannot use {self._path} as a store: {why}") from error
        except MacpError:
            self._file.close()
            raise

    def _open(self) -> None:
        self._file.execute("pragma locking_mode = exclusive")
        (version,) = self._file.execute("pragma user_version").fetchone()
        (tables,) = self._file.execute("select count(*) from sqlite_schema").fetchone()
        # somebody else's database is left as it is
        if version == 0 and tables:
            raise MacpError(f"{self._path} is some other SQLite database, and no store of macp_rx")
        if version not in (0, VERSION):
            raise MacpError(f"{self._path} is a store of version {version}; this macp_rx reads version {VERSION}")
        self._file.execute("pragma journal_mode = wal")
        self._file.execute("pragma synchronous = full")  # a commit survives the loss of power, not only kill -9
        self._file.execute("begin immediate")
        if version == 0:
            self._file.execute(SCHEMA)
            self._file.execute(f"pragma user_version = {VERSION}")
        self._file.execute("commit")

    def keep(self, happened: Iterable[Kept]) -> None:
        """Writes in one transaction."""
        try:
            self._file.execute("begin")
            try:
                self._file.executemany(
                    "insert into happened (what, subject, at, content, policy) values (?, ?, ?, ?, ?)",
                    map(_row, happened),
                )
                self._file.execute("commit")
            except BaseException:
                if self._file.in_transaction:  # a full disk has rolled it back already
                    self._file.execute("rollback")
                raise
        except sqlite3.Error as error:
            raise MacpError(f"cannot write to {self._path}: {error}") from error

    def kept(self) -> Iterator[Kept]:
        """Reads from the start."""
        try:
            rows = self._file.execute("select number, what, subject, at, content, policy from happened order by number")
            for number, what, subject, at, content, policy in rows:
                yield self._read(number, what, subject, at, content, policy)
        except sqlite3.Error as error:
            raise MacpError(f"cannot read {self._path}: {error}") from error

    def _read(self, number: int, what: str, subject: str, at: int, content: bytes, policy: bytes | None) -> Kept:
        try:
            return _read(what, subject, at, content, policy)
        except Exception as error:
            raise MacpError(f"row {number} of {self._path} cannot be read: {error}") from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


Row = tuple[str, str, int, bytes, bytes | None]


def _row(one: Kept) -> Row:
    match one:
        case Logged(session_id, entry, policy):
            content = entry.envelope.SerializeToString() if entry.envelope is not None else b""
            bound = policy.descriptor().SerializeToString() if policy is not None else None
            return entry.kind.value, session_id, entry.at, content, bound
        case Issued(session_id, receipt):
            return "receipt", session_id, 0, receipt.encode(), None
        case ModeAdded(descriptor):
            return "mode added", descriptor.mode, 0, descriptor.SerializeToString(), None
        case ModePromoted(mode, name):
            return "mode promoted", mode, 0, name.encode(), None
        case ModeRemoved(mode):
            return "mode removed", mode, 0, b"", None
        case PolicyAdded(policy):
            return "policy added", policy.policy_id, 0, b"", policy.descriptor().SerializeToString()
        case PolicyRemoved(policy_id):
            return "policy removed", policy_id, 0, b"", None


def _read(what: str, subject: str, at: int, content: bytes, policy: bytes | None) -> Kept:
    match what:
        case "receipt":
            return Issued(subject, content.decode())
        case "mode added":
            return ModeAdded(core_pb2.ModeDescriptor.FromString(content))
        case "mode promoted":
            return ModePromoted(subject, content.decode())
        case "mode removed":
            return ModeRemoved(subject)
        case "policy added":
            return PolicyAdded(policy_from(policy_pb2.PolicyDescriptor.FromString(policy or b"")))
        case "policy removed":
            return PolicyRemoved(subject)
        case _:
            kind = Kind(what)
            envelope = Envelope.FromString(content) if kind in ENVELOPES else None
            bound = policy_from(policy_pb2.PolicyDescriptor.FromString(policy)) if policy is not None else None
            return Logged(subject, Entry(kind, at, envelope), bound)
