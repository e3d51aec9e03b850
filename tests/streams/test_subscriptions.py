"""What runs can be listed, what blocks is named, and what nobody holds ends."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable

import pytest
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, DecisionSession, MacpClient, Message, Runtime
from macp_rx import operators as mo
from macp_rx.protocol.modes import decision
from tests.conftest import SERVER, Connect, Recorder, wait_until


def show(accepted: Accepted) -> None:
    """A callback with a name."""


def started(client: MacpClient) -> DecisionSession:
    session = DecisionSession(client)
    session.start(intent="subscriptions", participants=["chair"], ttl_ms=60_000)
    return session


def test_a_cell_that_runs_twice_has_two_subscriptions(connect: Connect) -> None:
    client = connect("chair")
    session = started(client)
    heard = Recorder()
    for _ in range(2):
        client.session_events(session.session_id).pipe(
            ops.do_action(heard.on_next, on_completed=heard.on_completed)
        ).subscribe(show)
    heard.wait_for(2)
    two = client.subscriptions
    assert [subscription.what for subscription in two] == [f"events of {session.session_id}"] * 2
    assert all("show" in subscription.who and "test_subscriptions.py" in subscription.who for subscription in two)
    session.cancel()
    heard.wait_for_end()
    wait_until(client.clock, lambda: client.subscriptions == ())


def show_too(accepted: Accepted) -> None:
    """Another."""


def test_who_shares_a_call_is_listed_by_name(connect: Connect) -> None:
    client = connect("chair")
    session = started(client)
    heard = Recorder()
    session.events.subscribe(heard)
    session.events.subscribe(show)
    left = session.events.pipe(ops.map(lambda accepted: accepted)).subscribe(show_too)
    wait_until(client.clock, lambda: len(client.subscriptions) == 3)
    assert [subscription.what for subscription in client.subscriptions] == [f"events of {session.session_id}"] * 3
    assert [subscription.who.partition(" ")[0] for subscription in client.subscriptions] == [
        "Recorder.on_next",
        "show",
        "show_too",
    ]
    left.dispose()
    wait_until(client.clock, lambda: len(client.subscriptions) == 2)


class Slow:
    """A callback that holds its thread too long, and what it does the first time."""

    def __init__(self) -> None:
        self.done = threading.Event()

    def slow(self, _item: object) -> None:
        threading.Event().wait(0.15)  # what it does takes so long
        self.done.set()


def of_its_own(client: MacpClient, session: DecisionSession, slow: Slow) -> None:
    client.session_events(session.session_id).subscribe(slow.slow)


def beside_others(client: MacpClient, session: DecisionSession, slow: Slow) -> None:
    session.events.subscribe(show)
    session.events.subscribe(slow.slow)
    session.events.subscribe(show_too)


def beside_others_by_an_operator(client: MacpClient, session: DecisionSession, slow: Slow) -> None:
    events = client.session_events(session.session_id).pipe(mo.shared())
    events.subscribe(show)
    events.subscribe(slow.slow)


def of_both_directions(client: MacpClient, session: DecisionSession, slow: Slow) -> None:
    both = client.open_stream()
    both.subscribe(show)
    both.subscribe(slow.slow)
    both.send_subscribe(session.session_id)  # whoever subscribes behind the first would not hear what came before


def inside_another(client: MacpClient, session: DecisionSession, slow: Slow) -> None:
    def another(_accepted: Accepted) -> None:
        of_its_own(client, session, slow)

    client.session_events(session.session_id).pipe(ops.take(1)).subscribe(another)


def of_a_reply(client: MacpClient, session: DecisionSession, slow: Slow) -> None:
    client.rx.get_session(session.session_id).subscribe(slow.slow)


def behind_a_timer(client: MacpClient, session: DecisionSession, slow: Slow) -> None:
    client.session_events(session.session_id).pipe(ops.debounce(0.001)).subscribe(slow.slow)


@pytest.mark.parametrize(
    "subscribe",
    [
        of_its_own,
        beside_others,
        beside_others_by_an_operator,
        of_both_directions,
        inside_another,
        of_a_reply,
        behind_a_timer,
    ],
)
@pytest.mark.parametrize("connect", ["port", SERVER], indirect=True)
def test_a_callback_that_blocks_the_io_thread_is_named(
    subscribe: Callable[[MacpClient, DecisionSession, Slow], None],
    client: MacpClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    session, slow = started(client), Slow()
    with caplog.at_level(logging.WARNING, "macp_rx"):
        subscribe(client, session, slow)
        assert slow.done.wait(5)
        session.metadata()  # behind it, on the same thread
    [told] = [record.message for record in caplog.records]
    assert told.startswith("Slow.slow (")
    assert "deliver_on" in told


def test_an_agent_that_blocks_the_io_thread_is_named(client: MacpClient, caplog: pytest.LogCaptureFixture) -> None:
    session, slow = started(client), Slow()

    def thoughtful(events: Observable[Accepted]) -> Observable[Message]:
        return events.pipe(
            ops.do_action(slow.slow), ops.filter(lambda _: False), ops.map(lambda _: decision.vote("p", "ABSTAIN"))
        )

    with caplog.at_level(logging.WARNING, "macp_rx"):
        session.join(thoughtful)
        assert slow.done.wait(5)
        session.metadata()
    assert [record.message.partition(" (")[0].rpartition(".")[2] for record in caplog.records] == ["thoughtful"]


def test_a_client_that_is_collected_ends_its_calls_and_its_thread(no_thread_left: None) -> None:
    with Runtime() as runtime:
        client = MacpClient.embedded(agent="chair", runtime=runtime)
        heard = Recorder()
        session = started(client)
        client.session_events(session.session_id).subscribe(heard)
        heard.wait_for(1)
        assert runtime.open_calls >= 1
        del client, session
        gc.collect()
        wait_until(runtime.clock, lambda: runtime.open_calls == 0)
        assert not heard.completed
        assert heard.error is None


def test_a_stream_keeps_the_client_that_it_comes_from() -> None:
    with Runtime() as runtime:
        session_id = started(MacpClient.embedded(agent="chair", runtime=runtime)).session_id
        gc.collect()
        events = MacpClient.embedded(agent="chair", runtime=runtime).session_events(session_id)
        gc.collect()
        assert next(iter(events.pipe(ops.map(lambda accepted: accepted.message_type)))) == "SessionStart"
