"""The store: a runtime that starts again knows everything, and what cannot be kept is not said to be accepted."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from macp.v1.core_pb2 import GetDecisionReceiptResponse
from macp.v1.envelope_pb2 import Ack, Envelope

from macp_rx import AuthConfig, MacpClient, MacpError, MacpRefusedError, MacpTransportError, Runtime
from macp_rx.clock import VirtualClock
from macp_rx.protocol import lifecycle
from macp_rx.protocol.lifecycle import Session
from macp_rx.protocol.messages import DECISION, HANDOFF
from macp_rx.protocol.modes import MODES, decision, handoff
from macp_rx.protocol.policy import AcceptanceRules, build_decision_policy, build_handoff_policy
from macp_rx.protocol.receipt import ReceiptSigner
from macp_rx.runtime.state import Kept, Settings, State
from macp_rx.runtime.store import SqliteStore
from tests.protocol.plays import ALL_MODES, NOTES, Control, Play, Say, plays
from tests.runtime.conversation import OK, Conversation, answer, register


def known(runtime: Runtime) -> tuple[object, ...]:
    """What a runtime knows, as something that can be compared: a mode that was registered is not a value."""
    state: State = runtime.state
    modes = {name: (one.descriptor, one.standards_track, one.built_in) for name, one in state.modes.items()}
    return dict(state.sessions), modes, dict(state.policies)


class Stage:
    """A runtime on a store, under virtual time, that can be stopped and started again; and one in memory, that never is.

    Args:
        path: of the store.
        settings: of both.
    """

    def __init__(self, path: Path, settings: Settings | None = None) -> None:
        self.clock = VirtualClock()
        self._path, self._settings = path, settings
        self.lasting = Runtime(clock=self.clock, settings=settings)
        self.kept = Runtime(clock=self.clock, settings=settings, store=path)

    def restart(self) -> None:
        before = known(self.kept)
        self.kept.close()
        self.kept = Runtime(clock=self.clock, settings=self._settings, store=self._path)
        assert known(self.kept) == before

    def clients(self) -> Iterator[MacpClient]:
        for runtime in (self.kept, self.lasting):
            yield MacpClient.embedded(agent="chair", runtime=runtime, retry=None)

    def both(self, call: str, *args: object, agent: str = "chair") -> None:
        """Makes a call on both; they answer the same."""
        answers = {answer(getattr(client.acting_as(agent), call), *args) for client in self.clients()}
        assert len(answers) == 1

    def close(self) -> None:
        self.kept.close()
        self.lasting.close()


def stage_step(stage: Stage, step: Say | Control, session_id: str) -> None:
    stage.clock.advance_by(step.after_ms / 1000)
    if isinstance(step, Say):
        stage.both("send", step.envelope, agent=step.envelope.sender)
    else:
        call = "get_session" if step.verb == "look" else f"{step.verb}_session"
        stage.both(call, session_id)


def renamed(play: Play, name: str) -> Play:
    """The same play in a session, and under a policy, of its own."""

    def envelope(said: Envelope) -> Envelope:
        copy = Envelope()
        copy.CopyFrom(said)
        copy.session_id = f"{said.session_id}-{name}"
        return copy

    steps = (Say(step.after_ms, envelope(step.envelope)) if isinstance(step, Say) else step for step in play.steps)
    return Play(envelope(play.opening), play.policy, tuple(steps))


@pytest.mark.parametrize("compact", [False, True], ids=["whole", "compacted"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_runtime_that_is_restarted_is_one_that_never_stopped(compact: bool, data: st.DataObject) -> None:
    """Sessions of three modes at once, policies and modes that come and go, and restarts in between."""
    with (
        TemporaryDirectory() as folder,
        # hypothesis leaves an example where it stands when it has seen enough
        contextlib.closing(Stage(Path(folder) / "macp.db", Settings(compact_ended=compact))) as stage,
    ):
        coordinate_and_restart(stage, data)
        assert known(stage.kept) == known(stage.lasting)


def coordinate_and_restart(stage: Stage, data: st.DataObject) -> None:
    stage.both("register_ext_mode", NOTES)
    modes = data.draw(st.lists(st.sampled_from(ALL_MODES), min_size=3, max_size=3, unique=True))
    drawn = [renamed(data.draw(plays(mode, length=15)), f"{number}") for number, mode in enumerate(modes)]
    for play in drawn:
        stage.both("register_policy", play.policy)
        stage.both("send", play.opening)
        stage.both("unregister_policy", play.policy.policy_id)
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    waiting = [(play.opening.session_id, list(reversed(play.steps))) for play in drawn]
    while any(steps for _, steps in waiting):
        session_id, steps = chance.choice([one for one in waiting if one[1]])
        stage_step(stage, steps.pop(), session_id)
        if chance.random() < 0.1:
            stage.both("get_decision_receipt", session_id)
        if chance.random() < 0.1:
            stage.restart()
        if chance.random() < 0.02:
            stage.both("promote_mode", NOTES.mode)
        if chance.random() < 0.02:
            stage.both("unregister_ext_mode", NOTES.mode)
    stage.restart()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "macp.db"


@contextmanager
def running(path: Path, **options: Any) -> Iterator[MacpClient]:
    """A client of a runtime on a store, under virtual time."""
    with Runtime(clock=VirtualClock(), store=path, **options) as runtime:
        yield MacpClient.embedded(agent="chair", runtime=runtime, retry=None)


def resolved(client: MacpClient) -> Conversation:
    """A session that has come to its end."""
    talk = Conversation(client, DECISION)
    assert talk.say("chair", decision.propose("p1", "one")) == OK
    assert talk.commit() == OK
    return talk


def test_a_receipt_is_the_same_after_a_restart_and_under_another_key(path: Path) -> None:
    """Byte for byte; one that nobody had asked for is signed by the key of the day."""

    def signing(kid: str) -> Settings:
        return Settings(signer=ReceiptSigner(kid, Ed25519PrivateKey.from_private_bytes(kid.encode() * 8)))

    def signed_by(receipt: GetDecisionReceiptResponse) -> str:
        (attestation,) = json.loads(receipt.receipt_json)["attestations"]
        header = attestation["jws"].partition(".")[0]
        return str(json.loads(base64.urlsafe_b64decode(header + "=="))["kid"])

    with running(path, settings=signing("key1")) as client:
        asked, unasked = resolved(client), resolved(client)
        receipt = client.get_decision_receipt(asked.session_id)
        assert signed_by(receipt) == "key1"
    with running(path, settings=signing("key2")) as client:
        assert client.get_decision_receipt(asked.session_id) == receipt
        late = client.get_decision_receipt(unasked.session_id)
        assert signed_by(late) == "key2"
    with running(path) as client:
        assert client.get_decision_receipt(asked.session_id) == receipt
        assert client.get_decision_receipt(unasked.session_id) == late


def test_what_is_overdue_happens_when_a_runtime_starts(path: Path) -> None:
    """A session whose time is over expires; an offer that nobody answered is accepted at its deadline, not at the start."""
    clock = VirtualClock()
    rules = AcceptanceRules(implicit_accept_timeout_ms=1000)
    with Runtime(clock=clock, store=path) as runtime:
        client = MacpClient.embedded(agent="chair", runtime=runtime, retry=None)
        brief = Conversation(client, DECISION, ttl_ms=5000)
        policy = register(client, build_handoff_policy, acceptance=rules)
        unanswered = Conversation(client, HANDOFF, policy=policy)
        assert unanswered.say("chair", handoff.offer("h1", "alice")) == OK
        offered_at = clock.now_ms
    clock.advance_by(10)
    with Runtime(clock=clock, store=path) as runtime:
        client = MacpClient.embedded(agent="chair", runtime=runtime, retry=None)
        listed = {session.session_id: session.state for session in client.list_sessions()}
        assert listed[brief.session_id] == lifecycle.EXPIRED
        *_, accepted = client.history(unanswered.session_id)
        assert accepted.message_type == "HandoffAccept"
        assert accepted.envelope.timestamp_unix_ms == offered_at + 1000


def test_a_session_whose_id_was_forgotten_and_used_again_is_there_after_a_restart(path: Path) -> None:
    """The record has two starts under one id; the later one counts."""
    clock = VirtualClock()
    settings = Settings(retention_ms=1000)
    with Runtime(clock=clock, store=path, settings=settings) as runtime:
        client = MacpClient.embedded(agent="chair", runtime=runtime, retry=None)
        talk = resolved(client)
        clock.advance_by(2)
        assert answer(talk.state) == "NOT_FOUND SESSION_NOT_FOUND"
        assert talk.start() == OK
        assert talk.say("alice", decision.propose("p2", "two")) == OK
        before = known(runtime)
    with Runtime(clock=clock, store=path, settings=settings) as runtime:
        assert known(runtime) == before
        MacpClient.embedded(agent="chair", runtime=runtime, retry=None).history(talk.session_id)


def test_a_restart_with_other_settings_holds_what_they_say(path: Path) -> None:
    """The record is whole: what a runtime forgets at a session's end is there for one that does not."""
    with running(path, settings=Settings(compact_ended=True)) as client:
        talk = resolved(client)
        assert answer(talk.history) == "FAILED_PRECONDITION HISTORY_UNAVAILABLE"
    with running(path, settings=Settings(compact_ended=True)) as client:
        talk.client = client
        assert answer(talk.history) == "FAILED_PRECONDITION HISTORY_UNAVAILABLE"
    with running(path) as client:
        talk.client = client
        assert talk.kinds() == ["SessionStart", "Proposal", "Commitment"]


