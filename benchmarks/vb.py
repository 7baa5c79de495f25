"""Variational PCA against BayesPy: the same model, priors and factorised posterior, each to its own convergence.

Readings of 1 000 x 50 from 5 factors; loadings with one relevance precision for each factor, isotropic noise, weak
Gamma priors.  Once with 5 factors in the model, once with 12, seven of which are superfluous, and once with a fifth of
the cells missing.  Printed: CPU seconds (one thread; median of interleaved runs in one process), iterations, the bound
reached in nats for each row, and the loadings that are left after pruning (columns of more than 1 % of the largest).
Without BayesPy its part is left out.

Usage: python benchmarks/vb.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

import gbn  # noqa: E402

Array = np.ndarray[Any, Any]
ROWS, SENSORS, FACTORS = 1000, 50, 5
# Shape and rate of every Gamma prior.
WEAK = 1e-5


@dataclass(frozen=True)
class Outcome:
    """bound: in nats; sizes: root mean square of each column of loadings, largest first."""

    bound: float
    iterations: int
    sizes: Array


def readings() -> Array:
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(SENSORS, FACTORS))
    return rng.normal(size=(ROWS, FACTORS)) @ loadings.T + rng.normal(size=(ROWS, SENSORS))


def column_sizes(loadings: Array) -> Array:
    return np.sort(np.sqrt((loadings**2).mean(axis=0)))[::-1]


def ours(y: Array, factors: int, start: Array) -> Outcome:
    net = gbn.GaussianBayesNet()
    net.add_input("z", factors, mean=0.0, cov=1.0)
    net.add_linear("y", {"z": start}, cov=1.0)
    result = net.fit(
        {"y": y}, "vb", conjugate=False, ard=True, ard_shape=WEAK, ard_rate=WEAK, noise_shape=WEAK, noise_rate=WEAK,
        tol=1e-9,
    )  # fmt: skip
    return Outcome(result.posterior.elbo, len(result.history) - 1, column_sizes(result.net["y.z.weight"].value))


def theirs(y: Array, factors: int, start: Array) -> Outcome:
    """BayesPy's PCA, as its manual builds it."""
    nodes, inference = importlib.import_module("bayespy.nodes"), importlib.import_module("bayespy.inference")
    transformations = importlib.import_module("bayespy.inference.vmp.transformations")
    x = nodes.GaussianARD(0, 1, shape=(factors,), plates=(1, len(y)))
    alpha = nodes.Gamma(WEAK, WEAK, plates=(factors,))
    c = nodes.GaussianARD(0, alpha, shape=(factors,), plates=(y.shape[1], 1))
    tau = nodes.Gamma(WEAK, WEAK)
    observed = nodes.GaussianARD(nodes.SumMultiply("i,i", c, x), tau)
    observed.observe(y.T, mask=~np.isnan(y.T))
    c.initialize_from_value(start[:, None, :])
    engine = inference.VB(observed, x, c, alpha, tau)
    rotation = transformations.RotateGaussianARD(x), transformations.RotateGaussianARD(c, alpha)
    engine.callback = transformations.RotationOptimizer(*rotation, factors).rotate
    engine.update(repeat=1000, tol=1e-9, verbose=False)
    loadings = c.get_moments()[0].reshape(y.shape[1], factors)
    return Outcome(float(engine.loglikelihood_lowerbound()), int(engine.iter), column_sizes(loadings))


def measured(y: Array, factors: int, repeats: int) -> None:
    start = np.random.default_rng(1).normal(size=(SENSORS, factors))
    runs: dict[str, Callable[[Array, int, Array], Outcome]] = {"gbn": ours}
    try:
        importlib.import_module("bayespy")
        runs["BayesPy"] = theirs
    except ImportError:
        print("BayesPy, or a module that it imports, is not installed: skipped")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    found: dict[str, Outcome] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            begun = time.process_time()
            found[name] = run(y, factors, start)
            seconds[name].append(time.process_time() - begun)
    gaps = f", {100 * np.isnan(y).mean():.0f} % of cells missing" if np.isnan(y).any() else ""
    print(f"variational PCA, {ROWS} x {SENSORS}, {factors} factors in the model, {FACTORS} in the data{gaps}")
    base = statistics.median(seconds["gbn"])
    for name, outcome in found.items():
        spent = statistics.median(seconds[name])
        kept = int((outcome.sizes > 0.01 * outcome.sizes[0]).sum())
        print(
            f"  {name:8s}{spent:8.2f} s {spent / base:7.2f} x gbn {outcome.iterations:5d} iterations   "
            f"{outcome.bound / len(y):.6f} nats a row   {kept} columns left, the next "
            f"{outcome.sizes[kept] / outcome.sizes[0] if kept < factors else 0:.1e} of the largest"
        )
    if "BayesPy" in found:
        gap = (found["gbn"].bound - found["BayesPy"].bound) / len(y)
        print(f"  gbn - BayesPy: {gap:+.2e} nats a row")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    y = readings()
    ours(y[:100], 2, np.eye(SENSORS, 2))  # imports are not counted
    for factors in (FACTORS, 12):
        measured(y, factors, arguments.repeats)
    y[np.random.default_rng(2).random(y.shape) < 0.2] = np.nan
    measured(y, FACTORS, arguments.repeats)


if __name__ == "__main__":
    main()
