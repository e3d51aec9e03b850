"""The page about the command line says what the commands say, and what they print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_a_fresh_generation_writes(tmp_path: Path) -> None:
    fresh = tmp_path / "cli.md"
    subprocess.run([sys.executable, ROOT / "scripts/command-reference", fresh], check=True)
    assert (ROOT / "docs/cli.md").read_text() == fresh.read_text(), "run scripts/command-reference"


def test_every_command_has_a_section() -> None:
    from tests.cli.test_help import COMMANDS

    headings = {line[3:] for line in (ROOT / "docs/cli.md").read_text().splitlines() if line.startswith("## ")}
    assert headings == {"Exit status", "The connection", *map(" ".join, COMMANDS)}
