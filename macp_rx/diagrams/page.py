"""html: a Timeline as a page of its own: the picture, and every event as a row of a table."""

from __future__ import annotations

from html import escape
from typing import Final

from macp_rx.diagrams.lanes import duration, svg
from macp_rx.diagrams.picture import clean
from macp_rx.diagrams.symbols import explained, said, symbol_of
from macp_rx.diagrams.theme import PALETTES, SANS, Theme
from macp_rx.timeline import Timeline

__all__ = ["html"]

ROWS: Final = 2_000
"""So many rows at the most."""


def html(timeline: Timeline, *, title: str = "Timeline", theme: Theme = "auto") -> str:
    """A page that needs nothing else: no script, no font, no network.

    Its table has the first 2,000 events, and says how many more there are.

    Args:
        timeline: what to show.
        title: of the page and the picture.
        theme: ``light``, ``dark``, or ``auto`` for whichever the reader's system has.
    """
    picture = svg(timeline, title=title, theme=theme)
    rows: list[str] = []
    for event in timeline.events[:ROWS]:
        symbol = symbol_of(event.what)
        _head, _, detail = explained(event, symbol).partition("\n")
        cells = (duration(event.time), event.lane, said(symbol), detail[:1_000])
        rows.append(f"<tr>{''.join(f'<td>{escape(clean(cell))}</td>' for cell in cells)}</tr>\n")
    more = len(timeline.events) - ROWS
    rest = f"<p>and {more} more events</p>\n" if more > 0 else ""
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="{"light dark" if theme == "auto" else theme}">
<title>{escape(clean(title))}</title>
<style>
{_style(theme)}
</style>
</head>
<body>
<main>
<figure>
{picture.text}</figure>
<table>
<thead><tr><th>time</th><th>lane</th><th>what</th><th>more</th></tr></thead>
<tbody>
{"".join(rows)}</tbody>
</table>
{rest}</main>
</body>
</html>
"""


def _style(theme: Theme) -> str:
    def colours(name: str) -> str:
        of = PALETTES[name]
        return (
            f"body {{ background: {of['box']}; color: {of['ink']}; }}\n"
            f"th {{ color: {of['muted']}; }}\ntd, th {{ border-bottom: 1px solid {of['edge']}; }}"
        )

    dark = f"@media (prefers-color-scheme: dark) {{\n{colours('dark')}\n}}" if theme == "auto" else ""
    return f"""\
body {{ margin: 2rem 1rem; font: 13px/1.5 {SANS}; }}
main {{ max-width: 900px; margin: auto; }}
figure {{ margin: 0 0 2rem; }}
svg {{ display: block; max-width: 100%; height: auto; margin: auto; }}
table {{ border-collapse: collapse; width: 100%; }}
th {{ text-align: left; font-weight: normal; }}
td, th {{ padding: .3rem 1rem .3rem 0; vertical-align: top; overflow-wrap: anywhere; }}
td:nth-child(-n+2) {{ white-space: nowrap; }}
td:nth-child(3) {{ min-width: 11rem; }}
{colours("light" if theme == "auto" else theme)}
{dark}"""
