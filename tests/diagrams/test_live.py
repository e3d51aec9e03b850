"""Watching in a real kernel: what is shown where and how often, what ends it, and what may block."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import reactivex as rx

from macp_rx import MacpSessionError
from macp_rx.diagrams.live import EVERY, live
from tests.diagrams.kernel import Kernel, running_kernel

BEGIN = """
import asyncio
import logging
import reactivex as rx
from macp_rx import DecisionSession, MacpClient, MacpWouldBlockError, MultiRoundSession, Runtime
from macp_rx.clock import LoopClock
from macp_rx.diagrams import live

# it says so when the I/O thread was held for a tenth of a second, which a busy machine does by itself: 1 run in 50, measured
logging.getLogger("macp_rx.transport").setLevel("ERROR")

def begin():
    session = DecisionSession(client)
    session.start(intent="rollout", participants=["chair", "alice"], ttl_ms=3_600_000)
    return session

def events():  # a call of its own each time, where session.events is one for all
    return client.session_events(session.session_id)

async def watching():
    await client.rx.list_modes()  # which comes behind what was disposed before
    return [subscription.what.split()[0] for subscription in client.subscriptions]
"""

COMMIT = "await session.rx.commit(action='rollout.approved', authority_scope='s', reason='it is fine')"


@pytest.fixture(scope="module")
def fresh_kernel() -> Iterator[Kernel]:
    with running_kernel() as kernel:
        assert kernel.run(BEGIN).text == ""
        yield kernel


@pytest.fixture
def kernel(fresh_kernel: Kernel) -> Iterator[Kernel]:
    """The kernel with a client and a session; afterwards the client closes without complaint."""
    assert fresh_kernel.run("client = MacpClient.embedded(agent='chair'); session = begin()").text == ""
    yield fresh_kernel
    assert fresh_kernel.run("await client.aclose()").text == ""


# What is shown.


def test_a_cell_that_ends_with_it_shows_nothing_but_the_picture(kernel: Kernel) -> None:
    told = kernel.run("live(session)")
    assert [one.kind for one in told.shown if one.kind != "update_display_data"] == ["display_data"]
    assert kernel.run("print(_)").text == "Live(live)\n"


def test_the_picture_stays_in_its_cell_and_grows_while_other_cells_speak(kernel: Kernel) -> None:
    begun = kernel.run("watch = live(session)")
    (place,) = begun.of("display_data")
    said = kernel.run(
        f"session.propose('p1', 'canary'); await session.acting_as('alice').rx.vote('p1', 'APPROVE')\n{COMMIT}"
    )
    ended = kernel.run("await watch")
    updates = [*begun.of("update_display_data"), *said.of("update_display_data"), *ended.of("update_display_data")]
    assert {one.display for one in updates} == {place.display}
    assert place.cell == begun.execution
    assert place.picture
    assert all(one.picture for one in updates)
    assert not [*said.of("display_data"), *ended.of("display_data")]
    assert updates[-1].text.splitlines() == [
        "1 chair SessionStart: intent='rollout', participants=['chair', 'alice'], ttl_ms=3600000",
        "2 chair Proposal: proposal_id='p1', option='canary'",
        "3 alice Vote: proposal_id='p1', vote='APPROVE'",
        "4 chair Commitment: action='rollout.approved', authority_scope='s', reason='it is fine', outcome_positive=True",
        "RESOLVED: it is fine",
    ]


def test_awaited_it_lasts_until_the_session_has_ended(kernel: Kernel) -> None:
    told = kernel.run(
        "asyncio.get_running_loop().call_later(0.1, session.cancel)\nawait live(session)\nprint(await watching())"
    )
    assert told.of("update_display_data")[-1].text.splitlines()[-1].startswith("CANCELLED")
    assert told.text == "[]\n"


def test_of_another_stream_the_newest_item_is_shown(kernel: Kernel) -> None:
    begun = kernel.run("watch = live(session.tally)")
    assert [one.text for one in begun.of("display_data")] == ["live: nothing yet"]
    kernel.run(f"session.propose('p1', 'canary'); session.acting_as('alice').vote('p1', 'APPROVE')\n{COMMIT}")
    kernel.run("await watch")
    told = kernel.run("live(rx.of(1, 2, 3)); await asyncio.sleep(0)")
    assert told.of("update_display_data")[-1].text == "3"


def test_the_tally_is_drawn(kernel: Kernel) -> None:
    told = kernel.run(
        "session.propose('p1', 'canary'); session.acting_as('alice').vote('p1', 'APPROVE')\n"
        f"watch = live(session.tally)\n{COMMIT}\nawait watch"
    )
    shown = told.of("update_display_data")[-1]
    assert shown.picture
    assert "1 approve" in shown.text


def test_there_are_ten_updates_a_second_at_most_and_nothing_is_missing_at_the_end(kernel: Kernel) -> None:
    told = kernel.run(
        "many = MultiRoundSession(client)\n"
        "many.start(intent='estimate', participants=['chair', 'alice'], ttl_ms=3_600_000)\n"
        "watch = live(many)\n"
        "for number in range(400):\n"
        "    await many.rx.contribute(str(number))\n"
        "    await asyncio.sleep(0.001)\n"
        "many.cancel()\n"
        "await watch"
    )
    updates = told.of("update_display_data")
    assert told.text == ""
    assert 2 <= len(updates) <= told.seconds / EVERY + 2
    assert updates[-1].text.splitlines()[-2] == "401 chair Contribute: value='399'"


def test_a_cell_that_blocks_holds_the_picture_up_and_loses_nothing(kernel: Kernel) -> None:
    kernel.run("watch = live(session)")
    blocking = kernel.run("for number in range(50): session.propose(f'p{number}', 'x')")
    told = kernel.run(f"{COMMIT}\nawait watch")
    assert blocking.seconds < 10
    assert (
        told.of("update_display_data")[-1].text.splitlines()[-3] == "51 chair Proposal: proposal_id='p49', option='x'"
    )


# Once a cell.


@pytest.mark.parametrize("cell", ["a", ""], ids=["by its id", "by its text"])
def test_a_cell_that_is_run_again_watches_once(kernel: Kernel, cell: str) -> None:
    begun = kernel.run("watch = live(events())", cell=cell)
    again = kernel.run("watch = live(events())", cell=cell)
    kernel.run("watch = live(events())", cell=cell)
    assert kernel.run("print(await watching())").text == "['events']\n"
    assert again.of("display_data")[0].display != begun.of("display_data")[0].display


def test_a_cell_that_begins_a_session_each_time_watches_the_newest(kernel: Kernel) -> None:
    for _ in range(3):
        kernel.run("session = begin(); live(session)", cell="a")
    assert (
        kernel.run("print(await watching(), session.session_id in repr(client.subscriptions))").text
        == "['events'] True\n"
    )


def test_a_cell_that_no_longer_watches_ends_what_it_watched(kernel: Kernel) -> None:
    kernel.run("live(session)", cell="a")
    assert kernel.run("print(await watching())", cell="a").text == "[]\n"


def test_two_cells_watch_and_so_does_one_that_asks_twice(kernel: Kernel) -> None:
    kernel.run("live(events())", cell="a")
    kernel.run("live(events()); live(events())", cell="b")
    assert kernel.run("print(await watching())").text == "['events', 'events', 'events']\n"


def test_disposed_it_watches_no_longer_and_says_so_in_its_place(kernel: Kernel) -> None:
    begun = kernel.run("watch = live(session)")
    told = kernel.run("watch.dispose(); watch.dispose(); await watch; print(await watching())")
    assert told.text == "[]\n"
    (update,) = [one for one in told.of("update_display_data") if one.text.endswith("stopped")]
    assert update.display == begun.of("display_data")[0].display


# How it ends otherwise.


def test_interrupted_it_watches_no_longer_and_the_kernel_goes_on(kernel: Kernel) -> None:
    told = kernel.run("await live(session)", interrupt_at="update_display_data")  # from then on nothing wakes the loop
    assert told.text.startswith("CancelledError")
    (error,) = told.of("error")
    assert "tasks.py" not in error.traceback  # of asyncio
    assert told.of("update_display_data")[-1].text.endswith("stopped")
    assert told.seconds < 10
    assert kernel.run("print(await watching(), (await session.rx.metadata()).state)").text == "[] 1\n"


def test_an_error_is_raised_where_it_is_awaited_and_logged_where_not(kernel: Kernel) -> None:
    awaited = kernel.run("await live(rx.throw(ValueError('no more')))")
    assert awaited.text == "ValueError: no more"
    left = kernel.run("live(rx.throw(ValueError('no more'))); await asyncio.sleep(0)")
    assert "ended by ValueError: no more" in left.text


def test_it_ends_when_the_client_is_closed(kernel: Kernel) -> None:
    kernel.run("watch = live(session)")
    assert kernel.run("client.close(); await watch").text.startswith("MacpClosedError")


def test_outside_a_notebook_it_says_so() -> None:
    with pytest.raises(MacpSessionError, match="notebook"):
        live(rx.of(1))


# What may block, and what is awaited.


@pytest.mark.parametrize(
    "code",
    [
        "print((await session.rx.propose('p1', 'canary')).ok)",
        "print(session.propose('p1', 'canary').ok)",
        "async def propose(): return session.propose('p1', 'canary').ok\nprint(await propose())",
        "print((await asyncio.gather(session.rx.propose('p1', 'x'), session.rx.propose('p2', 'y')))[1].ok)",
        f"session.propose('p1', 'canary'); {COMMIT}\nprint((await session.outcome).positive)",
        f"session.propose('p1', 'canary'); {COMMIT}\nprint(session.outcome.run().positive)",
        f"session.propose('p1', 'canary'); {COMMIT}\nprint([event.sequence async for event in session.events] == [1, 2, 3])",
        f"session.propose('p1', 'canary'); {COMMIT}\nprint([event.sequence for event in session.events] == [1, 2, 3])",
    ],
)
def test_in_a_kernel_one_may_block_or_await(kernel: Kernel, code: str) -> None:
    told = kernel.run(code)
    assert told.text == "True\n"
    assert kernel.run("print(await watching())").text == "[]\n"


@pytest.mark.parametrize(
    "code",
    [
        "for event in session.events: pass",
        "session.outcome.run()",
    ],
)
def test_what_blocks_can_be_interrupted_and_leaves_nothing(kernel: Kernel, code: str) -> None:
    # told on the client's thread, while the cell waits: an interrupt that comes while it begins to may hit threading.Event
    # inside its lock, which CPython answers with a RuntimeError (measured)
    told = kernel.run(f"client.clock.run_later(0.2, lambda: print('it waits'))\n{code}", interrupt_at="stream")
    assert told.text.endswith("KeyboardInterrupt: ")
    assert told.seconds < 10
    assert kernel.run("print(await watching())").text == "[]\n"


def test_on_the_kernels_own_loop_blocking_is_refused_and_the_rest_works(kernel: Kernel) -> None:
    kernel.run(
        "here = MacpClient.embedded(agent='chair', runtime=Runtime(clock=LoopClock(asyncio.get_running_loop())))"
    )
    refused = kernel.run("DecisionSession(here).start(intent='x', participants=['chair'], ttl_ms=60_000)")
    assert refused.text.startswith("MacpWouldBlockError")
    told = kernel.run(
        "mine = DecisionSession(here)\n"
        "await mine.rx.start(intent='x', participants=['chair'], ttl_ms=60_000)\n"
        "watch = live(mine)\n"
        "await mine.rx.propose('p1', 'canary')\n"
        "await mine.rx.commit(action='rollout.approved', authority_scope='s', reason='it is fine')\n"
        "await watch\n"
        "await here.aclose()"
    )
    assert told.text == ""
    assert told.of("update_display_data")[-1].text.endswith("RESOLVED: it is fine")
