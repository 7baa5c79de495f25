"""Learning from rows on disk: time against rows and against workers, and the most memory that it takes.

Factor analysis of 20 columns by EM, ten iterations.  Complete rows cost one pass, after which sums say all; with a
tenth of the cells missing, nearly every row misses others, and each iteration visits every row.  The rows lie in one
.npy file, of which each block is a slice that is read when it is needed.  Every run is a process of its own; printed
are seconds, ratios to the first line of the table, and CPU seconds and the peak of resident memory of the driver
(workers of the LocalCluster hold their blocks).

Usage: python benchmarks/scale.py [--rows 5000000] [--scattered 200000]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

import gbn  # noqa: E402

Array = np.ndarray[Any, Any]
COLUMNS, FACTORS, ITERATIONS, BLOCK = 20, 3, 10, 50_000


def factor_net() -> gbn.GaussianBayesNet:
    net = gbn.GaussianBayesNet()
    net.add_input("z", FACTORS, mean=0.0, cov=1.0)
    loadings = np.random.default_rng(1).normal(size=(COLUMNS, FACTORS))
    net.add_linear("y", {"z": loadings}, bias=np.zeros(COLUMNS), cov=np.ones(COLUMNS))
    return net


def write_rows(path: Path, rows: int, missing: float) -> None:
    rng = np.random.default_rng(0)
    loadings, centre = rng.normal(size=(FACTORS, COLUMNS)), rng.normal(size=COLUMNS)
    file = np.lib.format.open_memmap(path, "w+", np.float64, (rows, COLUMNS))
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        y = centre + rng.normal(size=(count, FACTORS)) @ loadings + rng.normal(size=(count, COLUMNS))
        if missing:
            y[rng.random(y.shape) < missing] = np.nan
        file[start : start + count] = y
    file.flush()


def slice_of(path: str, start: int, stop: int) -> dict[str, Array]:
    """Some rows; read by position, so that nothing of the file stays mapped."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        file.seek(start * COLUMNS * 8, os.SEEK_CUR)
        return {"y": np.fromfile(file, np.float64, (stop - start) * COLUMNS).reshape(-1, COLUMNS)}


def peak() -> float:
    """Most resident memory of this process, in gigabytes."""
    try:
        # Unlike getrusage it does not count what the parent held when it started this process.
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def one_run(path: str, rows: int, workers: int) -> dict[str, float]:
    """What a process of its own measures."""
    size = min(BLOCK, -(-rows // 16))
    blocks = [partial(slice_of, path, start, min(start + size, rows)) for start in range(0, rows, size)]
    options: dict[str, Any] = {"max_iter": ITERATIONS, "tol": None, "callback": lambda n, _: n == ITERATIONS}
    cluster = client = None
    if workers:
        import distributed

        cluster = distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0")
        client = distributed.Client(cluster)
        client.wait_for_workers(workers)
    before, busy = time.perf_counter(), time.process_time()
    result = factor_net().fit(blocks, client=client, **options)
    seconds, busy = time.perf_counter() - before, time.process_time() - busy
    if client is not None and cluster is not None:
        client.close()
        cluster.close()
    return {
        "seconds": seconds,
        "busy": busy,
        "gigabytes": peak(),
        "log_evidence": result.history[-1]["log_evidence"] / rows,
    }


def measured(path: Path, rows: int, workers: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", str(path), str(rows), str(workers)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def table(title: str, runs: list[tuple[str, Path, int, int]]) -> None:
    print(f"\n{title}\n{'':24} {'seconds':>8} {'ratio':>6} {'CPU s':>8} {'peak GB':>8} {'nats a row':>14}")
    first = 0.0
    for label, path, rows, workers in runs:
        found = measured(path, rows, workers)
        first = first or found["seconds"]
        ratio = found["seconds"] / first
        figures = f"{found['seconds']:8.1f} {ratio:6.2f} {found['busy']:8.1f} {found['gigabytes']:8.2f}"
        figures += f" {found['log_evidence']:14.9f}"
        print(f"{label:24} {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000, help="complete rows")
    parser.add_argument("--scattered", type=int, default=200_000, help="rows with missing cells")
    parser.add_argument("--one", nargs=3, metavar=("FILE", "ROWS", "WORKERS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        path, rows, workers = arguments.one
        print(json.dumps(one_run(path, int(rows), int(workers))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, rows, missing in (("complete", arguments.rows, 0.0), ("missing cells", arguments.scattered, 0.1)):
            path = Path(folder) / f"{missing}.npy"
            write_rows(path, rows, missing)
            sizes = [rows // 4, rows // 2, rows]
            table(f"{name}, in one process", [(f"{size} x {COLUMNS}", path, size, 0) for size in sizes])
            spread = [(f"{workers} workers" if workers else "no cluster", path, rows, workers) for workers in (0, 1, 2)]
            table(f"{name}, {rows} rows", spread)
            path.unlink()


if __name__ == "__main__":
    main()
