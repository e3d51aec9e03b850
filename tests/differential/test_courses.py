"""What random scenarios cannot compare: what tells of everything at once, deadlines that must pass, frames at the limit.

Fixed courses, played on each runtime for itself: what was heard must be the same.
"""

from __future__ import annotations

import itertools
import json
import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from macp.modes.handoff.v1 import handoff_pb2
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Envelope

from macp_rx import Runtime
from macp_rx.runtime import Settings
from tests.conftest import running_server
from tests.differential.answers import Plain, plain
from tests.differential.script import OVERDUE
from tests.differential.steps import Metadata, bearer, path, response_class

QUIET = 0.5
"""Seconds without an event after which a watch has told everything; what is told once too often shows as well."""

LATER = 300
"""Milliseconds: a deadline that passes within a test, and that no call of a test takes."""

LARGEST, FRAME_ROOM = 1_048_576, 65_536
MODE = "ext.watched.v1"
MARK = core_pb2.SignalPayload(signal_type="mark")


class Watch:
    """A watch, read by a thread of its own."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._told: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for told in self._call:
                self._told.put(told)
            self._told.put("OK")
        except grpc.RpcError as error:
            self._told.put(error.code().name)

    def next(self, seconds: float = 10) -> Any:
        return self._told.get(timeout=seconds)

    def rest(self) -> list[Any]:
        """What else it tells, until it is silent; a string if it ended."""
        told: list[Any] = []
        with suppress(queue.Empty):
            while True:
                told.append(self.next(QUIET))
        self._call.cancel()
        return told


class Course:
    """A runtime, what it was asked and what it told."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count()

    def ask(self, method: str, request: Message, agent: str = "chair", metadata: Metadata | None = None) -> Any:
        call = self._channel.unary_unary(path(method), response_deserializer=response_class(method).FromString)
        metadata = bearer(agent) if metadata is None else metadata
        return call(request.SerializeToString(), metadata=metadata, timeout=10)

    def watch(self, method: str) -> Watch:
        call = self._channel.unary_stream(path(method), response_deserializer=response_class(method).FromString)
        return Watch(call(b"", metadata=bearer("watcher")))

    def say(
        self,
        session_id: str,
        message_type: str,
        payload: Message,
        agent: str = "chair",
        mode: str = "macp.mode.quorum.v1",
        stamp: int = 0,
        message_id: str = "",
    ) -> Any:
        envelope = Envelope(
            macp_version="1.0",
            mode=mode if session_id else "",
            message_type=message_type,
            message_id=message_id or f"{message_type} {next(self._numbers)}",
            session_id=session_id,
            sender=agent,
            timestamp_unix_ms=stamp,
            payload=payload.SerializeToString(),
        )
        return self.ask("Send", core_pb2.SendRequest(envelope=envelope), agent).ack

    def start(self, session_id: str, *, mode: str = "macp.mode.quorum.v1", stamp: int = 0, **fields: Any) -> None:
        payload = core_pb2.SessionStartPayload(
            participants=["chair", "alice"], mode_version="1.0.0", configuration_version="c", ttl_ms=600_000
        )
        payload.MergeFrom(core_pb2.SessionStartPayload(**fields))
        assert self.say(session_id, "SessionStart", payload, mode=mode, stamp=stamp).ok

    def control(self, verb: str, session_id: str) -> str:
        ack = self.ask(f"{verb}Session", getattr(core_pb2, f"{verb}SessionRequest")(session_id=session_id)).ack
        return _ack(ack)

    def history(self, session_id: str) -> list[Envelope]:
        call = self._channel.stream_stream(
            path("StreamSession"), response_deserializer=core_pb2.StreamSessionResponse.FromString
        )
        request = core_pb2.StreamSessionRequest(subscribe_session_id=session_id)
        said = call(iter([request.SerializeToString()]), metadata=bearer("chair"), timeout=10)
        return [response.envelope for response in said]

    def register_mode(self, name: str) -> bool:
        descriptor = core_pb2.ModeDescriptor(
            mode=name, mode_version="1", message_types=["Commitment"], terminal_message_types=["Commitment"]
        )
        request = core_pb2.RegisterExtModeRequest(mode_descriptor=descriptor)
        return bool(self.ask("RegisterExtMode", request).ok)

    def register_policy(self, name: str, rules: str = "") -> bool:
        policy = policy_pb2.PolicyDescriptor(policy_id=name, mode="*", rules=rules, schema_version=1)
        return bool(self.ask("RegisterPolicy", policy_pb2.RegisterPolicyRequest(policy_descriptor=policy)).ok)


@pytest.fixture
def targets() -> Iterator[list[str]]:
    """The real server and the embedded runtime, both fresh."""
    with running_server() as server, Runtime() as runtime, runtime.serve() as served:
        yield [server.target, served.target]


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
    for number in itertools.count():  # how many it takes is chance, and must not show in the ids of what follows
        course.say("", "Signal", MARK, message_id=f"mark {number}")
        with suppress(queue.Empty):
            signals.next(0.1)
            return


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


def _pass(milliseconds: int) -> None:
    """Waits. The real server's clock is nobody's to move."""
    threading.Event().wait(milliseconds / 1000)


