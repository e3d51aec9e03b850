"""The README's example is executed as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return str(code)


def test_the_example_of_the_readme_decides(capsys: pytest.CaptureFixture[str], no_thread_left: None) -> None:
    exec(compile(example(), "README.md", "exec"), {"__name__": "__readme__"})
    printed = capsys.readouterr().out
    assert printed.startswith("Outcome(state='RESOLVED'")
    assert "rollout.approved" in printed


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_the_examples_of_the_readme_are_typed(checker: str, tmp_path: Path) -> None:
    written = tmp_path / "example.py"
    written.write_text(f"# pyright: strict\n{example()}")
    options = ["--strict"] if checker == "mypy" else ["--pythonpath", sys.executable]
    checked = subprocess.run(
        [sys.executable, "-m", checker, *options, written], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert checked.returncode == 0, checked.stdout
