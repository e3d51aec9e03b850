"""The documentation is executed: its examples are tests, and the failure it shows is the one that comes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import macp_rx.protocol.commitment
import macp_rx.protocol.policy
import macp_rx.protocol.receipt

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.mark.parametrize(
    "code",
    [
        code
        for page in ("testing.md", "simulation.md", "coordination.md")
        for code in blocks(page)
        if "test_when" not in code
    ],
)
def test_an_example_of_the_pages_about_tests(pytester: pytest.Pytester, code: str) -> None:
    pytester.makepyfile(test_docs=code)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-q")
    result.assert_outcomes(passed=len(re.findall(r"^def test_", code, re.MULTILINE)))


def test_the_spans_that_the_telemetry_page_shows_are_real(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("telemetry.md")
    exec(compile(code, "telemetry.md", "exec"), {"__name__": "__telemetry__"})
    (shown,) = re.findall(r"<!-- printed -->\n```\n(.*?)```", (DOCS / "telemetry.md").read_text(), re.DOTALL)
    assert capsys.readouterr().out == shown


def test_the_failure_that_the_testing_page_shows_is_real(pytester: pytest.Pytester) -> None:
    (code,) = (code for code in blocks("testing.md") if "test_when" in code)
    pytester.makepyfile(test_when=code)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-q")
    result.assert_outcomes(failed=1)
    start = next(number for number, line in enumerate(result.outlines) if "the marbles differ" in line)
    printed = [line.removeprefix("E") for line in result.outlines[start : start + 5]]
    (shown,) = re.findall(r"<!-- failure -->\n```\n(.*?)```", (DOCS / "testing.md").read_text(), re.DOTALL)
    assert [line.strip() for line in printed] == [line.strip() for line in shown.splitlines()]


def test_the_answer_that_the_simulation_page_shows_is_real_and_plotted(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    asked = subprocess.run(
        [sys.executable, DOCS.parent / "examples" / "simulations" / "which_policy.py", plot],
        capture_output=True,
        text=True,
        check=True,
    )
    (shown,) = re.findall(
        r"<!-- printed: which_policy -->\n```\n(.*?)```", (DOCS / "simulation.md").read_text(), re.DOTALL
    )
    assert asked.stdout.strip() == shown.strip()
    assert [line for line in asked.stderr.splitlines() if not line.startswith("Matplotlib is building the font")] == []
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_test_of_an_example_has_at_most_fifteen_lines() -> None:
    examples = {page.stem for page in (DOCS.parent / "examples").glob("*.py")}
    tested = set()
    for code in blocks("coordination.md"):
        assert len([line for line in code[code.index("def test_") :].splitlines() if line.strip()]) <= 15
        tested |= {name for name in examples if f"import {name}" in code}
    assert tested == examples


@pytest.mark.parametrize(
    "code",
    [code for page in ("index", "agents", "crash-safe", "production", "studio") for code in blocks(f"{page}.md")],
)
def test_an_example_that_runs_by_itself(
    code: str, no_thread_left: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs", "exec"), {"__name__": "__docs__"})


@pytest.mark.parametrize("code", [code for code in blocks("cluster.md") if "LocalCluster" in code or "SLURM" in code])
def test_an_example_of_the_page_about_clusters(code: str, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(code)
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    expected = {"sweep(": "40 simulations", "agents.serve": "caught up", "SLURM": "#SBATCH -t 12:00:00"}
    (shown,) = (line for word, line in expected.items() if word in code)
    assert shown in done.stdout


def test_the_names_of_the_migration_page_exist() -> None:
    """Those of ours that stand in code, as far as they are names alone."""
    rooms = [
        macp_rx,
        macp_rx.agents,
        macp_rx.operators,
        macp_rx.protocol.policy,
        macp_rx.protocol.commitment,
        macp_rx.protocol.receipt,
        macp_rx.MacpClient,
        macp_rx.DecisionSession,
    ]
    known = {name for room in rooms for name in dir(room)}
    page = (DOCS / "migration.md").read_text()
    ours = [cells[2] for line in page.splitlines() if len(cells := line.split("|")) > 3 and "`" in cells[2]]
    named = {
        name for cell in ours for name in re.findall(r"`(?:(?:client|session|agents|mo)\.)?([a-zA-Z_]+)[(`]", cell)
    }
    assert len(named) > 20
    missing = named - known - {"default_timeout"}
    assert not missing, missing
