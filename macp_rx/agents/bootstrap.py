"""An agent from a bootstrap file, as the official SDK reads it: who it is, where the runtime is, what it takes part in."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast
from uuid import UUID

import reactivex as rx
from macp.v1.core_pb2 import Root
from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.disposable import Disposable
from reactivex.internal.exceptions import SequenceContainsNoElementsError

from macp_rx.agents.running import outcome_of
from macp_rx.client import MacpClient
from macp_rx.clock import Clock
from macp_rx.errors import MacpSessionError
from macp_rx.memory import Memory
from macp_rx.protocol.canonical import from_json
from macp_rx.protocol.messages import DECISION, Message, payload_type
from macp_rx.protocol.start import CONFIGURATION_VERSION, MODE_VERSION, POLICY_VERSION, SessionStart
from macp_rx.session import Address, Agent, Outcome, Session
from macp_rx.taking_part import message_id
from macp_rx.transport.auth import AuthConfig

__all__ = ["Bootstrap", "from_bootstrap"]

VARIABLE: Final = "MACP_BOOTSTRAP_FILE"
DEFAULT_TTL_MS: Final = 300_000
REQUEST_LIMIT: Final = 64 * 1024


@dataclass(frozen=True)
class Bootstrap:
    """What a bootstrap file says, ready to run. A context manager: leaving it closes the connection.

    Attributes:
        participant_id: who takes part.
        session: what in, over a connection of its own.
        start: how to open it, if this agent is the initiator.
        kickoff: what the initiator says first.
        cancel_callback: host, port and path where a POST stops the agent (RFC-MACP-0001, 7.2).
    """

    participant_id: str
    session: Session
    start: SessionStart | None = None
    kickoff: Message[Any] | None = None
    cancel_callback: tuple[str, int, str] | None = None

    def run(self, agent: Agent, *, memory: Memory | None = None) -> Outcome | None:
        """Opens the session, if this is the initiator, takes part with an agent, and waits for the end.

        Run again after a crash, it opens nothing twice: what it opens with has the same ids each time.

        Args:
            agent: what this participant does.
            memory: what it remembers beyond the history, so that it can be started again; see `Session.join`.

        Returns:
            How the session ended; None if the agent was stopped before.
        """
        clock = self.session.client.clock
        if self.start is not None:
            self._open(self.start.message)
            if self.kickoff is not None:
                self._open(self.kickoff)
        outcome = outcome_of(self.session, {self.participant_id: agent}, memory=memory)
        if self.cancel_callback is not None:
            outcome = outcome.pipe(ops.take_until(_posts(clock, *self.cancel_callback)))
        try:
            return outcome.run()
        except SequenceContainsNoElementsError:
            return None

    def _open(self, message: Message[Any]) -> None:
        opened = message_id(self.session.session_id, self.participant_id, message, 0)  # its agent begins with 1
        self.session.saying(message, str(UUID(opened))).run()

    def close(self) -> None:
        """Closes the connection."""
        self.session.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def from_bootstrap(path: str | Path | None = None, *, allow_remote_cancel: bool = False) -> Bootstrap:
    """Reads a bootstrap file of the official SDK.

    Args:
        path: the file; the one that MACP_BOOTSTRAP_FILE names by default.
        allow_remote_cancel: let ``cancel_callback`` listen on an address that others can reach; whoever posts there stops the
            agent.

    Raises:
        MacpSessionError: there is no file, or it says something wrong; the text says what.
    """
    name = path or os.environ.get(VARIABLE)
    if not name:
        raise MacpSessionError(f"no bootstrap file: name one, or set {VARIABLE}")
    try:
        said = _Members(json.loads(Path(name).read_text(encoding="utf-8")), str(name))
    except (OSError, ValueError) as error:
        raise MacpSessionError(f"bootstrap file {name}: {error}") from error
    return said.bootstrap(allow_remote_cancel)


class _Members:
    """The members of a JSON object, each read as what it must be."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise MacpSessionError(f"{where} is an object, not {type(value).__name__}")
        self._members = cast("dict[str, object]", value)
        self._where = where

    def text(self, name: str, default: str | None = None) -> str:
        """A text. To the official SDK one that is blank is not there, so it has its default."""
        value = self._members.get(name)
        value = default if value in (None, "") else value
        if not isinstance(value, str):
            raise MacpSessionError(
                f"{self._where}: {name!r} is a text that is not empty, not {self._members.get(name)!r}"
            )
        return value

    def number(self, name: str, default: int | None) -> int:
        value = self._members.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise MacpSessionError(f"{self._where}: {name!r} is a whole number, not {value!r}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self._members.get(name, default)
        if not isinstance(value, bool):
            raise MacpSessionError(f"{self._where}: {name!r} is true or false, not {value!r}")
        return value

    def names(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self._members.get(name)
        if value is None:
            return default
        found = cast("list[object]", value) if isinstance(value, list) else [None]
        if not all(isinstance(one, str) for one in found):
            raise MacpSessionError(f"{self._where}: {name!r} is a list of texts, not {value!r}")
        return tuple(cast("list[str]", found))

    def part(self, name: str) -> _Members | None:
        value = self._members.get(name)
        return None if value is None else _Members(value, f"{self._where}: {name!r}")

    def bootstrap(self, allow_remote_cancel: bool) -> Bootstrap:
        participant_id = self.text("participant_id")
        mode = self.text("mode")
        address = Address(
            mode,
            self.text("session_id"),
            self.text("mode_version", MODE_VERSION),
            self.text("configuration_version", CONFIGURATION_VERSION),
            self.text("policy_version", POLICY_VERSION),
        )
        start, kickoff = None, None
        initiator = self.part("initiator")
        if initiator is not None:
            start = (initiator.part("session_start") or _Members({}, self._where)).start(
                address, self.names("participants", ())
            )
            spoken = initiator.part("kickoff")
            kickoff = None if spoken is None else spoken.kickoff(address)
        called = self.part("cancel_callback")
        cancel = None if called is None else called.callback(allow_remote_cancel)
        target = self.text("runtime_url", self.text("runtime_address", ""))
        if not target:
            raise MacpSessionError(f"{self._where}: 'runtime_url' says where the runtime is, such as 'localhost:50051'")
        secure = self.flag("secure", True) or not self.flag("allow_insecure", False)
        if secure and not self.flag("secure", True):
            raise MacpSessionError(f"{self._where}: 'secure' is false, so 'allow_insecure' must say true")
        client = MacpClient(target=target, secure=secure, auth=self.auth(participant_id))
        try:
            return Bootstrap(participant_id, Session.at(client, address), start, kickoff, cancel)
        except MacpSessionError:
            client.close()
            raise

    def auth(self, participant_id: str) -> AuthConfig:
        nested = self.part("auth") or _Members({}, self._where)
        expected = participant_id
        token = self.text("auth_token", "")
        if not token:
            token, expected = nested.text("bearer_token", ""), nested.text("expected_sender", participant_id)
        if token:
            return AuthConfig.for_bearer(token, sender_hint=participant_id, expected_sender=expected)
        agent_id = self.text("agent_id", nested.text("agent_id", ""))
        if agent_id:
            return AuthConfig.for_dev_agent(agent_id, expected_sender=participant_id)
        raise MacpSessionError(f"{self._where}: no credential: 'auth_token', or 'agent_id' for development")

    def start(self, address: Address, participants: tuple[str, ...]) -> SessionStart:
        extensions = self.part("extensions")
        roots = self._members.get("roots")
        if roots is not None and not isinstance(roots, list):
            raise MacpSessionError(f"{self._where}: 'roots' is a list of objects with a 'uri', not {roots!r}")
        found = cast("list[object]", roots or [])
        return SessionStart(
            mode=address.mode,
            intent=self.text("intent", ""),
            participants=self.names("participants", participants),
            ttl_ms=self.number("ttl_ms", DEFAULT_TTL_MS),
            mode_version=self.text("mode_version", address.mode_version),
            configuration_version=self.text("configuration_version", address.configuration_version),
            policy_version=self.text("policy_version", address.policy_version),
            context_id=self.text("context_id", ""),
            extensions={} if extensions is None else extensions.extensions(),
            roots=[from_json(root, Root) for root in found],
            max_suspend_ms=self.number("max_suspend_ms", 0),
        )

    def extensions(self) -> Mapping[str, bytes]:
        return {name: _bytes(self.text(name)) if value != "" else b"" for name, value in self._members.items()}

    def kickoff(self, address: Address) -> Message[Any]:
        message_type = self.text("message_type")
        cls = payload_type(address.mode, message_type)
        if cls is None:
            raise MacpSessionError(f"{self._where}: {address.mode} has no {message_type!r}")
        said = self.part("payload")
        payload = dict(said._members) if said is not None else {}
        if (
            message_type == "Proposal"
        ):  # of which the official SDK fills in what is missing, and takes the details for text
            proposal_id = payload.pop("proposalId", None) or payload.get("proposal_id")
            option, title = payload.get("option"), payload.get("title")
            chosen = option or title if address.mode == DECISION else title or option
            chosen = chosen or "decide"
            payload |= {
                "proposal_id": proposal_id or f"{address.session_id}-kickoff",
                "option": chosen,
                "title": chosen,
            }
            if isinstance(details := payload.get("details"), str):
                payload["details"] = base64.b64encode(details.encode()).decode()
        return Message(address.mode, from_json(payload, cls))

    def callback(self, allow_remote: bool) -> tuple[str, int, str]:
        host, port, path = self.text("host"), self.number("port", None), self.text("path")
        if not 1 <= port <= 65535:
            raise MacpSessionError(f"{self._where}: 'port' is one of 1 to 65535, not {port}")
        if not allow_remote and not _is_loopback(host):
            raise MacpSessionError(
                f"{self._where}: {host!r} can be reached from other machines, and who posts there stops the agent: use "
                "127.0.0.1, or say allow_remote_cancel=True"
            )
        return host, port, path if path.startswith("/") else f"/{path}"


def _bytes(text: str) -> bytes:
    """Base64, as the schema says; else the text itself, as the official SDK takes it."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _posts(clock: Clock, host: str, port: int, path: str) -> Observable[str]:
    """Listens for HTTP while it is subscribed, and emits the body of each POST to the path. One small request a connection."""

    def subscribe(observer: abc.ObserverBase[str], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
        open_: set[asyncio.StreamWriter] = set()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            open_.add(writer)
            try:
                async with asyncio.timeout(10):
                    status, body = await _request(reader, path)
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):  # it has left, or takes too long
                return
            finally:
                open_.discard(writer)
                writer.close()
            if body is not None:
                observer.on_next(body)

        async def listen() -> None:
            try:
                server = await asyncio.start_server(answer, host, port, limit=REQUEST_LIMIT)
            except OSError as error:
                observer.on_error(MacpSessionError(f"cancel_callback cannot listen on {host}:{port}: {error}"))
                return
            async with server:
                await server.serve_forever()

        task = clock.loop.create_task(listen())

        def stop() -> None:
            task.cancel()
            for writer in open_:  # who has connected and says nothing
                writer.transport.abort()

        return Disposable(lambda: clock.run_soon(stop))

    return rx.create(subscribe)


async def _request(reader: asyncio.StreamReader, path: str) -> tuple[str, str | None]:
    """The status to answer with, and the body if it is what was waited for."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    method, _, rest = head.partition(" ")
    length = next((line[15:] for line in head.lower().split("\r\n") if line.startswith("content-length:")), "0").strip()
    if not (length.isascii() and length.isdecimal()):
        return "400 Bad Request", None
    if len(length) > 9 or int(length) > REQUEST_LIMIT:
        return "413 Content Too Large", None
    body = (await reader.readexactly(int(length))).decode(errors="replace")
    if rest.partition(" ")[0] != path:
        return "404 Not Found", None
    return ("202 Accepted", body) if method == "POST" else ("405 Method Not Allowed", None)
