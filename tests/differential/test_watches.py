"""What tells of everything at once, so that random scenarios cannot compare it: watches of registries, and whole lists.

One fixed course is played on each runtime for itself, and what was heard must be the same.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Envelope

from macp_rx import Runtime
from tests.conftest import RealServer, runtime_binary
from tests.differential.answers import Plain, plain
from tests.differential.script import OVERDUE
from tests.differential.steps import response_class

WATCHED = 1.5
"""Seconds that the watches stay open: what is told later, or told too often, shows as well."""

MODE = "ext.watched.v1"
MARK = core_pb2.SignalPayload(signal_type="mark")


class Watch:
    """A watch that is open for a while, read by a thread of its own."""

    def __init__(self, call: Iterator[Any]) -> None:
        self._told: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._read, args=[call], daemon=True).start()

    def _read(self, call: Iterator[Any]) -> None:
        try:
            for told in call:
                self._told.put(told)
            self._told.put("OK")
        except grpc.RpcError as error:
            self._told.put(error.code().name)

    def next(self, seconds: float = 10) -> Any:
        return self._told.get(timeout=seconds)

    def rest(self) -> list[Any]:
        """What else it tells, and how it ends."""
        told: list[Any] = []
        while not told or not isinstance(told[-1], str):
            told.append(self.next())
        return told


class Course:
    """A runtime, what it was asked and what it told."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def ask(self, method: str, request: Message, agent: str = "chair") -> Any:
        call = self._channel.unary_unary(_path(method), response_deserializer=response_class(method).FromString)
        return call(request.SerializeToString(), metadata=_bearer(agent), timeout=10)

    def watch(self, method: str) -> Watch:
        call = self._channel.unary_stream(_path(method), response_deserializer=response_class(method).FromString)
        return Watch(call(b"", metadata=_bearer("watcher"), timeout=WATCHED))

    def say(self, session_id: str, message_type: str, payload: Message, agent: str = "chair", stamp: int = 0) -> Any:
        envelope = Envelope(
            macp_version="1.0",
            mode="macp.mode.quorum.v1" if session_id else "",
            message_type=message_type,
            message_id=message_type,
            session_id=session_id,
            sender=agent,
            timestamp_unix_ms=stamp,
            payload=payload.SerializeToString(),
        )
        return self.ask("Send", core_pb2.SendRequest(envelope=envelope), agent).ack

    def start(self, session_id: str, stamp: int = 0) -> None:
        payload = core_pb2.SessionStartPayload(
            participants=["chair"], mode_version="1.0.0", configuration_version="c", ttl_ms=600_000
        )
        assert self.say(session_id, "SessionStart", payload, stamp=stamp).ok

    def register_mode(self, name: str) -> bool:
        descriptor = core_pb2.ModeDescriptor(
            mode=name, mode_version="1", message_types=["Commitment"], terminal_message_types=["Commitment"]
        )
        request = core_pb2.RegisterExtModeRequest(mode_descriptor=descriptor)
        return bool(self.ask("RegisterExtMode", request).ok)

    def register_policy(self, name: str) -> bool:
        policy = policy_pb2.PolicyDescriptor(policy_id=name, mode="*", schema_version=1)
        return bool(self.ask("RegisterPolicy", policy_pb2.RegisterPolicyRequest(policy_descriptor=policy)).ok)


@pytest.fixture
def targets() -> Iterator[list[str]]:
    """The real server and the embedded runtime, both fresh."""
    binary = runtime_binary()
    assert binary is not None
    server = RealServer(binary)
    with Runtime() as runtime, runtime.serve() as served:
        yield [server.target, served.target]
    server.close()


def _path(method: str) -> str:
    return f"/macp.v1.MACPRuntimeService/{method}"


