"""A Kalman smoother of 10 000 steps: the engine "exact" against a block-tridiagonal solver made for the purpose.

x_t = A x_{t-1} + e, y_t = C x_t + e, four states and two sensors, a tenth of the readings missing.  The peer is numpy's
forward elimination and backward substitution on the same precision matrix, with means and marginal covariances; it
knows the net's shape beforehand.  Both must agree.  Printed: median seconds, interleaved in one process, and the ratio
(aim: at most 5).  Building the net and the first query, which plans the elimination, are reported apart.

Where pykalman can be imported, its ``KalmanFilter.smooth`` is a second peer.  It drops a whole row if one reading of it
is missing, so the two are set the same problem: the same net, in which a tenth of the rows are missing as a whole.
Usage: python benchmarks/smoother.py [--steps 10000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

import gbn  # noqa: E402

Array = np.ndarray[Any, Any]
ROTATION = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
A = 0.98 * np.kron(np.eye(2), ROTATION) + 0.02 * np.eye(4, k=1)
C = np.array([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, -0.5]])
Q, R = np.diag([0.1, 0.2, 0.1, 0.3]), np.array([[0.5, 0.1], [0.1, 0.4]])


def network(steps: int) -> gbn.GaussianBayesNet:
    net = gbn.GaussianBayesNet()
    net.add_parameter("A", A)
    net.add_parameter("C", C)
    net.add_noise("Q", Q, (4,))
    net.add_noise("R", R, (2,))
    net.add_input("x0", 4, mean=0.0, cov=1.0)
    for t in range(steps):
        if t:
            net.add_linear(f"x{t}", {f"x{t - 1}": "A"}, cov="Q")
        net.add_linear(f"y{t}", {f"x{t}": "C"}, cov="R")
    return net


def readings(steps: int) -> Array:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(steps, 2))
    y[rng.random(y.shape) < 0.1] = np.nan
    return y


def query(net: gbn.GaussianBayesNet, y: Array) -> gbn.Posterior:
    states = [f"x{t}" for t in range(len(y))]
    evidence = {f"y{t}": row[None] for t, row in enumerate(y) if not np.isnan(row).all()}
    return net.query(states, evidence)


def ours(net: gbn.GaussianBayesNet, y: Array) -> tuple[Array, Array]:
    post = query(net, y)
    states = post.targets
    return np.concatenate([post.mean[s] for s in states]), np.concatenate([post.cov(s) for s in states])


def tridiagonal(y: Array) -> tuple[Array, Array]:
    """Means (steps, 4) and marginal covariances (steps, 4, 4)."""
    steps, lam = len(y), np.linalg.inv(Q)
    diagonal, right = np.tile(lam + A.T @ lam @ A, (steps, 1, 1)), np.zeros((steps, 4))
    diagonal[0] += np.eye(4) - lam
    diagonal[-1] -= A.T @ lam @ A
    for t, row in enumerate(y):
        o = ~np.isnan(row)
        gain = C[o].T @ np.linalg.inv(R[np.ix_(o, o)])
        diagonal[t] += gain @ C[o]
        right[t] = gain @ row[o]
    upper = -A.T @ lam
    gains = np.empty((steps, 4, 4))
    inverses = np.empty((steps, 4, 4))
    for t in range(steps):
        if t:
            diagonal[t] -= upper.T @ gains[t - 1]
            right[t] -= gains[t - 1].T @ right[t - 1]
        inverses[t] = np.linalg.inv(diagonal[t])
        gains[t] = inverses[t] @ upper
    mean, cov = np.empty((steps, 4)), np.empty((steps, 4, 4))
    mean[-1], cov[-1] = inverses[-1] @ right[-1], inverses[-1]
    for t in reversed(range(steps - 1)):
        mean[t] = inverses[t] @ right[t] - gains[t] @ mean[t + 1]
        cov[t] = inverses[t] + gains[t] @ cov[t + 1] @ gains[t].T
    return mean, cov


def beside_pykalman(net: gbn.GaussianBayesNet, steps: int, repeats: int) -> None:
    try:
        pykalman = importlib.import_module("pykalman")
    except ImportError:
        print("pykalman, or a module that it imports, is not installed: skipped")
        return
    rng = np.random.default_rng(1)
    y = rng.normal(size=(steps, 2))
    y[rng.random(steps) < 0.1] = np.nan
    masked = np.ma.masked_invalid(y)
    model = pykalman.KalmanFilter(
        transition_matrices=A,
        observation_matrices=C,
        transition_covariance=Q,
        observation_covariance=R,
        initial_state_mean=np.zeros(4),
        initial_state_covariance=np.eye(4),
    )
    (mean, cov), other = ours(net, y), model.smooth(masked)
    times: dict[str, list[float]] = {"gbn": [], "pykalman": []}
    for _ in range(repeats):
        for name, run in {"gbn": lambda: ours(net, y), "pykalman": lambda: model.smooth(masked)}.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    print("rows missing as a whole: " + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()), end="; ")
    print(f"pykalman / gbn {seconds['pykalman'] / seconds['gbn']:.2f}; ", end="")
    print(f"largest difference: mean {np.abs(mean - other[0]).max():.1e}, cov {np.abs(cov - other[1]).max():.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    start = time.perf_counter()
    net = network(arguments.steps)
    print(f"building {len(net)} vertices: {time.perf_counter() - start:.2f} s")
    y = readings(arguments.steps)
    start = time.perf_counter()
    plan = query(net, y).diagnostics["plan_seconds"]
    print(f"first query: {time.perf_counter() - start:.2f} s, {plan:.2f} s of it for the plan of its elimination")
    mean, cov = ours(net, y)
    expected = tridiagonal(y)
    print(f"largest difference: mean {np.abs(mean - expected[0]).max():.1e}, cov {np.abs(cov - expected[1]).max():.1e}")
    times: dict[str, list[float]] = {"gbn": [], "tridiagonal": []}
    for _ in range(arguments.repeats):
        for name, run in {"gbn": lambda: ours(net, y), "tridiagonal": lambda: tridiagonal(y)}.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    print(", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()), end="; ")
    print(f"ratio {seconds['gbn'] / seconds['tridiagonal']:.1f} (aim: at most 5)")
    beside_pykalman(net, arguments.steps, arguments.repeats)


if __name__ == "__main__":
    main()
