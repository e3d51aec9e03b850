"""The tutorial is done as its reader does it: its programs run, its test passes, it prints and draws what the page shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_tutorial_does_what_it_shows(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts/tutorial", tmp_path], check=True)
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert {str(path) for path in fresh} == {"tutorial.md", "tutorial/team.svg", "tutorial/verdict.svg"}
    for path, made in fresh.items():
        assert made == (ROOT / "docs" / path).read_bytes(), f"docs/{path}: run scripts/tutorial"
