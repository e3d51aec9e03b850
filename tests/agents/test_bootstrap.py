"""An agent from a bootstrap file of the official SDK, compared with what that makes of the same file."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from macp.modes.decision.v1.decision_pb2 import ProposalPayload
from macp.v1.core_pb2 import Root, SessionStartPayload
from macp.v1.envelope_pb2 import Envelope

from macp_rx import DecisionSession, MacpClient, MacpSessionError, MultiRoundSession, Outcome, agents, new_session_id
from macp_rx.agents import Bootstrap
from macp_rx.protocol.messages import DECISION, MULTI_ROUND, PROPOSAL, TASK
from macp_rx.protocol.modes import decision, multi_round
from tests.conftest import SERVER, Connect, wait_until

SESSION = "6f1c1b1e-0000-4000-8000-000000000001"

Write = Callable[..., Path]


def said(**changes: Any) -> dict[str, Any]:
    """What a file says; None leaves a member out."""
    members = {
        "participant_id": "alice",
        "session_id": SESSION,
        "mode": DECISION,
        "runtime_url": "127.0.0.1:1",
        "auth_token": "t-alice",
        "secure": False,
        "allow_insecure": True,
        **changes,
    }
    return {name: value for name, value in members.items() if value is not None}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(**changes: Any) -> Path:
        path = tmp_path / "bootstrap.json"
        path.write_text(json.dumps(said(**changes)), encoding="utf-8")
        return path

    return write


def initiating(start: dict[str, Any], **initiator: Any) -> dict[str, Any]:
    return {"participants": ["alice", "bob"], "initiator": {"session_start": start, **initiator}}


FILES: dict[str, dict[str, Any]] = {
    "a participant": {},
    "a nested token": {"auth_token": None, "auth": {"bearer_token": "t-nested"}},
    "a nested token for a sender": {"auth_token": None, "auth": {"bearer_token": "t", "expected_sender": "other"}},
    "a token of its own before a nested one": {"auth": {"bearer_token": "t-nested", "expected_sender": "other"}},
    "an empty token is none": {"auth_token": "", "agent_id": "dev"},
    "a dev agent": {"auth_token": None, "agent_id": "dev-alice"},
    "a nested dev agent": {"auth_token": None, "auth": {"agent_id": "dev-alice"}},
    "the old name of the address": {"runtime_url": None, "runtime_address": "127.0.0.1:2"},
    "an empty address is none": {"runtime_url": "", "runtime_address": "127.0.0.1:2"},
    "TLS by default": {"secure": None, "allow_insecure": None},
    "TLS all the same": {"secure": True, "allow_insecure": True},
    "versions": {"mode_version": "2.0.0", "configuration_version": "c7", "policy_version": "p7"},
    "versions that are blank": {"mode_version": "", "configuration_version": "", "policy_version": ""},
    "an initiator": initiating({"intent": "choose", "ttl_ms": 60_000, "context_id": "c", "max_suspend_ms": 5}),
    "an initiator of few words": initiating({}),
    "participants of its own": initiating({"participants": ["bob", "carol"]}),
    "versions of its own": {
        **initiating({"mode_version": "3", "configuration_version": "c8", "policy_version": "p8"}),
        "mode_version": "2",
        "policy_version": "p7",
    },
    "versions of the file": {**initiating({"mode_version": ""}), "mode_version": "", "configuration_version": "c7"},
    "extensions": initiating({"extensions": {"a": "MQ==", "b": "no base64!", "c": ""}}),
    "roots": initiating({"roots": [{"uri": "file:///", "name": "home"}, {"uri": "file:///tmp"}]}),
    "a kickoff": initiating(
        {}, kickoff={"message_type": "Proposal", "payload": {"proposal_id": "p1", "option": "o", "rationale": "r"}}
    ),
    "a kickoff that says nothing": initiating({}, kickoff={"message_type": "Proposal"}),
    "a kickoff by another name": initiating(
        {}, kickoff={"message_type": "Proposal", "payload": {"proposalId": "p1", "proposal_id": "p2", "title": "t"}}
    ),
    "a kickoff with an option and a title": initiating(
        {}, kickoff={"message_type": "Proposal", "payload": {"option": "o", "title": "t"}}
    ),
    "a kickoff of a negotiation": {
        **initiating(
            {},
            kickoff={
                "message_type": "Proposal",
                "payload": {"option": "o", "title": "t", "summary": "s", "details": "plain text", "tags": ["x"]},
            },
        ),
        "mode": PROPOSAL,
    },
}


def of_the_sdk(path: Path) -> tuple[Any, list[Envelope]]:
    """What the official SDK makes of a file, and what it would send first."""
    from macp_sdk.agent import from_bootstrap

    participant: Any = from_bootstrap(str(path))
    participant._client.close()
    sent: list[Envelope] = []
    participant._actions._client = SimpleNamespace(send=lambda envelope, auth: sent.append(envelope))
    participant._emit_initiator_envelopes()
    return participant, sent


@pytest.mark.parametrize("changes", FILES.values(), ids=FILES)
def test_it_says_what_the_official_sdk_hears(write: Write, changes: dict[str, Any]) -> None:
    path = write(**changes)
    theirs, sent = of_the_sdk(path)
    with agents.from_bootstrap(path) as ours:
        client = ours.session.client
        assert ours.participant_id == theirs.participant_id
        assert (ours.session.session_id, ours.session.mode) == (theirs.session.session_id, theirs.session.mode)
        assert client.target == theirs._client.target
        assert client.auth is not None
        assert (client.auth.token, client.auth.sender_hint, client.auth.expected_sender) == (
            theirs._auth.bearer_token,
            theirs._auth.sender_hint,
            theirs._auth.expected_sender,
        )
        messages = [] if ours.start is None else [ours.start.message]
        messages += [] if ours.kickoff is None else [ours.kickoff]
        assert [one.message_type for one in messages] == [one.message_type for one in sent]
        for message, envelope in zip(messages, sent, strict=True):
            assert message.payload == type(message.payload).FromString(envelope.payload)  # type: ignore[union-attr]


def test_what_it_says_is_read(write: Write) -> None:
    changes = initiating(
        {"intent": "choose", "extensions": {"a": "MQ=="}, "roots": [{"uri": "file:///"}]},
        kickoff={
            "message_type": "Evaluation",
            "payload": {"proposal_id": "p1", "recommendation": "APPROVE", "confidence": 1},
        },
    )
    callback = {"host": "127.0.0.1", "port": 8080, "path": "cancel"}
    with agents.from_bootstrap(write(**changes, cancel_callback=callback)) as made:
        assert isinstance(made.session, DecisionSession)
        assert made.start is not None
        assert (made.start.intent, made.start.participants, made.start.ttl_ms) == ("choose", ("alice", "bob"), 300_000)
        assert (dict(made.start.extensions), made.start.roots) == ({"a": b"1"}, (Root(uri="file:///"),))
        assert made.kickoff == decision.evaluate("p1", "APPROVE", confidence=1)
        assert made.cancel_callback == ("127.0.0.1", 8080, "/cancel")


def test_the_file_that_the_environment_names(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACP_BOOTSTRAP_FILE", str(write()))
    with agents.from_bootstrap() as made:
        assert made.participant_id == "alice"
    monkeypatch.delenv("MACP_BOOTSTRAP_FILE")
    with pytest.raises(MacpSessionError, match="no bootstrap file: name one, or set MACP_BOOTSTRAP_FILE"):
        agents.from_bootstrap()


class TestErrors:
    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(MacpSessionError, match=r"bootstrap file .*nowhere\.json: .*No such file"):
            agents.from_bootstrap(tmp_path / "nowhere.json")

    @pytest.mark.parametrize(("text", "why"), [("{", "Expecting"), ("[]", "is an object, not list"), ("", "Expecting")])
    def test_a_file_that_is_no_json_object(self, tmp_path: Path, text: str, why: str) -> None:
        (path := tmp_path / "b.json").write_text(text)
        with pytest.raises(MacpSessionError, match=why):
            agents.from_bootstrap(path)

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        (path := tmp_path / "b.json").write_bytes(b"\xff\xfe{")
        with pytest.raises(MacpSessionError, match=r"bootstrap file .*decode"):
            agents.from_bootstrap(path)

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"participant_id": None}, "'participant_id' is a text that is not empty, not None"),
            ({"participant_id": ""}, "'participant_id' is a text that is not empty, not ''"),
            ({"session_id": 5}, "'session_id' is a text that is not empty, not 5"),
            ({"session_id": "my-session"}, "'my-session' is no session id"),
            ({"mode": None}, "'mode' is a text"),
            ({"runtime_url": None}, "'runtime_url' says where the runtime is"),
            ({"runtime_url": "http://localhost"}, "a target is 'host:port'"),
            ({"auth_token": None}, "no credential: 'auth_token', or 'agent_id' for development"),
            ({"auth": "token"}, "'auth' is an object, not str"),
            ({"auth_token": None, "auth": {"bearer_token": 5}}, "'auth': 'bearer_token' is a text"),
            ({"auth_token": "t\n"}, "begins or ends with a blank or a line break"),
            ({"secure": "no"}, "'secure' is true or false, not 'no'"),
            ({"allow_insecure": False}, "'secure' is false, so 'allow_insecure' must say true"),
            ({"allow_insecure": None}, "'secure' is false, so 'allow_insecure' must say true"),
            ({"initiator": []}, "'initiator' is an object, not list"),
            (initiating({"participants": "alice"}), "'participants' is a list of texts, not 'alice'"),
            (initiating({"participants": [1]}), "'participants' is a list of texts"),
            (initiating({"participants": ["a", "a"]}), "'a' is named twice"),
            ({"initiator": {}, "mode": TASK}, "a session of this mode needs participants"),
            (initiating({"ttl_ms": "60000"}), "'ttl_ms' is a whole number, not '60000'"),
            (initiating({"ttl_ms": True}), "'ttl_ms' is a whole number, not True"),
            (initiating({"ttl_ms": 0}), "ttl_ms 0 is not in 1 to"),
            (initiating({"max_suspend_ms": -1}), "max_suspend_ms -1 is negative"),
            (initiating({"extensions": ["a"]}), "'extensions' is an object, not list"),
            (initiating({"extensions": {"a": 1}}), "'a' is a text"),
            (initiating({"roots": "file:///"}), "'roots' is a list of objects with a 'uri'"),
            (initiating({"roots": ["file:///"]}), "must be an object"),
            (initiating({}, kickoff={}), "'kickoff': 'message_type' is a text"),
            (initiating({}, kickoff={"message_type": "Poem"}), f"{DECISION} has no 'Poem'"),
            (initiating({}, kickoff={"message_type": "Vote", "payload": {"vote": 5}}), "vote cannot be 5"),
            ({"cancel_callback": {"host": "127.0.0.1", "port": 80}}, "'cancel_callback': 'path' is a text"),
            ({"cancel_callback": {"host": "127.0.0.1", "port": "80", "path": "/"}}, "'port' is a whole number"),
            ({"cancel_callback": {"host": "127.0.0.1", "port": 0, "path": "/"}}, "'port' is one of 1 to 65535, not 0"),
            ({"cancel_callback": {"host": "127.0.0.1", "port": 65536, "path": "/"}}, "not 65536"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, write: Write, changes: dict[str, Any], why: str, no_thread_left: None
    ) -> None:
        with pytest.raises(MacpSessionError, match=why):
            agents.from_bootstrap(write(**changes))

    @pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org", "localhost.example.org"])
    def test_a_callback_that_others_can_reach(self, write: Write, host: str) -> None:
        callback = {"host": host, "port": 8080, "path": "/"}
        with pytest.raises(MacpSessionError, match=r"can be reached from other machines.*allow_remote_cancel=True"):
            agents.from_bootstrap(write(cancel_callback=callback))
        with agents.from_bootstrap(write(cancel_callback=callback), allow_remote_cancel=True) as made:
            assert made.cancel_callback == (host, 8080, "/")

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
    def test_a_callback_that_they_cannot(self, write: Write, host: str) -> None:
        with agents.from_bootstrap(write(cancel_callback={"host": host, "port": 8080, "path": "/x"})) as made:
            assert made.cancel_callback == (host, 8080, "/x")


on_ports = pytest.mark.parametrize("connect", ["port", SERVER], indirect=True)
"""A bootstrap file names an address."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def asked(port: int, request: str) -> str:
    """The first line of an answer; empty if there is none."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request.encode())
        return connection.makefile("rb").readline().decode().strip()


@on_ports
class TestRunning:
    @pytest.fixture
    def members(self, connect: Connect) -> dict[str, Any]:
        return {"session_id": new_session_id(), "runtime_url": connect("chair").target, "auth_token": "alice"}

    def test_an_initiator_opens_kicks_off_and_decides(self, write: Write, members: dict[str, Any]) -> None:
        kickoff = {"message_type": "Proposal", "payload": {"option": "canary"}}
        path = write(**members, **initiating({"intent": "choose", "participants": ["alice"]}, kickoff=kickoff))
        agent = agents.merge(agents.voter(lambda _: "APPROVE"), agents.majority_committer(action="rollout.approved"))
        with agents.from_bootstrap(path) as made:
            outcome = made.run(agent)
            assert outcome is not None
            assert outcome.positive
            history = list(made.session.client.history(made.session.session_id))
        assert [(one.message_type, one.sender) for one in history] == [
            (kind, "alice") for kind in ("SessionStart", "Proposal", "Vote", "Commitment")
        ]
        first, proposal = history[0].payload, history[1].payload
        assert isinstance(first, SessionStartPayload)
        assert isinstance(proposal, ProposalPayload)
        assert (first.intent, proposal.option) == ("choose", "canary")
        assert proposal.proposal_id == f"{members['session_id']}-kickoff"

    def test_an_initiator_that_is_started_again_opens_nothing_twice(
        self, write: Write, members: dict[str, Any]
    ) -> None:
        kickoff = {"message_type": "Proposal", "payload": {"option": "canary"}}
        path = write(**members, **initiating({"intent": "choose", "participants": ["alice"]}, kickoff=kickoff))
        agent = agents.merge(agents.voter(lambda _: "APPROVE"), agents.majority_committer(action="rollout.approved"))
        outcomes = []
        for _ in range(2):
            with agents.from_bootstrap(path) as made, agents.Memory(":memory:") as memory:
                outcomes.append(made.run(agent, memory=memory))
                history = list(made.session.client.history(made.session.session_id))
        assert [one.message_type for one in history] == ["SessionStart", "Proposal", "Vote", "Commitment"]
        assert outcomes[0] == outcomes[1]

    def test_a_participant_joins_a_session_of_any_mode(
        self, write: Write, members: dict[str, Any], connect: Connect
    ) -> None:
        session = MultiRoundSession(connect("chair"), members["session_id"])
        session.start(intent="join", participants=["alice"], ttl_ms=60_000)
        with agents.from_bootstrap(write(**members, mode=MULTI_ROUND)) as made:
            assert isinstance(made.session, MultiRoundSession)

            def contribute_once(_start: Any) -> Any:
                return multi_round.contribute("7")

            running, outcomes = self.running(made, agents.on(SessionStartPayload).say(contribute_once))
            for state in session.states:
                if state.converged:
                    break
            session.commit(action="value.selected", authority_scope="test", reason="all agree")
            running.join(10)
            assert [outcome.state for outcome in outcomes if outcome is not None] == ["RESOLVED"]

    def running(self, made: Bootstrap, agent: Any) -> tuple[threading.Thread, list[Outcome | None]]:
        outcomes: list[Outcome | None] = []
        thread = threading.Thread(target=lambda: outcomes.append(made.run(agent)))
        thread.start()
        return thread, outcomes

    @pytest.fixture
    def listening(
        self, write: Write, members: dict[str, Any], connect: Connect
    ) -> Iterator[tuple[int, threading.Thread, list[Outcome | None], MacpClient]]:
        """An agent that runs, and the port where it can be stopped."""
        session = DecisionSession(connect("chair"), members["session_id"])
        session.start(intent="stop", participants=["alice"], ttl_ms=60_000)
        port = free_port()
        callback = {"host": "127.0.0.1", "port": port, "path": "/cancel"}
        with agents.from_bootstrap(write(**members, cancel_callback=callback)) as made:
            thread, outcomes = self.running(made, agents.voter(lambda _: "APPROVE"))

            wait_until(session.client.clock, lambda: listens(port))
            yield port, thread, outcomes, made.session.client
            session.cancel()
            thread.join(10)
            assert not thread.is_alive()

    POST = "POST /cancel HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}"

    def test_a_post_stops_it(self, listening: Any) -> None:
        port, thread, outcomes, client = listening
        body = json.dumps({"runId": "r1", "reason": "enough"})
        assert asked(port, self.POST.format(len(body), body)) == "HTTP/1.1 202 Accepted"
        thread.join(10)
        assert outcomes == [None]
        wait_until(client.clock, lambda: client.subscriptions == ())
        wait_until(client.clock, lambda: not listens(port))

    def test_a_post_without_a_body_does_too(self, listening: Any) -> None:
        port, thread, outcomes, _client = listening
        assert asked(port, "POST /cancel HTTP/1.0\r\n\r\n") == "HTTP/1.1 202 Accepted"
        thread.join(10)
        assert outcomes == [None]

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            ("GET /cancel HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
            ("POST /other HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("POST / HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("POST /cancel HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", "413 Content Too Large"),
            (f"POST /cancel HTTP/1.1\r\nContent-Length: {'9' * 5000}\r\n\r\n", "413 Content Too Large"),
            ("POST /cancel HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400 Bad Request"),
            ("POST /cancel HTTP/1.1\r\nContent-Length: many\r\n\r\n", "400 Bad Request"),
            ("nonsense\r\n\r\n", "404 Not Found"),
        ],
        ids=lambda one: str(one)[:40],
    )
    def test_whatever_else_does_not(self, listening: Any, request_: str, status: str) -> None:
        port, thread, outcomes, _client = listening
        assert asked(port, request_) == f"HTTP/1.1 {status}"
        assert thread.is_alive()
        assert outcomes == []

    def test_nor_does_who_says_too_much_or_leaves(self, listening: Any) -> None:
        port, thread, _outcomes, _client = listening
        assert asked_and_cut(port, "POST /cancel HTTP/1.1\r\n" + "x" * 70_000) == ""
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST /cancel HTTP/1.1\r\nContent-Length: 5\r\n\r\n12")
        assert asked(port, "GET /cancel HTTP/1.1\r\n\r\n").startswith("HTTP/1.1 405")
        assert thread.is_alive()

    def test_who_has_connected_and_says_nothing_keeps_nothing_alive(self, listening: Any) -> None:
        port, thread, outcomes, client = listening
        with socket.create_connection(("127.0.0.1", port), timeout=5) as idle:
            assert asked(port, self.POST.format(0, "")) == "HTTP/1.1 202 Accepted"
            thread.join(10)
            assert outcomes == [None]
            client.close()
            with suppress(ConnectionResetError):
                assert idle.recv(1) == b""

    def test_the_end_of_the_session_ends_it_too(
        self, listening: Any, members: dict[str, Any], connect: Connect
    ) -> None:
        port, thread, outcomes, client = listening
        DecisionSession(connect("chair"), members["session_id"]).cancel()
        thread.join(10)
        assert [outcome.state for outcome in outcomes if outcome is not None] == ["CANCELLED"]
        wait_until(client.clock, lambda: not listens(port))

    def test_a_port_that_is_taken(self, write: Write, members: dict[str, Any], connect: Connect) -> None:
        session = DecisionSession(connect("chair"), members["session_id"])
        session.start(intent="taken", participants=["alice"], ttl_ms=60_000)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            callback = {"host": "127.0.0.1", "port": port, "path": "/"}
            with agents.from_bootstrap(write(**members, cancel_callback=callback)) as made:
                with pytest.raises(MacpSessionError, match=f"cancel_callback cannot listen on 127.0.0.1:{port}"):
                    made.run(agents.voter(lambda _: "APPROVE"))
                client = made.session.client
                wait_until(client.clock, lambda: client.subscriptions == ())


def asked_and_cut(port: int, request: str) -> str:
    """As `asked`, of one that hangs up in the middle."""
    try:
        return asked(port, request)
    except (ConnectionResetError, BrokenPipeError):
        return ""
