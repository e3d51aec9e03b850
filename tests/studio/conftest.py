"""A studio over an embedded runtime, and a browser to look at it with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Protocol
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from macp_rx import DecisionSession, MacpClient, Runtime
from macp_rx.studio import Studio

expect.set_options(timeout=20_000)  # these machines are noisy, and whoever waits for what comes waits no longer for it


class Open(Protocol):
    """Opens a studio's page; it is open when the page is connected."""

    def __call__(self, studio: Studio, *, connected: bool = True) -> Page: ...


@pytest.fixture
def chair(no_thread_left: None) -> Iterator[MacpClient]:
    """The chair's client, of a runtime of its own."""
    with MacpClient.embedded(agent="chair", runtime=(runtime := Runtime())) as client:
        yield client
    runtime.close()


@pytest.fixture
def studio(chair: MacpClient) -> Iterator[Studio]:
    """Its studio. In the end nothing is left of it: no stream, no thread."""
    with Studio(chair) as studio:
        yield studio
    assert chair.subscriptions == ()


def started(client: MacpClient, *participants: str, intent: str = "pick a rollout") -> DecisionSession:
    """An open decision."""
    session = DecisionSession(client)
    session.start(intent=intent, participants=["chair", *(participants or ("alice", "bob"))], ttl_ms=600_000)
    return session


def chromium() -> str:
    """The browser: CHROMIUM_BIN, else one on the PATH."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM_BIN") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail("no browser: apt-get install chromium, or say in CHROMIUM_BIN where it is")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of a module, as it takes two seconds to start."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium())
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens a studio's page. In the end no page has asked anybody else for anything, nor has its script failed."""
    asked: list[str] = []
    wrong: list[str] = []
    context = browser.new_context()

    def open_page(studio: Studio, *, connected: bool = True) -> Page:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("console", lambda told: wrong.append(told.text) if "Content Security" in told.text else None)
        page.goto(studio.url)
        if connected:
            page.locator("body[data-link=connected]").wait_for()
        return page

    yield open_page
    context.close()
    assert {urlsplit(url).hostname for url in asked} <= {"127.0.0.1"}
    assert wrong == []
