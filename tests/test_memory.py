"""What an agent remembers, and what comes back of it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from macp.modes.decision.v1.decision_pb2 import ProposalPayload, VotePayload
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import (
    Accepted,
    AuthConfig,
    DecisionSession,
    MacpClient,
    MacpError,
    MacpSessionError,
    Message,
    Runtime,
    agents,
)
from macp_rx.agents import Memory, remembered
from macp_rx.clock import VirtualClock
from macp_rx.errors import MacpTimeoutError
from macp_rx.memory import decode, encode
from macp_rx.protocol.modes import decision

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple),
)


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Question:
    text: str
    colour: Colour = Colour.RED


class TestValues:
    @given(VALUES)
    def test_they_come_back_as_they_were(self, value: object) -> None:
        assert decode(encode(value)) == value

    @pytest.mark.parametrize(
        "value", [VotePayload(proposal_id="p"), decision.vote("p", "APPROVE"), Message("ext.a.v1", b"\xff", "Bid")]
    )
    def test_so_do_messages(self, value: object) -> None:
        assert decode(encode(value)) == value

    def test_equal_ones_are_kept_as_the_same(self) -> None:
        assert str(encode({"a": 1, "b": 2})) == str(encode({"b": 2, "a": 1}))

    @pytest.mark.parametrize("value", [object(), {1, 2}, {1: "a"}, Question])
    def test_others_are_refused(self, value: object) -> None:
        with pytest.raises(MacpSessionError, match="nothing that remembered knows how to keep"):
            encode(value)

    def test_some_only_tell_calls_apart(self) -> None:
        with pytest.raises(MacpSessionError, match="the dataclass Question"):
            decode(encode(Question("why")))


class TestFile:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "agent.sqlite"

    def test_it_is_read_in_the_order_of_writing_by_whoever_opens_it(self, path: Path) -> None:
        with Memory(path) as one, Memory(path) as other:
            one.keep("s", "alice", "refused", "a")
            other.keep("s", "alice", "timer", "b", "7")
            one.keep("s", "bob", "refused", "c")
            one.keep("t", "alice", "refused", "d")
        with Memory(path) as again:
            assert list(again.kept("s", "alice")) == [("refused", "a", ""), ("timer", "b", "7")]

    def test_any_number_may_open_a_new_one_at_the_same_moment(self, tmp_path: Path) -> None:
        together = Barrier(4)

        def open_each(_: int) -> None:
            for number in range(200):
                together.wait(10)
                Memory(tmp_path / str(number)).close()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(open_each, range(4)))

    def test_a_session_is_forgotten_alone(self, path: Path) -> None:
        with Memory(path) as memory:
            for session_id in ("s", "t"):
                memory.keep(session_id, "alice", "refused", "a")
            memory.forget("s")
            assert [list(memory.kept(session_id, "alice")) for session_id in ("s", "t")] == [[], [("refused", "a", "")]]

    def test_another_database_is_left_as_it_is(self, path: Path) -> None:
        with sqlite3.connect(path) as other:
            other.execute("create table theirs (a)")
        other.close()
        with pytest.raises(MacpError, match="some other SQLite database, and no memory"):
            Memory(path)

    def test_one_of_another_version(self, path: Path) -> None:
        Memory(path).close()
        with sqlite3.connect(path) as other:
            other.execute("pragma user_version = 9")
        other.close()
        with pytest.raises(MacpError, match="a memory of version 9; this macp_rx reads version 1"):
            Memory(path)

    def test_what_is_no_database(self, path: Path) -> None:
        path.write_text("no database, and much more than a header of text" * 100)
        with pytest.raises(MacpError, match=r"cannot use .* as a memory"):
            Memory(path)

    def test_a_place_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(MacpError, match=r"cannot open .* as a memory"):
            Memory(tmp_path / "nowhere" / "agent.sqlite")

    def test_one_that_is_closed(self, path: Path) -> None:
        memory = Memory(path)
        memory.close()
        memory.close()
        with pytest.raises(MacpError, match="cannot write to"):
            memory.keep("s", "alice", "refused", "a")


class Lives:
    """An agent that lives several times in one session, under virtual time."""

    def __init__(self, client: MacpClient, clock: VirtualClock, memory: Memory) -> None:
        self.clock = clock
        self.session = DecisionSession(client)
        self.session.start(intent="again", participants=["chair", "alice"], ttl_ms=60_000)
        self.session.propose("p1", "canary")
        self.errors: list[Exception] = []
        self._memory = memory

    def live(self, agent: Callable[[Observable[Accepted]], Observable[Message]], seconds: float = 1) -> None:
        joined = self.session.acting_as("alice").join(agent, memory=self._memory, on_error=self.errors.append)
        self.clock.advance_by(seconds)
        joined.dispose()

    def calls(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """What a call gives, each time, to an agent that lives and makes it once."""
        given: list[Any] = []

        def agent(events: Observable[Accepted]) -> Observable[Message]:
            def hear(_: Accepted) -> None:
                given.append(call(*args, **kwargs))

            return events.pipe(ops.take(1), ops.do_action(hear), ops.ignore_elements())

        self.live(agent)
        return given

    @property
    def said(self) -> list[Message]:
        history = self.session.client.history(self.session.session_id).pipe(ops.to_list()).run()
        return [one.payload for one in history if one.sender == "alice"]  # type: ignore[misc]


@pytest.fixture
def lives(macp_runtime: Runtime, virtual_time: VirtualClock) -> Iterator[Lives]:
    with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client, Memory(":memory:") as memory:
        yield Lives(client, virtual_time, memory)


class Full(Memory):
    """One that cannot be written any more."""

    def keep(self, session_id: str, agent: str, what: str, key: str, value: str = "") -> None:
        if what in self.refuses:
            raise MacpError("cannot write: the disk is full")
        super().keep(session_id, agent, what, key, value)

    refuses: tuple[str, ...] = ()


class TestTrouble:
    def test_a_memory_must_know_whose_it_is(self, lives: Lives) -> None:
        nameless = lives.session.acting_as(AuthConfig.for_bearer("token"))
        with Memory(":memory:") as memory, pytest.raises(MacpSessionError, match="a memory must know whose it is"):
            nameless.join(agents.voter(lambda _: "APPROVE"), memory=memory)

    @pytest.mark.parametrize("what", ["refused", "answered", "timer", "fired"])
    def test_one_that_cannot_be_written_ends_the_agent(
        self, what: str, macp_runtime: Runtime, virtual_time: VirtualClock
    ) -> None:
        def late(events: Observable[Accepted]) -> Observable[Message]:
            asked = remembered(Asked().slowly)

            async def answered(_: object) -> Message:
                return decision.evaluate("p1", "REVIEW", confidence=await asked() / 10)

            wrong = agents.on(ProposalPayload).say(lambda _: decision.vote("p2", "APPROVE"))
            return agents.merge(agents.on(ProposalPayload).say(answered), wrong)(events).pipe(
                ops.merge(rx.timer(0.5).pipe(ops.map(lambda _: decision.raise_objection("p1", reason="late"))))
            )

        with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client, Full(":memory:") as memory:
            memory.refuses = (what,)
            lives = Lives(client, virtual_time, memory)
            lives.live(late)
            assert str(lives.errors[-1]) == "cannot write: the disk is full"
            assert "ObjectionPayload" not in [type(one).__name__ for one in lives.said]


class Asked:
    """A function that answers with how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    def how_often(self, *_: object, **__: object) -> int:
        self.times += 1
        return self.times

    async def slowly(self, *_: object) -> int:
        await asyncio.sleep(0.1)
        return self.how_often()


