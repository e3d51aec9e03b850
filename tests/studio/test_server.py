"""What a studio answers to whoever asks, and what is left of it when it is closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPConnection
from re import findall
from typing import TypeVar

import pytest
from reactivex import operators as ops
from reactivex.internal import noop

from macp_rx import MacpClient, MacpSessionError, MacpWouldBlockError, Runtime
from macp_rx.clock import VirtualClock
from macp_rx.studio import Studio
from macp_rx.transport.telemetry import OFF, Buffer
from tests.conftest import dial, wait_until
from tests.studio.asking import Address, asked, events, unread
from tests.studio.conftest import started

T = TypeVar("T")


def test_without_the_token_nothing_is_told(studio: Studio) -> None:
    for path in (
        "/",
        "/sessions",
        "/sessions/x",
        "/draw",
        "/nothing",
        "/?token=wrong",
        "/?token=",
        "/?token=%FF",
        "/?other=1",
    ):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
            with asked(studio, path, headers=headers) as answer:
                said = answer.read().decode()
                assert answer.status == 403, (path, headers)
            assert "Open the address that `macp-rx studio` has printed" in said
            assert Address.of(studio).token not in said


def test_under_a_strangers_name_it_does_not_answer(studio: Studio) -> None:
    """DNS rebinding: a page of a stranger whose name points at this machine has that name as its Host."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "[evil]", ""):
        with asked(studio, "/", headers={"Host": host, **Address.of(studio).bearer}) as answer:
            assert answer.status == 421, host
            assert "IP address or localhost" in answer.read().decode()


def test_under_its_own_names_it_does(studio: Studio) -> None:
    for host in ("localhost", "LOCALHOST:8765", "127.0.0.1:1", "[::1]:8765"):
        with asked(studio, "/", headers={"Host": host, **Address.of(studio).bearer}) as answer:
            assert answer.status == 200, host


def test_every_answer_says_what_a_browser_must_not_do(studio: Studio) -> None:
    for path, headers in (("/", None), ("/", {}), ("/nothing", None)):
        with asked(studio, path, headers=headers) as answer:
            policy = answer.getheader("Content-Security-Policy", "")
            assert policy.startswith("default-src 'none'; script-src 'sha256-")
            assert "unsafe" not in policy
            assert answer.getheader("Referrer-Policy") == "no-referrer"
            assert answer.getheader("X-Content-Type-Options") == "nosniff"
            assert answer.getheader("Cache-Control") == "no-store"


def test_the_page_names_nobody_elses_server(studio: Studio) -> None:
    with asked(studio, "/") as answer:
        page = answer.read().decode()
    assert {word for word in page.split('"') if "://" in word} == {"http://www.w3.org/2000/svg"} | {
        word for word in page.split('"') if word.startswith("data:image/svg+xml,")
    }


@pytest.mark.parametrize("token", ["short", "with a blank in it", "and/or?something&else"])
def test_a_token_of_ones_own_must_be_good(chair: MacpClient, token: str) -> None:
    with pytest.raises(MacpSessionError, match="at least 16 letters"):
        Studio(chair, token=token)


def test_it_is_opened_where_it_can_be_closed(chair: MacpClient) -> None:
    with pytest.raises(MacpWouldBlockError, match="from another thread"):
        on_loop(chair, lambda: Studio(chair))
    with Runtime(clock=VirtualClock()) as runtime, pytest.raises(MacpSessionError, match="real time"):
        Studio(MacpClient.embedded(agent="chair", runtime=runtime))


def test_a_port_that_is_taken_is_an_error(studio: Studio, chair: MacpClient) -> None:
    with pytest.raises(OSError, match="in use"):
        Studio(chair, port=Address.of(studio).port)


def test_the_list_is_told_and_then_what_changes(studio: Studio, chair: MacpClient) -> None:
    one = started(chair)
    with asked(studio, "/sessions") as answer:
        assert answer.getheader("Content-Type", "").startswith("text/event-stream")
        told = events(answer)
        sessions: dict[str, str] = {}
        while one.session_id not in sessions:
            _event, data, _id = next(told)
            sessions |= {row["id"]: row["state"] for row in data["changed"]}
        other = started(chair)
        one.cancel()
        while sessions != {one.session_id: "CANCELLED", other.session_id: "OPEN"}:
            _event, data, _id = next(told)
            assert data["runtime"]["reached"]
            sessions |= {row["id"]: row["state"] for row in data["changed"]}


def known(studio: Studio, session_id: str) -> None:
    """Waits until the studio knows a session."""
    with asked(studio, "/sessions") as answer:
        told = events(answer)
        while all(row["id"] != session_id for row in next(told)[1]["changed"]):
            pass


def test_a_reader_that_comes_back_goes_on_where_it_was(studio: Studio, chair: MacpClient) -> None:
    session = started(chair)
    session.propose("p1", "canary")
    known(studio, session.session_id)
    path = f"/sessions/{session.session_id}"
    with asked(studio, path) as answer:
        _event, data, last = next(events(answer))
        assert [each["type"] for each in data["said"]] == ["SessionStart", "Proposal"]
    session.acting_as("alice").vote("p1", "APPROVE")
    session.cancel()
    with asked(studio, path, headers={**Address.of(studio).bearer, "Last-Event-ID": str(last)}) as answer:
        (_said, data, last), (ended, how, _id) = events(answer)
    assert ([each["type"] for each in data["said"]], last, data["untold"]) == (["Vote"], 3, 0)
    assert data["standing"]["phase"] == "Voting"  # which follows from all of it, and not from what is new
    assert (ended, how["state"]) == ("ended", "CANCELLED")


