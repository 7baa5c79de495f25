"""A small network on handwritten digits, by several ways of learning: what experiments on data efficiency share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from gbn.equivalence.claims.precision import digits
from gbn.learning import Data, Frozen, learner
from gbn.net import GaussianBayesNet

__all__ = [
    "BACKPROP",
    "LAST_LAYER",
    "METHODS",
    "VB",
    "Method",
    "Path",
    "Rows",
    "batch",
    "curves",
    "last_layer",
    "network",
    "path",
]

Array = np.ndarray[Any, Any]
BACKPROP, VB = "backprop (Adam)", "variational Bayes"
CLASSES, PIXELS = 10, 64
# Rounds of the states before the weights move, as predictive coding is commonly run.
_ROUNDS = 5


@dataclass(frozen=True)
class Method:
    """A way of learning, with what it is tuned over.

    name: of ``net.fit``'s method.
    hidden, output: variances of the network's vertices.
    grid: settings, of which the best on the validation rows of the first seed is taken; Adam's rates, for instance.
    like: the method whose settings are taken instead.
    patience: how many times the passes that EM is given; what costs less may look more often.
    """

    name: str
    hidden: float
    output: float
    options: Mapping[str, Any] = field(default_factory=dict)
    grid: Sequence[Mapping[str, Any]] = ({},)
    like: str | None = None
    patience: float = 1.0


_RATES = [{"learning_rate": rate} for rate in (3e-3, 1e-2, 3e-2)]
# The gradient of torch's mse_loss: 2 / (entries of an output) times that of the squared error.
_MSE = 2 / CLASSES
METHODS: dict[str, Method] = {
    BACKPROP: Method("local", 0.03, 1.0, {"scale": _MSE}, _RATES, patience=4.0),
    "local, live prediction": Method(
        "local",
        0.03,
        0.1,
        {"prediction": "live", "solver": "gradient", "max_rounds": _ROUNDS, "step_size": 0.003},
        like=BACKPROP,
        patience=3.0,
    ),
    "stepwise EM": Method("em", 0.03, 0.01),
    VB: Method("vb", 0.03, 0.01, {"weight_precision": 1.0}, patience=0.4),
}
LAST_LAYER = "VB, last layer"


@dataclass(frozen=True)
class Rows:
    """Images of digits and labels; ``held`` rows choose settings and epoch, ``test`` rows judge."""

    x: Array
    labels: Array
    held: Array
    held_labels: Array
    test: Array
    test_labels: Array

    @classmethod
    def drawn(cls, rows: int, held: int, test: int, rng: np.random.Generator) -> Rows:
        """Another split of scikit-learn's digits.

        Raises:
            MissingDependencyError: scikit-learn is absent.
        """
        x, labels, unseen, answers = digits(held + rows, test, rng)
        return cls(x[held:], labels[held:], x[:held], labels[:held], unseen, answers)


@dataclass(frozen=True)
class Path:
    """Accuracy on validation and test rows after every epoch, shape (epochs,); CPU seconds an epoch; the last net."""

    held: Array
    test: Array
    seconds: float
    net: GaussianBayesNet

    @property
    def best(self) -> int:
        """The epoch, from 0, that does best on the validation rows."""
        return int(np.argmax(self.held))

    @property
    def accuracy(self) -> float:
        """On the test rows, at the epoch that the validation rows choose."""
        return float(self.test[self.best])


def network(
    width: int, rng: np.random.Generator, *, hidden: float, output: float, classes: int = CLASSES, head: str = "y"
) -> GaussianBayesNet:
    """x → two layers of ReLU → head, initialised as torch's linear layers are: U(±1 / √inputs)."""
    net = GaussianBayesNet()
    before = net.add_input("x", PIXELS)
    for depth, (inner, outer) in enumerate(pairwise((PIXELS, width, width, classes)), 1):
        name, bound = head if depth == 3 else f"a{depth}", inner**-0.5
        weight, bias = (rng.uniform(-bound, bound, size=size) for size in ((outer, inner), outer))
        net.add_linear(name, {before: weight}, bias=bias, cov=output if depth == 3 else hidden)
        if depth < 3:
            before = net.add(f"h{depth}", "Relu", [name])
    return net


