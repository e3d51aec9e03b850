"""One command, one table."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, repeat
from multiprocessing import get_context
from pathlib import Path

from benchmarks import (
    Row,
    clock,
    hop,
    imports,
    many_streams,
    measured,
    operators,
    reading,
    reliability,
    runtime,
    scale,
    served,
    simulation,
    unary,
)

SUITES: dict[str, Callable[[int], Iterable[Row]]] = {
    "reading": reading.rows,
    "hop": hop.rows,
    "streams": many_streams.rows,
    "unary": unary.rows,
    "imports": imports.rows,
    "clock": clock.rows,
    "operators": operators.rows,
    "runtime": runtime.rows,
    "served": served.rows,
    "reliability": reliability.rows,
    "simulation": simulation.rows,
    "scale": scale.rows,
}

BEGIN, END = "<!-- table -->", "<!-- /table -->"
PACKAGES = ("grpcio", "protobuf", "reactivex", "macp-proto", "macp-sdk-python")


def main() -> None:
    """Runs the suites that were asked for and prints their rows as one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--only", choices=SUITES, action="append", help="this suite only; may be repeated")
    parser.add_argument("--rounds", type=int, default=51, help="rounds per suite (default 51)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the whole table into FILE, between its markers")
    arguments = parser.parse_args()
    if arguments.write and arguments.only:
        parser.error("--write replaces the whole table, so it goes without --only")
    # each suite in a process of its own: what the others have left there makes it slower
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
        suites = [SUITES[name] for name in arguments.only or SUITES]
        rows = list(chain.from_iterable(fresh.map(measured, suites, repeat(arguments.rounds))))
    table = "\n".join([*_table(rows), "", _circumstances(arguments.rounds)])
    print(table)
    if arguments.write:
        _write(arguments.write, table)


def _table(rows: Iterable[Row]) -> list[str]:
    return ["| what | ours | peer | ratio | bar | holds? |", "|---|---|---|---|---|---|", *map(_line, rows)]


def _line(row: Row) -> str:
    times = "" if row.ratio is None else f"{row.ratio:.2f}x"
    if row.spread is not None:
        times += f" ({row.spread[0]:.2f}–{row.spread[1]:.2f})"
    holds = "" if row.holds is None else "yes" if row.holds else "**no**"
    peer = f"{row.peer}: {row.peer_name}" if row.peer else row.peer_name
    return f"| {row.what} | {row.ours} | {peer} | {times} | {row.bar} | {holds} |"


def _circumstances(rounds: int) -> str:
    """What ran, on what machine."""
    packages = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    machine = f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{rounds} rounds. {machine}. {python}, {packages}."


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _write(file: Path, table: str) -> None:
    before, rest = file.read_text().split(BEGIN)
    file.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
