"""The notebooks run from top to bottom in a fresh kernel, and what they show is what is committed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

IN_REAL_TIME = {"3-live"}
"""Their pictures have times in them that are others each time."""


def shown(notebook: Path) -> list[tuple[str, list[Any]]]:
    """Each cell's source, and what stands below it. Of what is drawn elsewhere, such as a plot, only that it is there."""
    varies = {"image/png", *(["image/svg+xml"] if notebook.stem in IN_REAL_TIME else [])}
    book = nbformat.read(notebook, as_version=4)
    for cell in book.cells:
        for output in cell.get("outputs", []):
            for mime in varies & set(output.get("data", {})):
                output.data[mime] = "drawn"
    return [(cell.source, [dict(output) for output in cell.get("outputs", [])]) for cell in book.cells]


def test_there_are_five() -> None:
    assert [notebook.stem[0] for notebook in NOTEBOOKS] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_shows_what_a_fresh_run_shows(notebook: Path, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "scripts/notebooks", notebook, "--into", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,  # three to seven seconds each, measured
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert shown(tmp_path / notebook.name) == shown(notebook), "run scripts/notebooks"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_links_to_pages_that_exist_and_stands_in_the_readme(notebook: Path) -> None:
    book = nbformat.read(notebook, as_version=4)
    text = "".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    for other in NOTEBOOKS:
        text = text.replace(f"({other.name})", "")
    assert ".ipynb" not in text
    assert f"({notebook.name})" in (ROOT / "notebooks/README.md").read_text()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_nothing_of_the_machine_is_in_a_notebook_and_no_warning(notebook: Path) -> None:
    outputs = [output for _source, below in shown(notebook) for output in below]
    assert not [output for output in outputs if output.get("name") == "stderr" or output["output_type"] == "error"]
    for trace in (str(ROOT), str(Path.home()), "/tmp/", "site-packages"):
        assert trace not in repr(outputs)