def path(
    net: GaussianBayesNet, method: Method, settings: Mapping[str, Any], rows: Rows, epochs: int, seed: int
) -> Path:
    """The net trained on one-hot labels, and how it did after every epoch."""
    (head,) = net.outputs
    data = {"x": rows.x, head: np.eye(net[head].shape[0])[rows.labels]}
    at_work = learner(method.name)(
        net, Data.read(net, data), Frozen.read(net, ()), np.random.default_rng(seed),
        epochs=epochs, batch_size=batch(len(rows.x)), **method.options, **settings,
    )  # fmt: skip
    held, test, seconds = [], [], 0.0
    for _ in range(epochs):
        start = time.process_time()
        at_work.step()
        seconds += time.process_time() - start
        held.append(_accuracy(at_work.net, head, rows.held, rows.held_labels))
        test.append(_accuracy(at_work.net, head, rows.test, rows.test_labels))
    return Path(np.array(held), np.array(test), seconds / epochs, at_work.net)


def batch(rows: int) -> int:
    """32 rows; a quarter of fewer than 128, but eight."""
    return min(32, max(8, rows // 4))


def _accuracy(net: GaussianBayesNet, head: str, x: Array, labels: Array) -> float:
    return float((net.forward({"x": x})[head].argmax(axis=1) == labels).mean())


def curves(
    rows: int, width: int, *, methods: Mapping[str, Method], seeds: int, epochs: int, held: int, test: int, seed: int
) -> dict[str, list[Path]]:
    """Every method on the same rows from the same weights: a path for each seed, with the settings the first chose."""
    found: dict[str, list[Path]] = {name: [] for name in methods}
    chosen: dict[str, Mapping[str, Any]] = {}
    for mark in range(seed, seed + seeds):
        drawn = Rows.drawn(rows, held, test, np.random.default_rng(mark))
        for name, method in methods.items():
            grid = method.grid if method.like is None else [chosen[method.like]]
            tried = [
                _run(method, settings, width, drawn, round(method.patience * epochs), mark)
                for settings in ([chosen[name]] if name in chosen else grid)
            ]
            best = int(np.argmax([one.held.max() for one in tried]))
            chosen.setdefault(name, grid[best])
            found[name].append(tried[best])
    return found


def _run(method: Method, settings: Mapping[str, Any], width: int, rows: Rows, epochs: int, seed: int) -> Path:
    net = network(width, np.random.default_rng(seed), hidden=method.hidden, output=method.output)
    return path(net, method, settings, rows, max(1, epochs), seed)


def last_layer(rows: Rows, seed: int, features: int = 200) -> Path:
    """A Bayesian regression on random ReLU features, which is exact: one round, and no look at the validation rows.

    Of three precisions of the prior the one with the largest evidence is taken.
    """
    rng = np.random.default_rng(seed)
    weight, shift = rng.normal(size=(features, PIXELS)) / 4, 0.3 * rng.normal(size=features)

    def heard(x: Array) -> Array:
        return np.asarray(np.maximum((x - rows.x.mean(axis=0)) @ weight.T + shift, 0))

    net = GaussianBayesNet()
    net.add_input("h", features)
    net.add_linear("y", {"h": np.zeros((CLASSES, features))}, bias=np.zeros(CLASSES), cov=1.0)
    data = {"h": heard(rows.x), "y": np.eye(CLASSES)[rows.labels]}
    start = time.process_time()
    fits = [net.fit(data, "vb", weight_precision=k, progress=False) for k in (1.0, 3.0, 10.0)]
    seconds = time.process_time() - start
    best = max(fits, key=lambda fit: fit.history[-1]["elbo"]).net
    held, test = (
        float((best.forward({"h": heard(x)})["y"].argmax(axis=1) == labels).mean())
        for x, labels in ((rows.held, rows.held_labels), (rows.test, rows.test_labels))
    )
    return Path(np.array([held]), np.array([test]), seconds, best)
