"""EM against its peers: scikit-learn's FactorAnalysis, BayesPy's variational factor analysis, pykalman's EM.

Factor analysis of 1 000 x 50 readings with 5 factors, complete and with a fifth of the cells missing, and a linear
dynamical system of 10 000 steps with four states, transition and noise tied over time.  Printed: CPU seconds (one
thread, so that a busy machine does not blur them; median of interleaved runs in one process), what was reached, and
ratios.  scikit-learn takes complete data only; BayesPy learns a posterior of the loadings where EM learns a point, so
its time is that of its own convergence.  Peers that cannot be imported are left out.

Usage: python benchmarks/em.py [--steps 10000] [--iterations 5] [--repeats 3]
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402
from sklearn.decomposition import FactorAnalysis  # noqa: E402

import gbn  # noqa: E402

Array = np.ndarray[Any, Any]
ROWS, SENSORS, FACTORS = 1000, 50, 5
STATES, READINGS = 4, 2


def timed(runs: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Median CPU seconds of each run, interleaved, and what each returned last."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    found = {}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            found[name] = run()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}, found


def factor_net() -> gbn.GaussianBayesNet:
    net = gbn.GaussianBayesNet()
    net.add_input("z", FACTORS, mean=0.0, cov=1.0)
    loadings = np.random.default_rng(1).normal(size=(SENSORS, FACTORS))
    net.add_linear("y", {"z": loadings}, bias=np.zeros(SENSORS), cov=np.ones(SENSORS))
    return net


def factor_readings() -> Array:
    rng = np.random.default_rng(0)
    loadings, spread = rng.normal(size=(SENSORS, FACTORS)), rng.uniform(0.5, 2, SENSORS)
    noise = rng.normal(size=(ROWS, SENSORS)) * np.sqrt(spread)
    return rng.normal(size=(ROWS, FACTORS)) @ loadings.T + noise + rng.normal(size=SENSORS)


def bayespy_run(y: Array) -> Callable[[], int] | None:
    """Variational factor analysis with BayesPy, as its manual builds it; returns the iterations made."""
    try:
        nodes, inference = importlib.import_module("bayespy.nodes"), importlib.import_module("bayespy.inference")
        transformations = importlib.import_module("bayespy.inference.vmp.transformations")
    except ImportError:
        print("BayesPy, or a module that it imports, is not installed: skipped")
        return None

    def run() -> int:
        x = nodes.GaussianARD(0, 1, shape=(FACTORS,), plates=(1, ROWS))
        alpha = nodes.Gamma(1e-5, 1e-5, plates=(FACTORS,))
        c = nodes.GaussianARD(0, alpha, shape=(FACTORS,), plates=(SENSORS, 1))
        mean = nodes.GaussianARD(0, 1e-3, plates=(SENSORS, 1))
        tau = nodes.Gamma(1e-5, 1e-5, plates=(SENSORS, 1))
        f = nodes.Add(nodes.SumMultiply("i,i", c, x), mean)
        observed = nodes.GaussianARD(f, tau)
        observed.observe(y.T, mask=~np.isnan(y.T))
        c.initialize_from_random()
        engine = inference.VB(observed, x, c, alpha, tau, mean)
        rotation = transformations.RotateGaussianARD(x), transformations.RotateGaussianARD(c, alpha)
        engine.callback = transformations.RotationOptimizer(*rotation, FACTORS).rotate
        engine.update(repeat=500, tol=1e-6, verbose=False)
        return int(engine.iter)

    return run


def factor_analysis(repeats: int) -> None:
    y = factor_readings()
    best = FactorAnalysis(FACTORS, tol=1e-10, max_iter=5000, svd_method="lapack").fit(y).score(y) * ROWS
    runs: dict[str, Callable[[], Any]] = {
        "gbn": lambda: factor_net().fit({"y": y}),
        "scikit-learn (default)": lambda: FactorAnalysis(FACTORS).fit(y),
        "scikit-learn (lapack)": lambda: FactorAnalysis(FACTORS, tol=1e-2, svd_method="lapack").fit(y),
    }
    peer = bayespy_run(y)
    if peer is not None:
        runs["BayesPy"] = peer
    seconds, found = timed(runs, repeats)
    print(f"factor analysis, {ROWS} x {SENSORS}, {FACTORS} factors, complete")
    for name, value in seconds.items():
        print(f"  {name:24s}{value:8.3f} s  {value / seconds['gbn']:6.2f} x gbn  ", end="")
        if name == "gbn":
            reached, rounds = found[name].history[-1]["log_evidence"], len(found[name].history) - 1
            print(f"{rounds} iterations, {(best - reached) / abs(best):.1e} below the optimum")
        elif name == "BayesPy":
            print(f"{found[name]} iterations")
        else:
            reached = found[name].score(y) * ROWS
            print(f"{found[name].n_iter_} iterations, {(best - reached) / abs(best):.1e} below the optimum")
    missing = y.copy()
    missing[np.random.default_rng(2).random(y.shape) < 0.2] = np.nan
    runs = {"gbn": lambda: factor_net().fit({"y": missing})}
    peer = bayespy_run(missing)
    if peer is not None:
        runs["BayesPy"] = peer
    seconds, found = timed(runs, repeats)
    print("the same with 20 % of cells missing")
    for name, value in seconds.items():
        rounds = len(found[name].history) - 1 if name == "gbn" else found[name]
        print(f"  {name:24s}{value:8.3f} s  {value / seconds['gbn']:6.2f} x gbn  {rounds} iterations")


def dynamical_system(steps: int, iterations: int, repeats: int) -> None:
    rng = np.random.default_rng(0)
    a = 0.9 * np.linalg.qr(rng.normal(size=(STATES, STATES)))[0]
    c = rng.normal(size=(READINGS, STATES))
    x, rows = np.zeros(STATES), []
    for _ in range(steps):
        x = a @ x + 0.4 * rng.normal(size=STATES)
        rows.append(c @ x + 0.6 * rng.normal(size=READINGS))
    y = np.array(rows)
    a, c = a + 0.1 * rng.normal(size=a.shape), c + 0.1 * rng.normal(size=c.shape)
    net = gbn.GaussianBayesNet()
    net.add_parameter("A", a)
    net.add_parameter("C", c)
    net.add_noise("Q", 0.5 * np.eye(STATES), (STATES,))
    net.add_noise("R", np.eye(READINGS), (READINGS,))
    net.add_input("x0", STATES, mean=0.0, cov=np.eye(STATES))
    for t in range(steps):
        if t:
            net.add_linear(f"x{t}", {f"x{t - 1}": "A"}, cov="Q")
        net.add_linear(f"y{t}", {f"x{t}": "C"}, cov="R")
    data = {f"y{t}": row[None] for t, row in enumerate(y)}

    def ours() -> Any:
        return net.fit(data, max_iter=iterations, tol=None)

    runs: dict[str, Callable[[], Any]] = {"gbn": ours}
    try:
        pykalman = importlib.import_module("pykalman")
    except ImportError:
        print("pykalman, or a module that it imports, is not installed: skipped")
    else:

        def theirs() -> Any:
            learned = "transition_matrices observation_matrices transition_covariance observation_covariance"
            return pykalman.KalmanFilter(
                transition_matrices=a,
                observation_matrices=c,
                transition_covariance=0.5 * np.eye(STATES),
                observation_covariance=np.eye(READINGS),
                initial_state_mean=np.zeros(STATES),
                initial_state_covariance=np.eye(STATES),
                em_vars=[*learned.split(), "initial_state_mean", "initial_state_covariance"],
            ).em(y, n_iter=iterations)

        runs["pykalman"] = theirs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gbn.ConvergenceWarning)
        seconds, found = timed(runs, repeats)
    print(f"linear dynamical system, {steps} steps, {STATES} states, {iterations} iterations of EM, planning included")
    for name, value in seconds.items():
        reached = found[name].history[-1]["log_evidence"] if name == "gbn" else float(found[name].loglikelihood(y))
        print(f"  {name:24s}{value:8.2f} s  {value / seconds['gbn']:6.2f} x gbn  log-likelihood {reached:.6f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    factor_net().fit({"y": factor_readings()[:100]}, tol=1e-2)  # imports are not counted
    factor_analysis(arguments.repeats)
    dynamical_system(arguments.steps, arguments.iterations, 1)


if __name__ == "__main__":
    main()
