"""Beyond one core: a sweep in one process, in two, and on a Dask cluster of two, with wall clocks, as that is what it is for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import dask
from distributed import Client, LocalCluster

from benchmarks import Row, against, timed
from benchmarks.simulation import vote
from macp_rx.simulation import Sweep, sweep

__all__ = ["rows"]

SWEPT = 4000


def rows(rounds: int) -> Iterable[Row]:
    """How much two workers do of what one does, and what the cluster's scheduler costs."""
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as workers,
        Client(workers) as client,
    ):
        ways: Mapping[str, Callable[[int], Sweep]] = {
            "one": lambda seeds: sweep(vote, seeds=seeds, workers=1, progress=False),
            "two": lambda seeds: sweep(vote, seeds=seeds, workers=2, progress=False),
            "cluster": lambda seeds: sweep(vote, seeds=seeds, on=client, progress=False),
        }
        found = [way(100) for way in ways.values()]
        if found[0] != found[1] or found[0] != found[2]:
            raise SystemExit("benchmarks: a sweep found something else elsewhere")
        seconds = timed({name: partial(way, SWEPT) for name, way in ways.items()}, rounds, time.perf_counter)
    what = f"sweep of {SWEPT} simulated sessions"
    one, two, cluster = seconds.values()
    yield against(f"{what}, two processes, their start included", two, one, "one", most=1 / 1.7, show=_shown)
    yield against(f"{what}, a Dask cluster of two", cluster, one, "one process", most=1 / 1.7, show=_shown)
    yield against(f"{what}, a Dask cluster of two", cluster, two, "two processes", most=1.1, show=_shown)


def _shown(seconds: float) -> str:
    return f"{seconds:.1f} s"
