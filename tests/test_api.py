"""The public interface with its signatures stands in one file: a change of it is a decision, made by refreshing the file."""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_interface_is_the_one_that_was_decided_on(tmp_path: Path) -> None:
    now = tmp_path / "api.txt"
    subprocess.run([sys.executable, ROOT / "scripts" / "api-snapshot", now], check=True)
    decided = (ROOT / "tests" / "api.txt").read_text()
    changes = difflib.unified_diff(
        decided.splitlines(), now.read_text().splitlines(), "decided", "now", lineterm="", n=0
    )
    told = "\n".join(changes)
    assert not told, f"{told}\nIf that is meant: scripts/api-snapshot, and a line in CHANGELOG.md"
