"""What the terminal shows: lines that do not wrap there, tables, and JSON for scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from macp_rx.protocol import jcs

__all__ = ["STYLES", "console", "on_terminal", "plain", "print_json", "print_table", "show"]

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


def on_terminal() -> bool:
    """Whether a person reads standard output."""
    return console().is_terminal


def plain(text: str) -> str:
    """Text of others, on one line and without what would command the terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def show(out: Console, line: Text) -> None:
    """Prints a line: on a terminal as far as it fits, elsewhere all of it."""
    if out.is_terminal:
        out.print(line, no_wrap=True, overflow="ellipsis", crop=True)
    else:
        out.print(line, soft_wrap=True)


def print_json(value: object) -> None:
    """Prints a value as one line of canonical JSON."""
    if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]  # as where it was closed: >&-
        sys.stdout.write(f"{jcs.encode(value)}\n")
        sys.stdout.flush()


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, flexible: str) -> None:
    """Prints a table. On a terminal that is too narrow one column is cut, and no line wraps.

    Args:
        heads: the names of the columns.
        rows: their cells; words of `STYLES` are coloured.
        flexible: the column that is cut.
    """
    out = console()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for head in heads:
        is_flexible = head == flexible
        table.add_column(head, no_wrap=True, overflow="ellipsis", ratio=1 if is_flexible else None)
    lines = [[Text(plain(cell), style=STYLES.get(cell, "")) for cell in row] for row in rows]
    for line in lines:
        table.add_row(*line)
    if not out.is_terminal:
        out.width = sum(
            max((len(line[at]) for line in lines), default=0) + len(head) + 3 for at, head in enumerate(heads)
        )
    out.print(table)
