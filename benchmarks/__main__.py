"""One command, one table."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import Row, clock, imports, many_streams, reading, unary

SUITES: dict[str, Callable[[int], Iterable[Row]]] = {
    "reading": reading.rows,
    "streams": many_streams.rows,
    "unary": unary.rows,
    "imports": imports.rows,
    "clock": clock.rows,
}

BEGIN, END = "<!-- table -->", "<!-- /table -->"


def main() -> None:
    """Runs the suites that were asked for and prints their rows as one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--only", choices=SUITES, action="append", help="this suite only; may be repeated")
    parser.add_argument("--rounds", type=int, default=21, help="rounds per suite (default 21)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into FILE, between its markers")
    arguments = parser.parse_args()
    found = [row for name in arguments.only or SUITES for row in SUITES[name](arguments.rounds)]
    table = "\n".join(
        [
            "| what | ours | peer | | ratio | bar | holds |",
            "|---|---|---|---|---|---|---|",
            *map(_line, found),
            "",
            f"{platform.python_implementation()} {platform.python_version()}, {arguments.rounds} interleaved rounds.",
        ]
    )
    print(table)
    if arguments.write:
        text = arguments.write.read_text()
        before, rest = text.split(BEGIN)
        arguments.write.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


def _line(row: Row) -> str:
    times = "" if row.ratio is None else f"{row.ratio:.2f}x"
    holds = "" if row.holds is None else "yes" if row.holds else "**no**"
    return f"| {row.what} | {row.ours} | {row.peer} | {row.peer_name} | {times} | {row.bar} | {holds} |"


if __name__ == "__main__":
    main()
