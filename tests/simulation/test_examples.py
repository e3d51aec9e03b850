"""The worked examples, a hundred times each: one digest, whatever process it was and whatever its hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.scenarios import EXAMPLES

CODE = """
from macp_rx.simulation import sweep
from tests.simulation.scenarios import EXAMPLES, example
if __name__ == "__main__":
    for record in sweep(example, {{"name": EXAMPLES}}, seeds=[7] * 25, workers={workers}):
        print(record.settings["name"], record.digest)
"""


@pytest.mark.usefixtures("no_thread_left")
def test_a_hundred_times_the_same() -> None:
    digests = dict[str, list[str]]()
    for hash_seed, workers in (("0", 1), ("1", 2), ("77", 2), ("4242", 1)):
        played = subprocess.run(
            [sys.executable, "-c", CODE.format(workers=workers)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        for line in played.stdout.splitlines():
            name, digest = line.split()
            digests.setdefault(name, []).append(digest)
    assert {name: len(found) for name, found in digests.items()} == dict.fromkeys(EXAMPLES, 100)
    assert {name: len(set(found)) for name, found in digests.items()} == dict.fromkeys(EXAMPLES, 1)
    assert len({found[0] for found in digests.values()}) == len(EXAMPLES)
