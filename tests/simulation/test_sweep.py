from __future__ import annotations

import gc
import os
import pickle
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import Client, LocalCluster

from macp_rx import Accepted, MacpSessionError, agents
from macp_rx.protocol.modes.decision import ProposalPayload
from macp_rx.simulation import Exponential, LogNormal, Simulation, Sweep, simulate, sweep
from tests.simulation.scenarios import PROPOSAL, START, broken, dies_once, fatal, process, two_at_a_time, vote

ROOT = Path(__file__).parents[2]
Decide = Callable[[Accepted[ProposalPayload]], str]
GRID = {"thinking": [0.0, 1.0, Exponential(2)], "latency": [0.0, 0.1]}


@pytest.fixture(scope="module")
def grid() -> Sweep:
    return sweep(vote, GRID, seeds=5, workers=1)


class TestPlan:
    def test_every_combination_with_every_seed_in_order(self, grid: Sweep) -> None:
        assert len(grid) == 3 * 2 * 5
        assert [record.seed for record in grid[:6]] == [0, 1, 2, 3, 4, 0]
        assert [dict(record.settings) for record in grid[::5]] == [
            {"thinking": thinking, "latency": latency} for thinking in GRID["thinking"] for latency in GRID["latency"]
        ]

    def test_a_chance_is_drawn_for_each_seed(self) -> None:
        drawn = sweep(vote, {"latency": LogNormal(0.1), "thinking": [0.0, 1.0]}, seeds=[3, 4, 5], workers=1)
        latencies = [record.settings["latency"] for record in drawn]
        assert latencies[:3] == latencies[3:]
        assert len(set(latencies)) == 3

    def test_without_settings(self) -> None:
        assert [record.seed for record in sweep(vote, seeds=3, workers=1)] == [0, 1, 2]

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"settings": {"thinking": []}}, "setting 'thinking' has no value to try"),
            ({"seeds": 0}, "at least 1 seed"),
            ({"seeds": []}, "at least 1 seed"),
            ({"workers": 0}, "at least 1 worker, not 0"),
        ],
    )
    def test_nothing_to_run_is_no_sweep(self, wrong: dict[str, Any], says: str) -> None:
        with pytest.raises(MacpSessionError, match=says):
            sweep(vote, **wrong)

    @pytest.mark.parametrize("values", ["majority", 3])
    def test_settings_are_lists(self, values: object) -> None:
        with pytest.raises(MacpSessionError, match="setting 'thinking' is a list of values"):
            sweep(vote, {"thinking": values})  # type: ignore[dict-item]


class TestRecords:
    def test_what_they_tell(self, grid: Sweep) -> None:
        record = grid[0]
        run = vote(0.0, 0.0, seed=0)
        assert (record.state, record.positive, record.seconds) == ("RESOLVED", True, run.seconds)
        assert (record.messages, record.refusals, record.errors) == (len(run.accepted), 0, ())
        assert record.digest == run.digest

    def test_a_measure_of_ones_own(self) -> None:
        (record,) = sweep(vote, seeds=1, workers=1, measure=process)
        assert dict(record.measures) == {"process": os.getpid(), "said": 1}

    def test_a_run_that_fails_says_which(self) -> None:
        with pytest.raises(
            MacpSessionError, match=r"the run with fails_at=3, seed=3 failed: ValueError\('no such rollout'\)"
        ):
            sweep(broken, {"fails_at": [3]}, seeds=10, workers=1)

    def test_together_by_setting(self, grid: Sweep) -> None:
        all_apart = grid.by()
        assert [summary.runs for summary in all_apart] == [5] * 6
        by_latency = grid.by("latency")
        assert [dict(summary.settings) for summary in by_latency] == [{"latency": 0.0}, {"latency": 0.1}]
        assert [summary.runs for summary in by_latency] == [15, 15]
        assert by_latency[0].median < by_latency[1].median
        assert all(summary.resolved == summary.positive == 1 for summary in by_latency)
        with pytest.raises(MacpSessionError, match="no setting 'policy'; there are thinking, latency"):
            grid.by("policy")

    def test_as_a_table(self, grid: Sweep) -> None:
        printed = str(grid)
        assert "thinking" in printed
        assert "Exponential(mean=2)" in printed
        assert "100%" in printed
        assert repr(grid) == "Sweep(30 runs)"

    def test_as_a_data_frame(self, grid: Sweep) -> None:
        frame = grid.to_pandas()
        assert list(frame.columns[:4]) == ["thinking", "latency", "seed", "state"]
        assert len(frame) == 30
        assert (frame.groupby("latency")["seconds"].median().diff().dropna() > 0).all()

    def test_it_is_a_value(self, grid: Sweep) -> None:
        assert pickle.loads(pickle.dumps(grid)) == grid
        assert grid[:3] == Sweep(grid[:3])
        assert grid[:3] != grid[:2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    """Two workers in processes of their own, spawned, as Dask starts them."""
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as workers,
        Client(workers) as client,
    ):
        yield client


