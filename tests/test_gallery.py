"""The gallery shows what is drawn today: its pictures are the snapshots of the drawings, byte by byte."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from macp.modes.decision.v1.decision_pb2 import VotePayload

from macp_rx import diagrams
from macp_rx import operators as mo
from macp_rx.timeline import Timeline
from tests.diagrams.stories import rollout

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_gallery_is_what_a_fresh_process_draws(tmp_path: Path, hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, ROOT / "scripts/gallery", tmp_path], check=True, env=environment)
    assert (tmp_path / "gallery.md").read_text() == (ROOT / "docs/gallery.md").read_text(), "run scripts/gallery"
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    committed = {path.name: path.read_bytes() for path in (ROOT / "docs/pictures").glob("*.svg")}
    assert fresh.keys() == committed.keys()
    for name, drawn in fresh.items():
        assert drawn == committed[name], f"{name}: run scripts/gallery"


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/gallery.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {"run": rollout(), "mo": mo, "VotePayload": VotePayload})
    assert (tmp_path / "run.svg").read_text() == diagrams.svg(rollout().timeline or Timeline()).text
