"""The page in a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from macp.v1.core_pb2 import ModeDescriptor
from playwright.sync_api import Locator, Page, expect

from macp_rx import DecisionSession, ExtensionSession, MacpClient, Runtime, transcript
from macp_rx.runtime import Settings, static_tokens
from macp_rx.studio import Studio
from tests.conftest import dial, running_server
from tests.studio.asking import Address
from tests.studio.conftest import Open, started

HAPPY = Path(__file__).parents[1] / "conformance/data/decision_happy_path.json"

KINDS = ["port", pytest.param("server", marks=pytest.mark.server)]

NASTY = '<img src="x" onerror="window.pwned=1"><script>window.pwned=1</script>'

NOTES_WHEN = """(text) => {
    window.noted = new Promise((seen) => {
        const look = () => {
            const marks = [...document.querySelectorAll(".lanes .mark text")].map((each) => each.textContent);
            if (marks.includes(text)) { seen(Date.now()); return true; }
        };
        if (!look()) new MutationObserver((_, watching) => { if (look()) watching.disconnect(); })
            .observe(document.body, { subtree: true, childList: true });
    });
}"""
"""Keeps the time at which a mark appears that says a text."""

DROPS = """([name, text]) => {
    const carried = new DataTransfer();
    carried.items.add(new File([text], name));
    for (const kind of ["dragenter", "dragover", "drop"])
        document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
}"""


def chosen(page: Page, session_id: str) -> None:
    """Clicks on a session in the list."""
    page.locator(f"#list a[href='#session/{session_id}']").click()


def marks(page: Page) -> Locator:
    return page.locator(".lanes .mark")


def test_it_is_empty_and_says_what_to_do(studio: Studio, open_page: Open) -> None:
    page = open_page(studio)
    expect(page.get_by_text("No session yet")).to_be_visible()
    expect(page.get_by_text("macp-rx demo --slow --target embedded")).to_be_visible()


def test_a_session_appears_with_its_lanes_tally_and_end(studio: Studio, chair: MacpClient, open_page: Open) -> None:
    page = open_page(studio)
    session = started(chair)
    chosen(page, session.session_id)
    session.propose("p1", "canary")
    session.acting_as("alice").vote("p1", "APPROVE")
    session.acting_as("bob").vote("p1", "REJECT")
    expect(marks(page)).to_have_count(4)
    expect(page.locator(".names-of-lanes li")).to_have_text(["chairinitiator", "alice", "bob"])
    expect(page.locator(".lanes text.small.muted", has_text="p1: reject")).to_be_visible()
    expect(page.get_by_role("heading", name="Where it stands: voting")).to_be_visible()
    expect(page.get_by_text("1 approve, 1 reject, 0 abstain")).to_be_visible()
    expect(page.locator(".left-time")).to_contain_text("until the deadline")
    expect(page.get_by_text("✓ would be accepted").first).to_be_visible()
    expect(page.locator("tbody tr").first).to_contain_text("vote REJECT")
    session.commit(action="rollout.approved", authority_scope="all", reason="enough", outcome_positive=True)
    expect(page.locator(".outcome")).to_contain_text("resolved: rollout.approved")
    expect(page.locator("#list .state")).to_have_text("resolved")


def test_a_vote_is_there_within_a_second(studio: Studio, chair: MacpClient, open_page: Open) -> None:
    page = open_page(studio)
    session = started(chair)
    session.propose("p1", "canary")
    chosen(page, session.session_id)
    expect(marks(page)).to_have_count(2)
    page.evaluate(NOTES_WHEN, "p1: approve")
    sent = time.time() * 1000
    session.acting_as("alice").vote("p1", "APPROVE")
    assert page.evaluate("() => window.noted") - sent < 1000


def test_a_reload_shows_the_same(studio: Studio, chair: MacpClient, open_page: Open) -> None:
    page = open_page(studio)
    session = started(chair)
    session.propose("p1", "canary")
    chosen(page, session.session_id)
    expect(marks(page)).to_have_count(2)
    page.reload()
    expect(marks(page)).to_have_count(2)
    session.acting_as("bob").vote("p1", "ABSTAIN")
    expect(marks(page)).to_have_count(3)


@contextmanager
def restartable(kind: str, folder: Path) -> Iterator[tuple[str, list[object]]]:
    """A runtime that keeps what happened, where it listens, and what stops and starts it."""
    if kind == "server":
        with running_server(MACP_MEMORY_ONLY="0", MACP_DATA_DIR=str(folder)) as server:
            yield server.target, [server.stop, server.start]
        return
    running: list[Runtime] = []
    target = "127.0.0.1:0"

    def start() -> None:
        nonlocal target
        running.append(Runtime(store=folder / "kept.sqlite"))
        target = running[0].serve(target).target

    def stop() -> None:
        running.pop().close()

    start()
    yield target, [stop, start]
    stop()


@pytest.mark.parametrize("kind", KINDS)
def test_the_runtime_is_restarted(kind: str, open_page: Open, tmp_path: Path) -> None:
    with restartable(kind, tmp_path) as (target, (stop, start)), dial(target) as chair, Studio(chair) as studio:
        session = started(chair)
        session.propose("p1", "canary")
        page = open_page(studio)
        chosen(page, session.session_id)
        expect(marks(page)).to_have_count(2)
        stop()
        expect(page.get_by_role("status").filter(has_text="reconnecting to the runtime")).to_be_visible()
        start()
        expect(page.locator("body[data-link=connected]")).to_be_visible()
        session.acting_as("alice").vote("p1", "APPROVE")
        expect(page.locator("tbody tr").first).to_contain_text("vote APPROVE")
        expect(page.locator("tbody")).to_contain_text("lost")
        expect(page.locator("tbody tr", has_text="option canary")).to_have_count(1)


def test_the_studio_is_restarted(chair: MacpClient, open_page: Open) -> None:
    token = "a-token-that-stays"
    with Studio(chair, token=token) as studio:
        port = Address.of(studio).port
        session = started(chair)
        session.propose("p1", "canary")
        page = open_page(studio)
        chosen(page, session.session_id)
        expect(marks(page)).to_have_count(2)
    expect(page.get_by_text("the studio does not answer")).to_be_visible()
    session.acting_as("alice").vote("p1", "APPROVE")
    with Studio(chair, port=port, token=token):
        expect(page.locator("body[data-link=connected]")).to_be_visible()
        expect(page.locator("tbody tr")).to_contain_text(["vote APPROVE", "option canary", "intent pick a rollout"])
    with MacpClient.embedded(agent="chair") as another, Studio(another, port=port, token=token):
        expect(page.get_by_text("No session yet")).to_be_visible()
    with Studio(chair, port=port):
        expect(page.get_by_text("this page is of an earlier studio")).to_be_visible()
    page.close()


def test_two_hundred_sessions_at_once(studio: Studio, chair: MacpClient, open_page: Open) -> None:
    sessions = [started(chair, "alice", f"agent-{number}") for number in range(200)]
    page = open_page(studio)
    expect(page.locator("#list a")).to_have_count(200)
    expect(page.locator("#count")).to_have_text("200 of 200 live")
    page.keyboard.press("/")
    page.keyboard.type("decision agent-123")
    expect(page.locator("#list a")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".names-of-lanes")).to_contain_text("agent-123")
    for session in sessions:
        session.propose("p1", "canary")
        session.cancel()
    expect(page.locator(".outcome")).to_contain_text("cancelled")
    page.get_by_label("Filter sessions").fill("")
    expect(page.locator("#count")).to_have_text("0 of 200 live")
    assert len(chair.subscriptions) <= 2  # the two of the list: the session that was shown has ended


def test_what_others_write_is_text(studio: Studio, chair: MacpClient, open_page: Open) -> None:
    page = open_page(studio)
    session = started(chair, f"<u>{NASTY}</u>", intent=NASTY)
    session.propose("p1", NASTY, rationale=NASTY)
    session.acting_as(f"<u>{NASTY}</u>").vote("p1", "APPROVE", reason=NASTY)
    session.commit(action=NASTY, authority_scope="all", reason=NASTY, outcome_positive=True)
    chosen(page, session.session_id)
    expect(page.locator(".outcome")).to_contain_text(NASTY)
    expect(page.locator("tbody")).to_contain_text(f"reason {NASTY}")
    expect(page.locator(".intent")).to_have_text(NASTY)
    expect(page.locator("main img, main script, main u, nav img, nav u")).to_have_count(0)
    assert page.evaluate("() => window.pwned") is None


def test_a_transcript_that_is_dropped_is_drawn(
    studio: Studio, chair: MacpClient, open_page: Open, tmp_path: Path
) -> None:
    recorded = tmp_path / "two.jsonl"
    with transcript.record(chair, chair.all_events(), recorded):
        for _ in range(2):
            session = started(chair)
            session.propose("p1", NASTY)
            session.cancel()
    page = open_page(studio)
    page.evaluate(DROPS, ["two.jsonl", recorded.read_text()])
    expect(page.locator(".picture svg")).to_have_count(2)
    expect(page.locator(".picture h2")).to_have_text(["decision, 2 messages"] * 2)
    expect(page.locator(".picture").first).to_contain_text("<img")
    page.set_input_files("#file", HAPPY)
    expect(page.locator(".picture h2")).to_have_text("decision, 5 messages")
    assert page.evaluate("() => window.pwned") is None


def test_a_bad_transcript_says_what_is_wrong(studio: Studio, open_page: Open) -> None:
    page = open_page(studio)
    page.evaluate(DROPS, ["bad.jsonl", '{"sequence":1}\n'])
    expect(page.get_by_role("alert")).to_contain_text("the file, line 1: this line has no")
    page.evaluate(DROPS, ["empty.jsonl", ""])
    expect(page.get_by_role("alert")).to_contain_text("there is nothing in this file")


def test_a_long_session_shows_the_newest(studio: Studio, chair: MacpClient, open_page: Open) -> None:
    session = started(chair)
    session.propose("p1", "canary")
    for _ in range(700):
        session.evaluate("p1", "APPROVE", confidence=0.5)
    page = open_page(studio)
    chosen(page, session.session_id)
    expect(marks(page)).to_have_count(400)
    expect(page.get_by_text("302 earlier messages are not shown")).to_be_visible()
    for _ in range(300):
        session.evaluate("p1", "REJECT", confidence=0.5)
    expect(page.locator("tbody td:first-child").first).to_have_text("1002")
    assert marks(page).count() <= 600
    expect(marks(page).last).to_be_in_viewport()


def test_a_history_that_is_forgotten_is_a_gap(open_page: Open) -> None:
    with (
        Runtime(settings=Settings(compact_ended=True)) as runtime,
        MacpClient.embedded(agent="chair", runtime=runtime) as chair,
        Studio(chair) as studio,
    ):
        session = started(chair)
        session.propose("p1", "canary")
        session.commit(action="rollout.approved", authority_scope="all", reason="enough", outcome_positive=True)
        page = open_page(studio)
        chosen(page, session.session_id)
        expect(page.locator(".outcome")).to_contain_text("resolved: rollout.approved")
        expect(page.locator(".lanes .mark")).to_have_text(re.compile("gap.*3 missing"))
        expect(page.locator(".card")).to_have_count(0)


def test_who_may_not_read_a_session_is_told(chair: MacpClient, open_page: Open) -> None:
    session = started(chair)
    with Studio(chair.acting_as("mallory")) as studio:
        page = open_page(studio)
        chosen(page, session.session_id)
        expect(page.get_by_role("alert")).to_contain_text("FORBIDDEN")
        expect(page.get_by_role("alert")).to_contain_text("macp-rx studio --agent NAME")
        page.close()


def test_a_runtime_that_wants_tokens_says_so(open_page: Open) -> None:
    identify = static_tokens('{"tokens":[{"token":"s3cret","sender":"chair"}]}')
    with (
        Runtime(identify=identify) as runtime,
        runtime.serve() as port,
        MacpClient(target=port.target, secure=False) as nobody,
        Studio(nobody) as studio,
    ):
        page = open_page(studio, connected=False)
        expect(page.get_by_role("status")).to_contain_text("the runtime refuses the studio")
        expect(page.get_by_role("status")).to_contain_text("--agent NAME, or MACP_TOKEN")


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_in_particular_reads_as_the_initiator(kind: str, open_page: Open, tmp_path: Path) -> None:
    with (
        restartable(kind, tmp_path) as (target, _stop_and_start),
        dial(target) as chair,
        MacpClient(target=target, secure=False) as nobody,
        Studio(nobody) as studio,
    ):
        session = started(chair)
        page = open_page(studio)
        chosen(page, session.session_id)
        expect(marks(page)).to_have_count(1)
        session.cancel()
        expect(page.locator(".outcome")).to_contain_text("cancelled")


def test_a_mode_of_ones_own_has_lanes_and_no_tally(studio: Studio, chair: MacpClient, open_page: Open) -> None:
    chair.register_ext_mode(
        ModeDescriptor(
            mode="ext.notes.v1",
            mode_version="1.0.0",
            title="Notes",
            message_types=["SessionStart", "Note", "Commitment"],
            terminal_message_types=["Commitment"],
        )
    )
    session = ExtensionSession(chair, "ext.notes.v1")
    session.start(intent="notes", participants=["chair", "alice"], ttl_ms=600_000)
    session.acting_as("alice").say("Note", b"remember")
    page = open_page(studio)
    chosen(page, session.session_id)
    expect(page.locator("tbody tr").first).to_contain_text("Note")
    expect(page.locator("tbody tr").first).to_contain_text("payload 8 bytes")
    expect(page.locator(".card")).to_have_count(0)


def test_a_policy_says_which_commitment_would_be_accepted(studio: Studio, chair: MacpClient, open_page: Open) -> None:
    session = DecisionSession(chair, policy_version="policy.std.majority")
    session.start(intent="x", participants=["chair", "alice", "bob"], ttl_ms=600_000)
    session.propose("p1", "canary")
    page = open_page(studio)
    chosen(page, session.session_id)
    expect(page.locator(".card").last).to_contain_text("✕ would be denied")
    for name in ("alice", "bob"):
        session.acting_as(name).vote("p1", "APPROVE")
    expect(page.locator(".card").last).to_contain_text("positive✓ would be accepted")


def test_a_session_that_nobody_knows(studio: Studio, chair: MacpClient, open_page: Open) -> None:
    started(chair)
    page = open_page(studio)
    page.goto(f"{studio.url}#session/{'f' * 32}")
    expect(page.get_by_role("alert")).to_contain_text(f"The runtime knows no session {'f' * 32}")