def test_a_place_that_is_none_is_told(studio: Studio, chair: MacpClient) -> None:
    session = started(chair)
    known(studio, session.session_id)
    for last in ("x", "-1", "9" * 30):
        headers = {**Address.of(studio).bearer, "Last-Event-ID": last}
        with asked(studio, f"/sessions/{session.session_id}", headers=headers) as answer:
            assert (answer.status, answer.read()) == (400, b"Last-Event-ID is the sequence that was heard last")


def test_an_unknown_session_is_told(studio: Studio) -> None:
    with asked(studio, f"/sessions/{'f' * 32}") as answer:
        assert (answer.status, answer.read()) == (404, b"the runtime knows no such session (any more)")


class Looking(type(OFF)):  # type: ignore[misc]
    """Counts what waits in the buffers of a client."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []

    def buffer(self, buffer: Buffer) -> Callable[[], None]:
        self.buffers.append(buffer)
        return noop


def test_a_browser_that_does_not_read_costs_no_memory_and_misses_nothing(no_thread_left: None) -> None:
    """Its session's call waits: what has been read ahead for it is bounded, and told when it reads again."""
    looking = Looking()
    with MacpClient.embedded(agent="chair", telemetry=looking) as chair, Studio(chair) as studio:
        session = started(chair)
        known(studio, session.session_id)
        with unread(studio, f"/sessions/{session.session_id}") as asking:
            waiting = 0
            while waiting < 256:  # what the kernel buffers is full by then
                session.propose(chair.clock.new_id(), "because " * 200, rationale="because " * 200)
                waiting = max((buffer.waiting for buffer in looking.buffers), default=0)
            for _ in range(300):
                session.propose(chair.clock.new_id(), "late")
            assert max(buffer.waiting for buffer in looking.buffers) <= 512
            with unread(studio, f"/sessions/{session.session_id}") as another:
                assert another.recv(100)  # its reader leaves in the middle
            wait_until(chair.clock, lambda: len(chair.subscriptions) == 3)
            session.cancel()
            with asking.makefile("rb") as reading:
                text = b""
                while b"event: ended" not in text:
                    text += reading.read1(65536)
        told = text.count(b'"sequence":') + sum(map(int, findall(rb'"untold":(\d+)', text)))
        accepted = chair.history(session.session_id).pipe(ops.count()).run()
        assert told == accepted


def on_loop(client: MacpClient, asks: Callable[[], T]) -> T:
    """What is so on the client's own thread."""

    async def ask() -> T:
        return asks()

    return asyncio.run_coroutine_threadsafe(ask(), client.clock.loop).result(20)


def test_what_is_too_large_is_refused_while_it_is_read(studio: Studio) -> None:
    with asked(studio, "/draw", method="POST", body=b"x" * (16 * 1024 * 1024 + 1)) as answer:
        assert answer.status == 413
        assert "macp-rx marble" in answer.read().decode()


def test_closed_with_readers_it_leaves_nothing(chair: MacpClient) -> None:
    session = started(chair)
    threads = set(threading.enumerate())
    tasks = on_loop(chair, lambda: len(asyncio.all_tasks()))
    with Studio(chair) as studio, ExitStack() as readers:
        known(studio, session.session_id)
        for _ in range(5):
            for path in ("/sessions", f"/sessions/{session.session_id}"):
                answer = readers.enter_context(asked(studio, path))
                next(events(answer))
        assert len(chair.subscriptions) == 2 + 5
        studio.close()
        assert chair.subscriptions == ()
        assert on_loop(chair, lambda: len(asyncio.all_tasks())) == tasks
        assert set(threading.enumerate()) == threads
        with pytest.raises(ConnectionRefusedError):
            HTTPConnection("127.0.0.1", Address.of(studio).port).connect()


def test_closed_after_its_client_it_leaves_nothing(no_thread_left: None) -> None:
    with MacpClient.embedded(agent="chair") as chair, Studio(chair) as studio:
        known(studio, started(chair).session_id)
        chair.close()
        with pytest.raises(ConnectionRefusedError):
            HTTPConnection("127.0.0.1", Address.of(studio).port).connect()


def test_a_reader_that_leaves_ends_its_call(studio: Studio, chair: MacpClient) -> None:
    session = started(chair)
    known(studio, session.session_id)
    with asked(studio, f"/sessions/{session.session_id}") as answer:
        next(events(answer))
        assert len(chair.subscriptions) == 3
    wait_until(chair.clock, lambda: len(chair.subscriptions) == 2)


def test_a_runtime_that_is_not_there_yet_is_waited_for(no_thread_left: None) -> None:
    with Runtime() as runtime:
        with runtime.serve() as port:
            target = port.target
        with dial(target) as chair, Studio(chair) as studio, asked(studio, "/sessions") as answer:
            told = events(answer)
            while next(told)[1]["runtime"]["reached"] is not False:
                pass
            with runtime.serve(target):
                while not next(told)[1]["runtime"]["reached"]:
                    pass