class TestCluster:
    def test_the_same_as_here(self, cluster: Client, grid: Sweep) -> None:
        assert sweep(vote, GRID, seeds=5, on=cluster) == grid

    def test_its_workers_do_it(self, cluster: Client) -> None:
        found = sweep(vote, seeds=40, on=cluster, measure=process)
        assert {record.measures["process"] for record in found} == set(cluster.run(os.getpid).values())

    def test_any_function_goes_there(self, cluster: Client) -> None:
        assert [record.state for record in sweep(lambda seed: vote(seed=seed), seeds=3, on=cluster)] == ["RESOLVED"] * 3

    def test_a_run_that_fails_there_says_which_and_the_others_stop(self, cluster: Client) -> None:
        with pytest.raises(MacpSessionError, match="fails_at=3, seed=3 failed"):
            sweep(broken, {"fails_at": [3]}, seeds=500, on=cluster)
        assert len(sweep(vote, seeds=3, on=cluster)) == 3

    def test_a_worker_that_dies_has_its_runs_done_by_others(self, cluster: Client, tmp_path: Path) -> None:
        found = sweep(dies_once, {"mark": [tmp_path / "dead"]}, seeds=200, on=cluster)
        assert (tmp_path / "dead").exists()
        assert list(found) == [
            replace(record, settings=found[0].settings) for record in sweep(vote, seeds=200, workers=1)
        ]

    def test_threads_of_one_worker_leave_it_as_they_have_found_it(self) -> None:
        before = gc.get_threshold()
        with (
            LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as workers,
            Client(workers) as client,
        ):
            assert len(sweep(two_at_a_time, seeds=40, on=client)) == 40
        assert gc.get_threshold() == before

    def test_it_has_the_workers_it_has(self, cluster: Client) -> None:
        with pytest.raises(MacpSessionError, match="name workers= or on=, not both"):
            sweep(vote, seeds=3, on=cluster, workers=2)


