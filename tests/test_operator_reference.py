"""The operator reference says what the docstrings say."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

from macp_rx import operators as mo

ROOT = Path(__file__).parents[1]


def test_the_page_and_its_pictures_are_what_a_fresh_generation_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts/operator-reference", tmp_path], check=True)
    committed = {path.name: path.read_bytes() for path in (ROOT / "docs/operators").iterdir()}
    assert {path.name for path in (tmp_path / "operators").iterdir()} == committed.keys()
    for path in [tmp_path / "operators.md", *(tmp_path / "operators").iterdir()]:
        shown = ROOT / "docs" / path.relative_to(tmp_path)
        assert shown.read_bytes() == path.read_bytes(), f"{shown}: run scripts/operator-reference"


def test_every_public_name_has_a_place_in_it() -> None:
    headings = {line[4:] for line in (ROOT / "docs/operators.md").read_text().splitlines() if line.startswith("### ")}
    public = {name for name, value in vars(mo).items() if inspect.isfunction(value) or inspect.isclass(value)}
    assert headings == public