def test_policies_that_come_from_files_are_those_of_the_files(path: Path) -> None:
    """Where no policy can be registered, none that once was comes back; a session keeps the one that it is bound to."""
    with running(path) as client:
        policy = register(client, build_handoff_policy, acceptance=AcceptanceRules(implicit_accept_timeout_ms=1000))
        bound = Conversation(client, HANDOFF, policy=policy)
        assert client.register_policy(build_decision_policy("policy.gone")).ok
        assert client.register_policy(build_decision_policy("policy.given")).ok
        assert client.unregister_policy("policy.given").ok
    given = [build_decision_policy(policy, description="from a file"), build_decision_policy("policy.given")]
    with running(path, policies=given, settings=Settings(policies_read_only=True)) as client:
        assert client.get_policy(policy).policy_descriptor.description == "from a file"
        assert answer(client.get_policy, "policy.given") == OK
        assert answer(client.get_policy, "policy.gone") == "NOT_FOUND UNKNOWN_POLICY_VERSION"
        bound.client = client
        assert bound.say("chair", handoff.offer("h1", "alice")) == OK
        assert isinstance(client.clock, VirtualClock)
        client.clock.advance_by(2)
        assert bound.kinds()[-1] == "HandoffAccept"


# Files that are no store.


def refusal(path: Path) -> str:
    """What a runtime says that cannot start on a file; afterwards nobody holds it."""
    with pytest.raises(MacpError) as refused:
        Runtime(clock=VirtualClock(), store=path)
    return str(refused.value)


