"""Digits with few labels: variational Bayes and EM with priors against Adam with weight decay and early stopping.

One network for all, 64-64-10 with ReLU, on scikit-learn's 8x8 digits, of which 50, 100 or 500 are labelled; 797 others
measure accuracy and the mean log-likelihood of the right class.  Every method is tuned in the same way: its settings
are those of the best log-likelihood on a fifth of the labelled digits that it did not see, and it is then fitted to all
of them (Adam for as many epochs as were best there).  Bayes nets have squared errors of one-hot labels; their classes'
chances are those of the Gaussians N(class; prediction, variance).  "VB, averaged" takes the mean and spread of 30 drawn
networks for prediction and variance, "VB, mean" and EM one network's and the output noise.  A third kind of Bayes net
has 300 random ReLU features, drawn and not learned, whose regression is exact: its precision is chosen by the evidence,
and it needs no held-out labels.  Printed: means and standard deviations over the splits.

Usage: python benchmarks/few_labels.py [--splits 3] [--labels 50 100 500]
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import gbn  # noqa: E402

Array = np.ndarray[Any, Any]
# Log-chances of the classes of some rows.
Predict = Callable[[Array], Array]
CLASSES, HIDDEN, TESTED, FEATURES = 10, 64, 797, 300


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)).double()


def gaussian_classes(mean: Array, variance: Array) -> Array:
    """Log-chances of classes whose one-hot labels were drawn from N(mean, variance)."""
    gap = np.eye(CLASSES) - mean[:, None]
    return normalised(-0.5 * (gap * gap / variance[:, None]).sum(axis=2))


def normalised(logs: Array) -> Array:
    return np.asarray(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))


def figures(predict: Predict, x: Array, y: Array) -> tuple[float, float]:
    """Accuracy, and mean log-likelihood."""
    logs = predict(x)
    return float((logs.argmax(axis=1) == y).mean()), float(logs[np.arange(len(y)), y].mean())


def by_adam(x: Array, y: Array, decay: float, rate: float, epochs: int, held: Any = None) -> tuple[Predict, int]:
    """AdamW; with held-out rows the network of the best epoch, and which that was."""
    model, rng = network(), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=decay)
    inputs, labels = torch.as_tensor(x), torch.as_tensor(y)
    best: tuple[float, int, dict[str, Any]] = (-np.inf, epochs, {})

    def predict(rows: Array) -> Array:
        with torch.no_grad():
            return np.asarray(torch.log_softmax(model(torch.as_tensor(rows)), dim=1))

    for epoch in range(1, epochs + 1):
        for rows in torch.as_tensor(rng.permutation(len(x))).split(32):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
            optimizer.step()
        if held is not None:
            found = figures(predict, *held)[1]
            if found > best[0]:
                best = found, epoch, {name: value.clone() for name, value in model.state_dict().items()}
    if held is not None:
        model.load_state_dict(best[2])
    return predict, best[1]


def by_bayes(
    x: Array, y: Array, method: str, hidden: float, output: float, precision: float, averaged: bool
) -> Predict:
    net = gbn.convert(network(), torch.as_tensor(x[:2]), noise=hidden, output_noise=output)
    data = {net.inputs[0]: x, net.outputs[0]: np.eye(CLASSES)[y]}
    options: dict[str, Any] = {"batch_size": 50, "epochs": 30, "linearisations": 2, "fixed_noise": True}
    if method == "em":
        options["ridge"] = precision
    else:
        options |= {"conjugate": False, "weight_precision": precision}
    result = net.fit(data, method, progress=False, **options)
    nets = list(result.posterior.sample(30, seed=0)) if averaged else [result.net]

    def predict(rows: Array) -> Array:
        out = np.stack([n.forward({n.inputs[0]: rows})[n.outputs[0]] for n in nets])
        return gaussian_classes(out.mean(axis=0), out.var(axis=0) + output)

    return predict


def by_features(x: Array, y: Array) -> Predict:
    """An exact regression on random features, its prior precision that of the largest evidence."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(FEATURES, x.shape[1])) / 4
    net = gbn.GaussianBayesNet()
    net.add_input("x", x.shape[1])
    net.add_linear("a", {"x": weights}, bias=0.3 * rng.normal(size=FEATURES) - weights @ x.mean(axis=0))
    net.add("h", "Relu", ["a"])
    net.add_linear("y", {"h": np.zeros((CLASSES, FEATURES))}, bias=np.zeros(CLASSES), cov=1.0)
    data = {"x": x, "y": np.eye(CLASSES)[y]}
    fits = [
        net.fit(data, "vb", freeze=["a.x.weight", "a.bias"], weight_precision=k, progress=False).posterior
        for k in (1.0, 3.0, 10.0, 30.0)
    ]
    best = max(fits, key=lambda post: post.elbo)

    def predict(rows: Array) -> Array:
        found = best.predict({"x": rows}, "y")
        return gaussian_classes(found.mean["y"], found.var["y"])

    return predict


def tuned(x: Array, y: Array, grid: Sequence[Any], fit: Callable[..., Predict]) -> Predict:
    """Fitted to all rows with the settings that do best on a fifth of them."""
    few = len(x) // 5
    scores = [figures(fit(x[few:], y[few:], *settings), x[:few], y[:few])[1] for settings in grid]
    return fit(x, y, *grid[int(np.argmax(scores))])


def adam_tuned(x: Array, y: Array) -> Predict:
    few = len(x) // 5
    found = []
    for decay, rate in itertools.product((1e-3, 1e-2, 1e-1, 0.5), (3e-3, 1e-2)):
        predict, epochs = by_adam(x[few:], y[few:], decay, rate, 300, (x[:few], y[:few]))
        found.append((figures(predict, x[:few], y[:few])[1], decay, rate, epochs))
    _, decay, rate, epochs = max(found)
    return by_adam(x, y, decay, rate, epochs)[0]


GRID = list(itertools.product((0.03,), (0.03, 0.1), (10.0, 30.0)))
METHODS: dict[str, Callable[[Array, Array], Predict]] = {
    "Adam, decay, early stop": adam_tuned,
    "EM, ridge": lambda x, y: tuned(x, y, GRID, lambda a, b, *s: by_bayes(a, b, "em", *s, averaged=False)),
    "VB, mean": lambda x, y: tuned(x, y, GRID, lambda a, b, *s: by_bayes(a, b, "vb", *s, averaged=False)),
    "VB, averaged": lambda x, y: tuned(x, y, GRID, lambda a, b, *s: by_bayes(a, b, "vb", *s, averaged=True)),
    "VB, random features": by_features,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 100, 500])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", gbn.ConvergenceWarning)
    x, y = load_digits(return_X_y=True)
    print(f"{'labels':>6s}  {'method':26s}{'accuracy':>18s}{'log-likelihood':>20s}{'CPU s':>8s}")
    for labels in arguments.labels:
        for name, method in METHODS.items():
            found, start = [], time.process_time()
            for split in range(arguments.splits):
                order = np.random.default_rng(split).permutation(len(x))
                chosen, tested = order[:labels], order[-TESTED:]
                found.append(figures(method(x[chosen] / 16, y[chosen]), x[tested] / 16, y[tested]))
            (accuracy, logs), (spread, wide) = np.mean(found, axis=0), np.std(found, axis=0)
            seconds = (time.process_time() - start) / arguments.splits
            print(
                f"{labels:6d}  {name:26s}{accuracy:10.3f} ± {spread:.3f}{logs:12.3f} ± {wide:.3f}{seconds:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
