"""A timeline as a page."""

from __future__ import annotations

from html.parser import HTMLParser

from macp_rx import diagrams
from tests.diagrams.stories import fixture, long


class Page(HTMLParser):
    """Counts elements, and keeps what they point to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_it_has_the_picture_and_a_row_for_each_event_and_needs_nothing_else() -> None:
    recorded = fixture("decision_reject_paths")
    text = diagrams.html(recorded, title="what was refused")
    page = Page(text)
    assert page.tags.count("svg") == 1
    assert page.tags.count("tr") == len(recorded.events) + 1
    assert page.links == []
    assert "script" not in page.tags
    assert "<title>what was refused</title>" in text
    assert diagrams.html(recorded, title="what was refused") == text


def test_its_table_says_how_much_it_leaves_out() -> None:
    text = diagrams.html(long(2_500))
    assert Page(text).tags.count("tr") == 2_001
    assert "<p>and 500 more events</p>" in text


def test_a_theme_holds_for_the_whole_page() -> None:
    assert "prefers-color-scheme" in diagrams.html(long(3))
    assert "prefers-color-scheme" not in diagrams.html(long(3), theme="dark")