def _deadlines(course: Course) -> list[Plain]:
    """Sessions that expire, that are suspended meanwhile, or for too long."""
    over, paused, forgotten = (f"{letter * 30}" for letter in "abc")
    signal = core_pb2.ProgressPayload()
    told: list[Plain] = []
    course.start(over, ttl_ms=LATER)
    course.start(paused, ttl_ms=LATER)
    course.start(forgotten, max_suspend_ms=LATER)
    told += [course.control("Suspend", paused), course.control("Suspend", forgotten)]
    _pass(2 * LATER)
    told += [
        _ack(course.say(over, "Approve", signal)),
        course.control("Resume", paused),
        _ack(course.say(paused, "Approve", signal)),
        course.control("Resume", forgotten),
        course.control("Cancel", forgotten),
    ]
    states = []
    for session_id in (over, paused, forgotten):
        metadata = course.ask("GetSession", core_pb2.GetSessionRequest(session_id=session_id)).metadata
        longer = (metadata.expires_at_unix_ms - metadata.started_at_unix_ms) // LATER
        states.append((metadata.state, longer if session_id == paused else None))
    return [told, states]


def _implicit_accept(course: Course) -> list[Plain]:
    """An offer that is accepted by silence: not while the session is suspended, and at its deadline, not when it is seen."""
    mode, session_id = "macp.mode.handoff.v1", "h" * 30
    assert course.register_policy("silence", json.dumps({"acceptance": {"implicit_accept_timeout_ms": LATER}}))
    course.start(session_id, mode=mode, policy_version="silence")
    offer = handoff_pb2.HandoffOfferPayload(handoff_id="h1", target_participant="alice")
    context = handoff_pb2.HandoffContextPayload(handoff_id="h1")
    decline = handoff_pb2.HandoffDeclinePayload(handoff_id="h1")
    told = [_ack(course.say(session_id, "HandoffOffer", offer, mode=mode)), course.control("Suspend", session_id)]
    _pass(2 * LATER)
    told += [course.control("Resume", session_id), _ack(course.say(session_id, "HandoffContext", context, mode=mode))]
    _pass(2 * LATER)
    told.append(_ack(course.say(session_id, "HandoffDecline", decline, "alice", mode=mode)))
    history = course.history(session_id)
    said = [(envelope.message_type, envelope.sender) for envelope in history]
    accept = history[-1]
    late = accept.timestamp_unix_ms - history[1].timestamp_unix_ms
    return [told, said, accept.message_id, accept.payload, late // LATER]


def _frames(course: Course) -> list[Plain]:
    """Payloads and whole frames at the largest size and beyond it."""
    told: list[Plain] = []
    for size in (LARGEST, LARGEST + 1, LARGEST + FRAME_ROOM - 200, LARGEST + FRAME_ROOM + 200):
        payload = core_pb2.SignalPayload(signal_type="hint", data=b"x" * (size - 20))
        envelope = Envelope(macp_version="1.0", message_type="Signal", message_id="m", sender="chair")
        envelope.payload = (
            payload.SerializeToString().ljust(size, b"\0") if size > LARGEST else payload.SerializeToString()
        )
        try:
            told.append(_ack(course.ask("Send", core_pb2.SendRequest(envelope=envelope)).ack))
        except grpc.RpcError as error:
            told.append((error.code().name, dict(error.trailing_metadata() or ()).get("macp-error-code")))
    return told


def _ack(ack: Any) -> str:
    return f"ok {ack.session_state}" if ack.ok else str(ack.error.code)


COURSES = [_registries, _sessions, _deadlines, _implicit_accept, _frames]


@pytest.mark.server
@pytest.mark.parametrize("play", COURSES, ids=lambda course: course.__name__.strip("_"))
def test_both_runtimes_tell_the_same(targets: list[str], play: Any) -> None:
    heard = []
    for target in targets:
        with grpc.insecure_channel(target) as channel:
            heard.append(play(Course(channel)))
    real, ours = heard
    assert ours == real


POLICY = {"policy_id": "from.file", "mode": "*", "description": "d", "rules": {"_n": [1, 2.0]}, "schema_version": 2}


def _read_only(course: Course) -> list[Plain]:
    """A registry that was filled from files: it is read, and nothing else, whoever asks."""
    told: list[Plain] = []
    descriptor = policy_pb2.PolicyDescriptor(policy_id="mine", mode="*", schema_version=1)
    for method, request in [
        ("RegisterPolicy", policy_pb2.RegisterPolicyRequest(policy_descriptor=descriptor)),
        ("RegisterPolicy", policy_pb2.RegisterPolicyRequest()),
        ("UnregisterPolicy", policy_pb2.UnregisterPolicyRequest(policy_id="from.file")),
        ("GetPolicy", policy_pb2.GetPolicyRequest(policy_id="from.file")),
        ("ListPolicies", policy_pb2.ListPoliciesRequest()),
        ("Initialize", core_pb2.InitializeRequest(supported_protocol_versions=["1.0"])),
    ]:
        for metadata in (bearer("chair"), ()):
            try:
                said = plain(course.ask(method, request, metadata=metadata))
                told.append(said.get("capabilities", said))
            except grpc.RpcError as error:
                told.append((error.code().name, dict(error.trailing_metadata() or ())["macp-error-code"]))
    return told


@pytest.mark.server
def test_policies_from_files_are_read_only_in_both_runtimes(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text(json.dumps(POLICY))
    policy = policy_pb2.PolicyDescriptor(**{**POLICY, "rules": json.dumps(POLICY["rules"])})
    with (
        running_server(MACP_POLICIES_DIR=str(tmp_path)) as server,
        Runtime(policies=[policy], settings=Settings(policies_read_only=True)) as runtime,
        runtime.serve() as served,
        grpc.insecure_channel(server.target) as there,
        grpc.insecure_channel(served.target) as here,
    ):
        real, ours = _read_only(Course(there)), _read_only(Course(here))
    assert ours == real
