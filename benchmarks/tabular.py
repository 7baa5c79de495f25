"""Held-out log-likelihood of tabular regressions: stepwise EM beside scikit-learn's MLPRegressor and BayesianRidge.

Diabetes (442 rows, 10 columns) and Friedman's first function with noise of variance 1 (500 rows, 10 columns, of which 5
matter); a quarter of the rows is held out; columns and target are standardised by the training rows, and figures are
nats a row of the standardised target, higher is better.  EM learns a net with one hidden ReLU layer of 32 and has its
defaults, batches of 32 and one pair of initial noises.  Its density is its own: that of the net linearised at the
forward pass, noise of hidden vertices included; a second line gives its mean the noise that MLPRegressor has: the mean
square of the residuals of the training rows.  MLPRegressor is shown at its best setting of the grid (hidden layers, L2
penalty, rate of Adam, epochs; batches of 32) by mean held-out likelihood, which favours it.

Usage: python benchmarks/tabular.py [--seeds 5]
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sklearn.datasets import load_diabetes, make_friedman1  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.linear_model import BayesianRidge  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402
from sklearn.neural_network import MLPRegressor  # noqa: E402
from torch import nn  # noqa: E402

import gbn  # noqa: E402

Array = np.ndarray[Any, Any]
# Training rows and targets, held-out rows, a seed -> by line, mean and variance of held-out targets, shapes (rows,).
Method = Callable[[Array, Array, Array, int], dict[str, tuple[Array, Array]]]
HIDDEN_NOISE, OUTPUT_NOISE = 0.03, 0.3
GRID = tuple(itertools.product(((32,), (64, 64)), (1e-4, 1.0, 10.0), (1e-3, 1e-2), (15, 100)))


def rows(name: str, seed: int) -> tuple[Array, Array, Array, Array]:
    """Training rows, held-out rows, and their targets, standardised by the training rows."""
    if name == "diabetes":
        x, y = load_diabetes(return_X_y=True)
    else:
        x, y = make_friedman1(n_samples=500, noise=1.0, random_state=seed)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.25, random_state=seed)
    centre, width = x.mean(axis=0), x.std(axis=0)
    return (x - centre) / width, (x_test - centre) / width, (y - y.mean()) / y.std(), (y_test - y.mean()) / y.std()


def residual_noise(mean: Array, y: Array, found: Array) -> tuple[Array, Array]:
    """What is predicted, with the mean square of the training residuals for its variance."""
    return found, np.full(found.shape, np.mean((y - mean) ** 2))


def by_em(x: Array, y: Array, x_test: Array, seed: int) -> dict[str, tuple[Array, Array]]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, 1)).double()
    net = gbn.convert(model, torch.as_tensor(x[:2]), noise=HIDDEN_NOISE, output_noise=OUTPUT_NOISE)
    (source,), (target,) = net.inputs, net.outputs
    net = net.fit({source: x, target: y[:, None]}, batch_size=32, seed=seed, progress=False).net
    posterior = net.query(target, {source: x_test})
    mean, found = (net.forward({source: part})[target][:, 0] for part in (x, x_test))
    return {
        "em, its own density": (posterior.mean[target][:, 0], posterior.var[target][:, 0]),
        "em, training residuals": residual_noise(mean, y, found),
    }


def by_mlp(hidden: tuple[int, ...], penalty: float, rate: float, epochs: int) -> Method:
    def run(x: Array, y: Array, x_test: Array, seed: int) -> dict[str, tuple[Array, Array]]:
        model = MLPRegressor(
            hidden_layer_sizes=hidden,
            alpha=penalty,
            learning_rate_init=rate,
            max_iter=epochs,
            batch_size=32,
            random_state=seed,
        ).fit(x, y)
        return {"mlp": residual_noise(model.predict(x), y, model.predict(x_test))}

    return run


def by_ridge(x: Array, y: Array, x_test: Array, seed: int) -> dict[str, tuple[Array, Array]]:
    mean, std = BayesianRidge().fit(x, y).predict(x_test, return_std=True)
    return {"bayesian ridge": (mean, std**2)}


def measure(name: str, method: Method, seeds: int) -> dict[str, Array]:
    """Line -> log-likelihood a row, root mean square error and seconds of each seed, shape (seeds, 3)."""
    found: dict[str, list[list[float]]] = {}
    for seed in range(seeds):
        x, x_test, y, y_test = rows(name, seed)
        start = time.process_time()
        predictions = method(x, y, x_test, seed)
        seconds = time.process_time() - start
        for line, (mean, variance) in predictions.items():
            square = (y_test - mean) ** 2
            density = -0.5 * np.mean(np.log(2 * np.pi * variance) + square / variance)
            found.setdefault(line, []).append([float(density), float(np.sqrt(square.mean())), seconds])
    return {line: np.array(figures) for line, figures in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Held-out log-likelihood of tabular regressions.")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(f"means of {args.seeds} seeds, and the standard deviation over seeds; MLPRegressor: best of {len(GRID)}\n")
    print(f"{'data':10s} {'method':24s} {'nats a row':>10s} {'sd':>6s} {'rmse':>6s} {'CPU s':>6s}")
    for name in ("diabetes", "friedman1"):
        lines = {**measure(name, by_em, args.seeds), **measure(name, by_ridge, args.seeds)}
        tried = {setting: measure(name, by_mlp(*setting), args.seeds)["mlp"] for setting in GRID}
        best = max(tried, key=lambda setting: float(tried[setting][:, 0].mean()))
        lines["mlp, best of grid"] = tried[best]
        for line, figures in lines.items():
            density, error, seconds = figures.mean(axis=0)
            print(f"{name:10s} {line:24s} {density:10.3f} {figures[:, 0].std():6.3f} {error:6.3f} {seconds:6.2f}")
        print(f"{'':10s} best: hidden {best[0]}, penalty {best[1]:g}, rate {best[2]:g}, {best[3]} epochs", flush=True)


if __name__ == "__main__":
    main()