class TestRemembered:
    def test_without_a_memory_it_is_the_function(self) -> None:
        asked = Asked()
        call = remembered(asked.how_often)
        assert [call(), call()] == [1, 2]

    def test_a_plain_function_answers_as_before(self, lives: Lives) -> None:
        call = remembered(Asked().how_often)
        assert [lives.calls(call, "a") for _ in range(3)] == [[1]] * 3

    @pytest.mark.parametrize("other", ["b", b"a", ("a",), Question("a"), decision.vote("a", "APPROVE"), None])
    def test_other_arguments_are_another_call(self, lives: Lives, other: object) -> None:
        call = remembered(Asked().how_often)
        assert [lives.calls(call, argument) for argument in ("a", other, "a", other)] == [[1], [2], [1], [2]]

    def test_the_nth_call_with_the_same_is_another(self, lives: Lives) -> None:
        call = remembered(Asked().how_often)
        assert [lives.calls(lambda: (call("a"), call("a"))) for _ in range(2)] == [[(1, 2)]] * 2

    def test_a_function_by_another_name_is_another(self, lives: Lives) -> None:
        asked = Asked()
        one, two = (remembered(asked.how_often, name=name) for name in ("one", "two"))
        assert [lives.calls(call) for call in (one, two, one)] == [[1], [2], [1]]

    @pytest.mark.parametrize("fn", [lambda: 1, partial(print)])
    def test_one_without_a_name(self, fn: Callable[..., object]) -> None:
        with pytest.raises(MacpSessionError, match="has no name to be remembered under"):
            remembered(fn)

    def test_an_answer_that_cannot_be_kept_is_told_the_first_time(self, lives: Lives) -> None:
        def answers() -> object:
            return Question("why")

        lives.calls(remembered(answers))
        (error,) = lives.errors
        assert "what TestRemembered" in str(error)
        assert "answers cannot be remembered: of the dataclass Question it knows only" in str(error)

    def test_an_answer_is_the_same_from_the_first_time_on(self, lives: Lives) -> None:
        call = remembered(agents.Evaluation)
        (one,), (two,) = (lives.calls(call, "APPROVE", 1) for _ in range(2))
        assert type(one) is type(two) is tuple

    def test_a_call_that_was_under_way_is_made_again(self, lives: Lives) -> None:
        asked = Asked()
        ask = remembered(asked.slowly)

        async def vote(proposal: Accepted[ProposalPayload]) -> Message:
            return decision.evaluate("p1", "REVIEW", confidence=await ask(proposal) / 10)

        agent = agents.on(ProposalPayload).say(vote)
        lives.live(agent, 0.05)
        assert lives.said == []
        for _ in range(2):
            lives.live(agent)
            assert asked.times == 1
        assert len(lives.said) == 1

    @pytest.mark.parametrize(
        "error", [ValueError("no model"), MacpTimeoutError("late"), type("Odd", (Exception,), {})("x")]
    )
    def test_a_failure_that_the_agent_survives_comes_again(self, lives: Lives, error: Exception) -> None:
        failing = [error]

        def fails(_: object) -> str:
            if failing:
                raise failing.pop()
            return "APPROVE"

        def named(_: object, failed: Exception) -> Message:
            return decision.raise_objection("p1", reason=f"{type(failed).__name__} {failed}")

        def decided(proposal: Accepted[ProposalPayload]) -> Message:
            return decision.vote("p1", call(proposal))

        call = remembered(fails)
        for _ in range(2):
            lives.live(agents.on(ProposalPayload).say(decided, fallback=named))
        assert [type(one).__name__ for one in lives.said] == ["ObjectionPayload"]
        assert lives.errors == []

    def test_one_that_ends_it_does_not(self, lives: Lives) -> None:
        """Whoever starts it again wants it to try again."""
        failing = [ValueError("no model")]

        async def fails(_: object) -> str:
            if failing:
                raise failing.pop()
            return "APPROVE"

        for _ in range(2):
            lives.live(agents.voter(remembered(fails)))
        assert [str(error) for error in lives.errors] == ["no model"]
        assert len(lives.said) == 1

    def test_that_it_took_too_long_is_remembered(self, lives: Lives) -> None:
        asked = Asked()
        ask = remembered(asked.slowly)

        async def decided(proposal: Accepted[ProposalPayload]) -> str:
            await ask(proposal)
            return "APPROVE"

        lives.live(agents.voter(decided, timeout=0.05, fallback="REJECT"))
        lives.live(agents.voter(decided, timeout=5, fallback="REJECT"))
        assert [one.vote for one in lives.said] == ["REJECT"]  # type: ignore[attr-defined]


