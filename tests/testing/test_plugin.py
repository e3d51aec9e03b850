"""The pytest plugin, run as its users run it."""

from __future__ import annotations

import threading
import time

import pytest
import reactivex as rx
from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import operators as ops

from macp_rx import AuthConfig, DecisionSession, MacpClient, MacpSessionError, Runtime
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.protocol.modes import decision
from macp_rx.runtime import Server
from macp_rx.testing import Marbles
from tests.conftest import Recorder


def test_a_marble_test_passes_without_a_word(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from reactivex import operators as ops

        def test_several_streams_of_one_source(marbles):
            source = marbles.hot("--a--b--|", {"a": 1, "b": 2})
            marbles.expect(source.pipe(ops.map(str))).to_be("--x--y--|", {"x": "1", "y": "2"})
            marbles.expect(source.pipe(ops.take(1))).to_be("--(a |)", {"a": 1})
            marbles.expect(source, "---^--!").to_be("-----b", {"b": 2})
            marbles.expect_subscriptions(source).to_be("^-------!", "^-!", "^-------!", "---^--!")
            marbles.expect_no_event(source.pipe(ops.filter(lambda value: value > 2)), 0.007)
    """)
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("expectation", "told"),
    [
        (
            'marbles.expect(source).to_be("--a---b-|")',
            ["expected  --a--- b-|", "actual    --a--b --|", "^ first difference"],
        ),
        ('marbles.expect(source).to_be("--a--x--|")', ["*expected 'x' at 5ms, got 'b' at 5ms"]),
        ('marbles.expect(source).to_be("--a--b")', ["*expected nothing more, got completion at 8ms"]),
        (
            'marbles.expect(source).to_be("--a--b--#")',
            ["*expected the error MarbleError() at 8ms, got completion at 8ms"],
        ),
        ("marbles.expect_no_event(source, 1)", ["*expected nothing more, got 'a' at 2ms"]),
        (
            'marbles.expect(source); marbles.expect_subscriptions(source).to_be("^-!")',
            ["expected  ^-!*from 0ms to 2ms", "actual    ^-------!*from 0ms to 8ms"],
        ),
    ],
)
def test_a_failure_is_the_tests_own_and_shows_both_lanes(
    pytester: pytest.Pytester, expectation: str, told: list[str]
) -> None:
    pytester.makepyfile(f"""
        def test_it(marbles):
            source = marbles.hot("--a--b--|")
            {expectation}
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the marbles differ (*.py:3)*", *(f"*{line}*" for line in told)])


def test_a_failure_shows_who_said_what_and_where_it_was_expected(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_votes="""
        from macp_rx.protocol.modes import decision
        from macp_rx.testing import said

        def test_it(marbles):
            voices = {"v": said("alice", decision.vote("p1", "APPROVE")), "w": said("alice", decision.vote("p1", "REJECT"))}
            source = marbles.hot("-v-|", voices)
            marbles.expect(source).to_be("-v-|", voices)
            marbles.expect(source).to_be("-w-|", voices)
    """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(
        [
            "*the marbles differ (test_votes.py:8)",
            '*at 1ms: expected Vote(proposal_id: "p1" vote: "REJECT") from alice at 1ms, '
            'got Accepted(1, Vote(proposal_id: "p1" vote: "APPROVE") from alice) at 1ms',
        ]
    )


def test_marbles_that_were_asked_for_by_name_run_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_it(request):
            marbles = request.getfixturevalue("marbles")
            marbles.expect(marbles.hot("-a|")).to_be("-b|")
    """)
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(failed=1)


def test_an_expectation_after_the_run_is_refused(virtual_time: VirtualClock) -> None:
    marbles = Marbles(virtual_time)
    source = marbles.hot("-a|")
    marbles.run()
    with pytest.raises(MacpSessionError, match="have run already"):
        marbles.expect(source).to_be("-b|")


def test_a_frame_may_be_a_second_everywhere(virtual_time: VirtualClock) -> None:
    marbles = Marbles(virtual_time, frame=1.0)
    source = marbles.hot("--a--|")
    marbles.expect(source.pipe(ops.take(1)), "-^").to_be("--(a |)")
    marbles.expect_subscriptions(source).to_be("-^!")
    marbles.run()
    assert virtual_time.time == 5_000_000


def test_a_subscription_that_is_left_is_a_failure(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_it(marbles):
            marbles.cold("---").subscribe()
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*1 subscription(s) to cold('---') outlive*"])


@pytest.mark.parametrize(
    "use",
    [
        "time.time()",
        "time.monotonic()",
        "time.perf_counter()",
        "time.sleep(0)",
        "uuid.uuid4()",
        "time.process_time()",
        "os.urandom(1)",
        "secrets.token_hex()",
        "rx.timer(0.01, scheduler=rx.scheduler.CurrentThreadScheduler()).subscribe()",
        "random.random()",
        "random.sample([1], 1)",
        "threading.Thread(target=print).start()",
        "rx.timer(1).subscribe()",
    ],
)
def test_other_clocks_chance_and_threads_are_refused_while_virtual_time_runs(
    pytester: pytest.Pytester, use: str
) -> None:
    pytester.makepyfile(f"""
        import os, random, secrets, threading, time, uuid
        import reactivex as rx

        def test_it(virtual_time):
            virtual_time.schedule(lambda _scheduler, _state: {use})
            virtual_time.run_until_idle()
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*was used while virtual time runs*"])


def test_other_threads_keep_their_clocks(virtual_time: VirtualClock) -> None:
    asked, told = threading.Event(), Recorder()

    def ask() -> None:
        asked.wait(5)
        try:
            told.on_next(time.monotonic())
        except AssertionError as error:
            told.on_error(error)

    thread = threading.Thread(target=ask)
    thread.start()

    def wait_for_the_other(_scheduler: object, _state: object = None) -> None:
        asked.set()
        thread.join()

    virtual_time.schedule(wait_for_the_other)
    virtual_time.run_until_idle()
    assert told.error is None


def test_what_is_logged_under_virtual_time_is_logged(
    macp_runtime: Runtime, virtual_time: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An agent's refusal is logged by default."""
    with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client:
        session = DecisionSession(client)
        session.start(intent="log", participants=["chair"], ttl_ms=60_000)
        session.join(lambda _events: rx.of(decision.vote("unknown", "APPROVE")))
        virtual_time.advance_by(1)
    assert "INVALID_ENVELOPE" in caplog.text


def test_a_thread_that_is_left_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import threading

        def test_it(virtual_time):
            threading.Thread(target=threading.Event().wait, args=(4,), name="forgotten", daemon=True).start()
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*left threads behind: forgotten*"])


def test_a_call_that_is_left_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from macp_rx import MacpClient

        def test_it(macp_runtime):
            client = MacpClient.embedded(agent="chair", runtime=macp_runtime)
            client.watch_roots().subscribe()
            macp_runtime.clock.run_until_idle()
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*1 call(s) to the embedded runtime were left open*"])


def test_a_task_that_is_left_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import asyncio
        from macp_rx import AuthConfig, MacpClient

        async def forgotten():
            asyncio.current_task().set_name("forgotten")
            await asyncio.Event().wait()

        def test_it(macp_server):
            with MacpClient(target=macp_server.target, secure=False, auth=AuthConfig.for_dev_agent("chair")) as client:
                client.initialize()
                asyncio.run_coroutine_threadsafe(forgotten(), client.clock.loop)
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*left tasks behind: forgotten*"])


def test_a_session_under_virtual_time(macp_runtime: Runtime) -> None:
    """Client, transport, runtime and agents share one clock and one thread: 23 hours pass in no time."""
    clock = macp_runtime.clock
    assert isinstance(clock, VirtualClock)
    with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client:
        session = DecisionSession(client)
        session.start(intent="patience", participants=["chair"], ttl_ms=86_400_000)
        session.propose("p1", "wait")
        late = session.events.pipe(mo.of_type(VotePayload), mo.within(23 * 3600, otherwise="nobody"))
        assert late.run() == "nobody"
        assert clock.time >= 23 * 3_600_000_000
        clock.advance_by(2 * 3600)
        assert session.metadata().state == 3  # expired


def test_a_server_on_a_port(macp_server: Server) -> None:
    with MacpClient(target=macp_server.target, secure=False, auth=AuthConfig.for_dev_agent("chair")) as client:
        assert client.initialize().selected_protocol_version == "1.0"