def change(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        file.execute(statement)


def test_a_file_that_is_no_database(path: Path) -> None:
    text = "dear diary, " * 1000
    path.write_text(text)
    assert refusal(path) == f"cannot use {path} as a store: file is not a database"
    assert path.read_text() == text


def test_a_database_of_somebody_else(path: Path) -> None:
    """It is left as it was: not even its journal changes."""
    change(path, "create table diary (entry text)")
    content = path.read_bytes()
    assert refusal(path) == f"{path} is some other SQLite database, and no store of macp_rx"
    assert path.read_bytes() == content


def test_a_store_of_another_version(path: Path) -> None:
    with running(path):
        pass
    change(path, "pragma user_version = 7")
    assert refusal(path) == f"{path} is a store of version 7; this macp_rx reads version 1"


def test_a_store_that_another_runtime_has(path: Path) -> None:
    """The first goes on; when it has closed, the next may have it."""
    with running(path) as client:
        talk = resolved(client)
        assert refusal(path) == f"cannot use {path} as a store: another runtime has it"
        assert talk.state() == "RESOLVED"
    with running(path) as client:
        assert client.get_session(talk.session_id).metadata.state == lifecycle.RESOLVED


def test_a_runtime_that_cannot_start_leaves_the_store_to_the_next(path: Path) -> None:
    policy = build_decision_policy("policy.x")
    with pytest.raises(MacpRefusedError) as refused:
        Runtime(store=path, policies=[policy, policy])
    with running(path) as client:
        assert resolved(client).state() == "RESOLVED"
    assert refused.value.code == "INVALID_POLICY_DEFINITION"


@pytest.mark.parametrize("name", ["nowhere/macp.db", "a-file/macp.db", "."])
def test_a_place_where_no_file_can_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").touch()
    assert refusal(tmp_path / name) == f"cannot open {tmp_path / name} as a store: unable to open database file"


CORRUPTIONS = {
    "update happened set content = x'ff' where number = 2": "row 2 of",
    "update happened set what = 'gossip' where number = 2": "row 2 of",
    "update happened set policy = x'ff' where number = 1": "row 1 of",
    "delete from happened where number = 1": "which is not there",
    "delete from happened where number = 2": "INVALID_ENVELOPE",
    "update happened set subject = 'another' where number = 2": "which is not there",
    "update happened set what = 'expired' where number = 2": "does not follow the rules",
    "update happened set number = number + 10 where number < 3": "which is not there",
    "insert into happened select 99, what, subject, at, content, policy from happened where number = 1": "starts",
    "insert into happened values (99, 'receipt', 'nowhere', 0, x'', null)": "which is not there",
    "insert into happened values (99, 'mode removed', 'nowhere', 0, x'', null)": "which is not there",
    "insert into happened values (99, 'policy removed', 'nowhere', 0, x'', null)": "which is not there",
    "insert into happened values (99, 'policy added', 'p', 0, x'', null)": "row 99 of",
    "drop table happened": "no such table",
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_record_that_somebody_has_changed(path: Path, corruption: str) -> None:
    """It is refused with what is wrong, and where; a runtime never starts with half of its sessions."""
    with running(path) as client:
        talk = Conversation(client, DECISION)
        assert talk.say("chair", decision.propose("p1", "one")) == OK
        assert talk.say("alice", decision.vote("p1", "APPROVE")) == OK
    change(path, corruption)
    assert CORRUPTIONS[corruption] in refusal(path)


def test_a_file_that_was_cut_short(path: Path) -> None:
    """Of its pages, some are not there."""
    with running(path) as client:
        for _ in range(50):
            resolved(client)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "malformed" in refusal(path)


# What cannot be kept.


class Faulty(SqliteStore):
    """A store that fails while it is told to."""

    error: Exception | None = None

    def keep(self, happened: Iterable[Kept]) -> None:
        if self.error:
            raise self.error
        super().keep(happened)


@pytest.fixture(params=[MacpError("disk full"), OSError(28, "disk full")], ids=["ours", "a stranger's"])
def faulty(request: pytest.FixtureRequest, path: Path) -> Iterator[tuple[Faulty, MacpClient]]:
    """A store that has failed, and a client of a runtime on it."""
    store = Faulty(path)
    with Runtime(clock=VirtualClock(), store=store) as runtime:
        yield store, MacpClient.embedded(agent="chair", runtime=runtime, retry=None)
    with Runtime(clock=VirtualClock(), store=path) as again:
        assert known(again) == known(runtime)


def failing(store: Faulty, request: pytest.FixtureRequest) -> None:
    store.error = request.node.callspec.params["faulty"]


def test_a_message_that_cannot_be_kept_is_refused_and_its_id_stays_free(
    faulty: tuple[Faulty, MacpClient], request: pytest.FixtureRequest
) -> None:
    store, client = faulty
    talk = Conversation(client, DECISION)
    lost = Conversation(client, DECISION, start=False)
    proposal = decision.propose("p1", "one")
    failing(store, request)
    assert talk.say("chair", proposal, message_id="m1") == "INTERNAL_ERROR"
    assert lost.start() == "INTERNAL_ERROR"
    assert answer(lost.state) == "NOT_FOUND SESSION_NOT_FOUND"
    assert talk.kinds() == ["SessionStart"]
    store.error = None
    assert talk.say("chair", proposal, message_id="m1") == OK
    assert talk.say("chair", proposal, message_id="m1") == "duplicate"
    assert lost.start() == OK


def test_a_session_stays_as_it_is_when_its_change_cannot_be_kept(
    faulty: tuple[Faulty, MacpClient], request: pytest.FixtureRequest
) -> None:
    """Told in an Ack, as other refusals of those calls are; what has no Ack fails with a status."""
    store, client = faulty
    talk, ended = Conversation(client, DECISION), resolved(client)
    failing(store, request)
    assert answer(client.suspend_session, talk.session_id) == "INTERNAL_ERROR"
    assert answer(client.cancel_session, talk.session_id) == "INTERNAL_ERROR"
    assert answer(client.get_decision_receipt, ended.session_id) == "INTERNAL INTERNAL_ERROR"
    assert answer(client.register_policy, build_decision_policy("p")) == "INTERNAL INTERNAL_ERROR"
    assert answer(client.register_ext_mode, NOTES) == "INTERNAL INTERNAL_ERROR"
    store.error = None
    assert talk.state() == "OPEN"
    assert answer(client.get_policy, "p") == "NOT_FOUND UNKNOWN_POLICY_VERSION"
    assert answer(client.register_ext_mode, NOTES) == OK
    assert answer(client.cancel_session, talk.session_id) == OK


def test_a_stream_ends_when_what_it_says_cannot_be_kept(
    faulty: tuple[Faulty, MacpClient], request: pytest.FixtureRequest
) -> None:
    """INTERNAL_ERROR is one of the refusals that end a stream; nobody hears what was not kept."""
    store, client = faulty
    talk = Conversation(client, DECISION)
    said = talk.envelope("chair", decision.propose("p1", "one"))
    with client.open_stream(talk.session_id) as listening, client.open_stream(talk.session_id) as speaking:
        assert [stream.read().message_type for stream in (listening, speaking)] == ["SessionStart"] * 2  # type: ignore[union-attr]
        failing(store, request)
        speaking.send(said)
        with pytest.raises(MacpTransportError) as ended:
            speaking.read()
        assert ended.value.code == "INTERNAL_ERROR"
        store.error = None
        assert client.send(said).ok
        heard = listening.read()
        assert heard is not None
        assert heard.message_id == said.message_id


def test_a_session_that_could_not_expire_does_when_somebody_looks(
    faulty: tuple[Faulty, MacpClient], request: pytest.FixtureRequest
) -> None:
    """The timer is over; the next who asks finds out."""
    store, client = faulty
    talk = Conversation(client, DECISION, ttl_ms=1000)
    failing(store, request)
    assert isinstance(client.clock, VirtualClock)
    client.clock.advance_by(5)
    assert answer(talk.state) == "INTERNAL INTERNAL_ERROR"
    assert talk.listed() == "OPEN"
    store.error = None
    assert talk.state() == "EXPIRED"


def test_a_disk_that_is_full(path: Path) -> None:
    """What is written is whole; there is room again when there is room again."""
    store = SqliteStore(path)
    with Runtime(clock=VirtualClock(), store=store) as runtime:
        client = MacpClient.embedded(agent="chair", runtime=runtime, retry=None)
        talk = Conversation(client, DECISION)
        store._file.execute("pragma max_page_count = 20")  # what a full disk is to SQLite
        answers = [talk.say("chair", decision.propose(f"p{n}", "x" * 1000)) for n in range(100)]
        accepted = answers.count(OK)
        assert answers == [OK] * accepted + ["INTERNAL_ERROR"] * (100 - accepted)
        assert 0 < accepted < 100
        assert len(talk.history()) == accepted + 1
        store._file.execute("pragma max_page_count = 2000")
        assert talk.say("chair", decision.propose("last", "x" * 1000)) == OK
        before = known(runtime)
    with Runtime(clock=VirtualClock(), store=path) as runtime:
        assert known(runtime) == before


# kill -9

SERVE = """
import sys, threading
from macp_rx import Runtime
runtime = Runtime(store=sys.argv[1])
print(runtime.serve().target, flush=True)
threading.Event().wait()
"""


class Speaker:
    """Says one message after the other in its session, each when the one before is acknowledged, until the server dies."""

    def __init__(self, client: MacpClient, on_ack: Callable[[], None]) -> None:
        self.talk = Conversation(client, DECISION)
        self.acknowledged = ["start"]
        self.died = threading.Event()
        self._on_ack = on_ack

    def speak(self) -> None:
        said = self.talk.envelope("chair", decision.propose(self.talk.client.clock.new_id(), "x" * 200))

        def acknowledged(ack: Ack) -> None:
            self.acknowledged.append(ack.message_id)
            self._on_ack()
            self.speak()

        self.talk.client.rx.send(said).subscribe(acknowledged, lambda _error: self.died.set())


def test_no_acknowledged_message_is_lost_by_kill_9(path: Path) -> None:
    """At 20 points, on one file: each session has what was acknowledged, in order, and at most what was on its way."""
    chance = random.Random(9)
    everything: dict[str, list[str]] = {}
    for _ in range(20):
        left = chance.randrange(1, 200)
        server = subprocess.Popen([sys.executable, "-c", SERVE, str(path)], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None

        def acknowledged() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                server.send_signal(signal.SIGKILL)  # noqa: B023 - this round's

        target = server.stdout.readline().strip()
        with MacpClient(target=target, secure=False, auth=AuthConfig.for_dev_agent("chair"), retry=None) as client:
            speakers = [Speaker(client, acknowledged) for _ in range(4)]
            for speaker in speakers:
                speaker.speak()
            for speaker in speakers:
                assert speaker.died.wait(20)
        server.wait()
        server.stdout.close()
        everything.update({speaker.talk.session_id: speaker.acknowledged for speaker in speakers})
        with Runtime(store=path) as runtime:
            sessions: dict[str, Session] = dict(runtime.state.sessions)
        assert sessions.keys() == everything.keys()
        for session_id, session in sessions.items():
            kept = [entry.envelope.message_id for entry in session.log or () if entry.envelope]
            told = everything[session_id]
            assert kept[: len(told)] == told
            assert len(kept) <= len(told) + 1
            assert lifecycle.replay(session.log or (), MODES[DECISION], session.bound.policy) == session