class TestTimers:
    @staticmethod
    def late(seconds: float) -> Callable[[Observable[Accepted]], Observable[Message]]:
        def agent(_: Observable[Accepted]) -> Observable[Message]:
            return rx.timer(seconds).pipe(ops.map(lambda _: decision.raise_objection("p1", reason="late")))

        return agent

    def test_one_goes_on_where_it_was(self, lives: Lives) -> None:
        for _ in range(4):
            lives.live(self.late(10), 2)
        assert lives.said == []
        lives.live(self.late(10), 2.1)
        assert len(lives.said) == 1

    def test_one_that_was_due_meanwhile_fires_soon(self, lives: Lives) -> None:
        lives.live(self.late(10), 2)
        lives.clock.advance_by(20)
        lives.live(self.late(10), 0.1)
        assert len(lives.said) == 1

    def test_one_fires_once_however_often_it_is_heard_again(self, lives: Lives) -> None:
        for _ in range(3):
            lives.live(self.late(1), 1.1)
        assert len(lives.said) == 1
        assert lives.errors == []

    def test_those_that_were_due_meanwhile_fire_in_their_order(self, lives: Lives) -> None:
        def told(seconds: float) -> Callable[[Observable[Accepted]], Observable[Message]]:
            def agent(_: Observable[Accepted]) -> Observable[Message]:
                return rx.timer(seconds).pipe(ops.map(lambda _: decision.raise_objection("p1", reason=f"{seconds}")))

            return agent

        agent = agents.merge(*(told(seconds) for seconds in (10, 5, 8, 7)))
        lives.live(agent, 6)
        lives.clock.advance_by(60 - 10)
        lives.live(agent, 0.1)
        assert [one.reason for one in lives.said] == ["5", "7", "8", "10"]  # type: ignore[attr-defined]

    def test_each_of_a_long_chain_of_them_does(self, lives: Lives) -> None:
        def ticking(_: Observable[Accepted]) -> Observable[Message]:
            ticks = rx.interval(0.1).pipe(ops.take(100))
            return ticks.pipe(ops.map(lambda tick: decision.raise_objection("p1", reason=f"{tick}")))

        for _ in range(11):
            lives.live(ticking, 0.97)
        assert [one.reason for one in lives.said] == [f"{n}" for n in range(100)]  # type: ignore[attr-defined]

    def test_one_that_a_known_answer_sets_fires_again(self, lives: Lives) -> None:
        ask = remembered(Asked().slowly)

        def patient(events: Observable[Accepted]) -> Observable[Message]:
            async def asked(proposal: Accepted[ProposalPayload]) -> list[Message]:
                await ask(proposal)
                return [decision.evaluate("p1", "REVIEW", confidence=1)]

            said = agents.on(ProposalPayload).say(asked)(events)
            return said.pipe(ops.delay(0.5), ops.map(lambda _: decision.raise_objection("p1", reason="later")))

        lives.live(patient, 2)
        lives.session.propose("p2", "blue-green")
        lives.live(patient, 2)
        assert len(lives.said) == 2
        assert lives.errors == []