def _bearer(agent: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {agent}"),)


def _plain(told: Any) -> Plain:
    return plain(told) if isinstance(told, Message) else told


def _registries(course: Course) -> list[Plain]:
    modes, policies, roots = (course.watch(name) for name in ("WatchModeRegistry", "WatchPolicies", "WatchRoots"))
    first = [plain(watch.next()) for watch in (modes, policies, roots)]
    done = [
        course.register_mode(MODE),
        course.register_mode(MODE),
        course.register_mode("macp.mode.mine"),
        course.ask("PromoteMode", core_pb2.PromoteModeRequest(mode=MODE, promoted_mode_name="mine.v1")).ok,
        course.ask("PromoteMode", core_pb2.PromoteModeRequest(mode="mine.v1")).ok,
        course.ask("UnregisterExtMode", core_pb2.UnregisterExtModeRequest(mode="mine.v1")).ok,
        course.register_mode(MODE),
        course.ask("UnregisterExtMode", core_pb2.UnregisterExtModeRequest(mode=MODE)).ok,
        course.ask("UnregisterExtMode", core_pb2.UnregisterExtModeRequest(mode=MODE)).ok,
        course.ask("PromoteMode", core_pb2.PromoteModeRequest(mode="ext.multi_round.v1")).ok,
        course.register_mode(" "),
        course.register_policy("b"),
        course.register_policy("a"),
        course.register_policy("a"),
        course.register_policy("policy.default"),
        course.ask("UnregisterPolicy", policy_pb2.UnregisterPolicyRequest(policy_id="b")).ok,
        course.ask("UnregisterPolicy", policy_pb2.UnregisterPolicyRequest(policy_id="b")).ok,
    ]
    lists = [
        [mode.mode for mode in course.ask(method, request()).modes]
        for method, request in [
            ("ListModes", core_pb2.ListModesRequest),
            ("ListExtModes", core_pb2.ListExtModesRequest),
        ]
    ]
    return [first, done, lists, *([_plain(told) for told in watch.rest()] for watch in (modes, policies, roots))]


def _sessions(course: Course) -> list[Plain]:
    ids = [f"{letter * 30}-{number}" for number, letter in enumerate("cabZ_90")]
    for session_id in ids:
        course.start(session_id)
    course.ask("CancelSession", core_pb2.CancelSessionRequest(session_id=ids[1]))
    course.ask("SuspendSession", core_pb2.SuspendSessionRequest(session_id=ids[2]))
    lifecycle, signals = course.watch("WatchSessions"), course.watch("WatchSignals")
    synced = sorted(_event(lifecycle.next()) for _ in ids)
    _until_it_listens(course, signals)
    course.ask("ResumeSession", core_pb2.ResumeSessionRequest(session_id=ids[2]))
    course.ask("SuspendSession", core_pb2.SuspendSessionRequest(session_id=ids[0]))
    course.ask("CancelSession", core_pb2.CancelSessionRequest(session_id=ids[0]))
    course.ask("CancelSession", core_pb2.CancelSessionRequest(session_id=ids[0]))
    overdue = "overdue-" + "x" * 22
    course.start(overdue, stamp=OVERDUE)
    course.ask("GetSession", core_pb2.GetSessionRequest(session_id=overdue))
    course.say("", "Signal", core_pb2.SignalPayload(signal_type="hint", confidence=7))
    course.say(ids[3], "Progress", core_pb2.ProgressPayload(progress=0.5), agent="nobody")
    events = [_event(told) for told in lifecycle.rest() if isinstance(told, Message)]
    heard = [_plain(told) for told in signals.rest() if not _is_mark(told)]
    return [synced, events, heard, *_pages(course)]


def _until_it_listens(course: Course, signals: Watch) -> None:
    """A watch of signals says nothing at first: what it hears of these, it heard because it is open."""
    heard = False
    while not heard:
        course.say("", "Signal", MARK)
        with suppress(queue.Empty):
            heard = bool(signals.next(0.1))


def _is_mark(told: Any) -> bool:
    return isinstance(told, Message) and told.envelope.payload == MARK.SerializeToString()


def _event(told: core_pb2.WatchSessionsResponse) -> tuple[str, str]:
    return told.event.session.session_id, core_pb2.SessionLifecycleEvent.EventType.Name(told.event.event_type)


def _pages(course: Course) -> Iterator[list[str]]:
    """All sessions, in pages of two, and then as many as there may be."""
    for size in (2, 0, 1000):
        token, pages = "", []
        while True:
            request = core_pb2.ListSessionsRequest(page_size=size, page_token=token)
            page = course.ask("ListSessions", request)
            pages += [[session.session_id for session in page.sessions], page.next_page_token]
            token = page.next_page_token
            if not token:
                break
        yield pages


@pytest.mark.server
@pytest.mark.parametrize("play", [_registries, _sessions], ids=["registries", "sessions"])
def test_both_runtimes_tell_the_same(targets: list[str], play: Any) -> None:
    heard = []
    for target in targets:
        with grpc.insecure_channel(target) as channel:
            heard.append(play(Course(channel)))
    real, ours = heard
    assert ours == real