class TestWorkers:
    def test_the_same_on_any_number_of_them(self, grid: Sweep) -> None:
        for workers in (2, 3):
            assert sweep(vote, GRID, seeds=5, workers=workers) == grid

    def test_they_are_other_processes_and_end_with_it(self) -> None:
        others = {record.measures["process"] for record in sweep(vote, seeds=40, workers=2, measure=process)}
        assert os.getpid() not in others
        assert not [child for child in psutil.Process().children(recursive=True) if child.pid in others]

    def test_a_run_that_fails_there_says_which_and_the_others_stop(self) -> None:
        with pytest.raises(MacpSessionError, match="fails_at=3, seed=3 failed"):
            sweep(broken, {"fails_at": [3]}, seeds=500, workers=2)

    def test_a_worker_that_dies_is_told(self) -> None:
        with pytest.raises(BrokenProcessPool):
            sweep(fatal, seeds=2, workers=2)

    def test_any_function_goes_to_them_also_as_a_setting(self) -> None:
        says = {"yes": lambda _proposal: "APPROVE", "no": lambda _proposal: "REJECT"}

        def local(decide: Decide, *, seed: int) -> Simulation:
            return simulate({"alice": agents.voter(decide)}, START, opening=[PROPOSAL], initiator="chair", seed=seed)

        def votes(run: Simulation) -> dict[str, object]:
            return {"vote": run.said_by("alice")[0].payload.vote}  # type: ignore[attr-defined]

        found = sweep(local, {"decide": list(says.values())}, seeds=20, measure=votes, workers=2)
        assert [record.measures["vote"] for record in found] == ["APPROVE"] * 20 + ["REJECT"] * 20
        assert [summary.settings["decide"] for summary in found.by()] == list(says.values())

    def test_what_cannot_be_sent_is_told(self) -> None:
        lock = threading.Lock()

        def local(*, seed: int) -> Simulation:
            with lock:
                return vote(seed=seed)

        with pytest.raises(MacpSessionError, match=r"local or its settings cannot be sent to a worker \(cannot pickle"):
            sweep(local, seeds=4, workers=2)

    def test_without_cloudpickle_only_what_can_be_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cloudpickle", None)
        assert len(sweep(vote, {"thinking": [1.0]}, seeds=4, workers=2)) == 4
        with pytest.raises(MacpSessionError, match="cannot be sent to a worker"):
            sweep(vote, {"thinking": [lambda: 1.0]}, seeds=4, workers=2)
        local: Any = lambda seed: vote(seed=seed)  # noqa: E731
        local.__module__ = "__main__"
        with pytest.raises(MacpSessionError, match="move it into a module, install cloudpickle, or say workers=1"):
            sweep(local, seeds=4, workers=2)

    def test_a_function_of_the_main_module_goes_by_value(self) -> None:
        code = (
            "from macp_rx.simulation import sweep\n"
            "from tests.simulation.scenarios import vote\n"
            "def mine(*, seed): return vote(seed=seed)\n"
            "print(len(sweep(mine, seeds=8, workers=2)))\n"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        assert run.stdout == "8\n"

    def test_a_bar_where_there_is_a_terminal_and_nowhere_else(self, capfd: pytest.CaptureFixture[str]) -> None:
        code = (
            "from macp_rx.simulation import sweep\n"
            "from tests.simulation.scenarios import vote\n"
            "sweep(vote, seeds=4, workers=1)\n"
            "sweep(vote, seeds=4, workers=1, progress=False)\n"
        )
        terminal, its_end = pty.openpty()
        try:
            subprocess.run(
                [sys.executable, "-c", code],
                stderr=its_end,
                env={**os.environ, "TERM": "xterm"},
                check=True,
                cwd=ROOT,
            )
            assert os.read(terminal, 65_536).decode().count("simulating") >= 1
        finally:
            os.close(terminal)
            os.close(its_end)
        sweep(vote, seeds=4, workers=1)
        assert capfd.readouterr() == ("", "")

    def test_ctrl_c_ends_it_cleanly(self) -> None:
        code = (
            "import signal\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may have inherited to ignore it\n"
            "from macp_rx.simulation import sweep\n"
            "from tests.simulation.scenarios import vote\n"
            "print('begun', flush=True)\n"
            "sweep(vote, seeds=1_000_000, workers=2)\n"
        )
        run = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        assert run.stdout is not None
        assert run.stdout.readline() == "begun\n"
        deadline = time.monotonic() + 30
        while len(psutil.Process(run.pid).children(recursive=True)) < 3 and time.monotonic() < deadline:
            os.sched_yield()  # until its workers are there
        os.killpg(run.pid, signal.SIGINT)  # what a terminal does
        _out, err = run.communicate(timeout=30)
        assert "KeyboardInterrupt" in err
        assert err.count("Traceback") == 1, err  # its own, and none of a worker's
        assert run.returncode != 0
