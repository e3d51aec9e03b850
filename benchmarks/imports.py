"""What `import macp_rx` costs beyond what it stands on."""

from __future__ import annotations

import compileall
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import macp_rx
from benchmarks import Row, against

__all__ = ["rows"]

BELOW = (
    "import grpc.aio, reactivex, reactivex.operators; from macp.v1 import core_pb2, envelope_pb2, policy_pb2; "
    "from macp.modes.decision.v1 import decision_pb2; from macp.modes.proposal.v1 import proposal_pb2; "
    "from macp.modes.task.v1 import task_pb2; from macp.modes.handoff.v1 import handoff_pb2; "
    "from macp.modes.quorum.v1 import quorum_pb2; from macp.modes.multi_round.v1 import multi_round_pb2"
)


def rows(rounds: int) -> Iterable[Row]:
    """Wall time of a fresh interpreter with the import, less that of one without, in turn. All from bytecode."""
    # an installer does this, an editable install does not
    compileall.compile_dir(Path(macp_rx.__file__).parent, quiet=1)
    empty: list[float] = []
    ours: list[float] = []
    below: list[float] = []
    for _ in range(rounds + 1):
        empty.append(_seconds("pass"))
        ours.append(_seconds("import macp_rx"))
        below.append(_seconds(BELOW))
    base = statistics.median(empty)
    ours, below = [value - base for value in ours[1:]], [value - base for value in below[1:]]
    yield against("import macp_rx", ours, below, "grpc.aio, stubs, reactivex", most=1.5, show=_each)


def _each(seconds: float) -> str:
    return f"{seconds:.3f} s"


def _seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began
