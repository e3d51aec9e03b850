"""The operator reference says what the docstrings say."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

from macp_rx import operators as mo

ROOT = Path(__file__).parents[1]


def test_the_page_is_what_a_fresh_generation_writes(tmp_path: Path) -> None:
    fresh = tmp_path / "operators.md"
    subprocess.run([sys.executable, ROOT / "scripts/operator-reference", fresh], check=True)
    assert (ROOT / "docs/operators.md").read_text() == fresh.read_text(), "run scripts/operator-reference"


def test_every_public_name_has_a_place_in_it() -> None:
    headings = {line[4:] for line in (ROOT / "docs/operators.md").read_text().splitlines() if line.startswith("### ")}
    public = {name for name, value in vars(mo).items() if inspect.isfunction(value) or inspect.isclass(value)}
    assert headings == public
