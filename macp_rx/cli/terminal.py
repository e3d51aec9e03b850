"""What the terminal shows: lines that do not wrap there, tables, and JSON for scripts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from macp_rx.protocol import jcs

__all__ = ["STYLES", "LogLines", "console", "plain", "print_json", "print_table", "show"]

STYLES: Final = {
    "APPROVE": "green",
    "REJECT": "red",
    "ABSTAIN": "yellow",
    "OPEN": "cyan",
    "SUSPENDED": "yellow",
    "RESOLVED": "green",
    "CANCELLED": "red",
    "EXPIRED": "red",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
}
"""Words that have a colour."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leaves it to whoever knows how a command ends; rich's own ends the process, with status 1."""
        raise BrokenPipeError


def console(*, err: bool = False) -> Console:
    """Standard output, or standard error."""
    return _Console(stderr=err, highlight=False)


def plain(text: str) -> str:
    """Text of others, on one line and without what would command the terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def show(out: Console, line: Text) -> None:
    """Prints a line: on a terminal as far as it fits, elsewhere all of it."""
    if out.is_terminal:
        out.print(line, no_wrap=True, overflow="ellipsis", crop=True)
    else:
        out.print(line, soft_wrap=True)


class LogLines(logging.Handler):
    """The log, on standard error: a line for each record, which a terminal cuts at its edge as any other."""

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a record."""
        show(console(err=True), Text(f"macp-rx: {plain(record.getMessage())}", "dim"))


def print_json(value: object) -> None:
    """Prints a value as one line of canonical JSON."""
    if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]  # as where it was closed: >&-
        sys.stdout.write(f"{jcs.encode(value)}\n")
        sys.stdout.flush()


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table. What may be long stands in its last column: on a terminal a line is cut at the edge, and does not wrap.

    Args:
        heads: the names of the columns.
        rows: their cells; words of `STYLES` are coloured.
    """
    out = console()
    lines = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(heads, *lines, strict=True)]
    show(out, Text("  ".join(map(set_cell_size, heads, widths)).rstrip(), "bold"))
    for line in lines:
        cells = [(set_cell_size(cell, width), STYLES.get(cell, "")) for cell, width in zip(line, widths, strict=True)]
        text = Text("  ").join(Text(*cell) for cell in cells)
        text.rstrip()
        show(out, text)
