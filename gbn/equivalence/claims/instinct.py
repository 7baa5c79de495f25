"""What was learned before as what is believed now: one task's posterior as the next one's prior.

Two stories of :mod:`gbn.equivalence.claims.data_efficiency`.  In :func:`instinct` every life learns a curve of its own
from a few points of it; curves are of one family, and evolution (exact EM over whole lives) learns the prior with which
a life begins.  In :func:`transfer` a network that knows five digits learns the other five.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gbn.equivalence.claims.learners import BACKPROP, METHODS, VB, Method, Rows, batch, network, path
from gbn.equivalence.claims.precision import digits
from gbn.errors import UnknownNameError
from gbn.learning.numbers import with_values
from gbn.learning.result import FitResult
from gbn.net import GaussianBayesNet

__all__ = ["STARTS", "TASKS", "Known", "Moved", "believed", "in_halves", "instinct", "transfer"]

Array = np.ndarray[Any, Any]
_NOISE = 0.1
_POINTS = np.linspace(-1, 1, 41)
_CENTRES = np.linspace(-1.2, 1.2, 13)
_VARIANCES = np.geomspace(1e-3, 100, 11)
_RATE = 0.01
_IMAGES, _HELD, _TESTED = 1797, 100, 300
TASKS = ("names, then odd or even", "0 to 4, then 5 to 9")
STARTS = ("afresh, backprop", "fine-tuned, backprop", "afresh, VB", "posterior as prior, VB")
ONE = "one life's posterior"


@dataclass(frozen=True)
class Known:
    """errors: how a life begins -> root mean square error of the curve, by number of points seen; ``points``: these.

    priors: for each of these numbers, how a life begins -> mean and covariance of its weights.
    examples: curves of the family.
    """

    points: Sequence[int]
    errors: Mapping[str, Array]
    priors: Sequence[Mapping[str, tuple[Array, Array]]]
    examples: Array
    figures: Mapping[str, float]
    answer: str


def family(lives: int, rng: np.random.Generator) -> Array:
    """Waves of one length, whose height and place differ from life to life.  Shape: (lives, points)."""
    height, place = rng.uniform(0.5, 1.5, size=(lives, 1)), 0.7 * rng.standard_normal((lives, 1))
    return np.asarray(height * np.sin(4 * _POINTS + place))


def life(mean: Array, cov: Array) -> GaussianBayesNet:
    """w → curve: weights of bumps, with the prior that a life begins with, and the curve at all points, with noise."""
    net = GaussianBayesNet()
    net.add_input("w", len(_CENTRES), mean=mean, cov=cov)
    bumps = np.exp(-0.5 * ((_POINTS[:, None] - _CENTRES) / 0.25) ** 2)
    net.add_linear("curve", {"w": bumps}, cov=_NOISE**2)
    return net


def seen(curves: Array, points: int, rng: np.random.Generator) -> Array:
    """What each life sees: that many points of its curve, with noise, NaN elsewhere.  Shape: (lives, points)."""
    noisy = curves + _NOISE * rng.standard_normal(curves.shape)
    order = np.argsort(rng.uniform(size=curves.shape), axis=1)
    return np.where(np.argsort(order, axis=1) < points, noisy, np.nan)


def believed(prior: tuple[Array, Array], sight: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the curve itself in one life.  Shape of each, and of the sight: (points,)."""
    net = life(*prior)
    post = net.query(["w"], {"curve": sight[None]})
    bumps = np.asarray(net["curve.w.weight"].value)
    variance = np.diagonal(bumps @ post.cov("w")[0] @ bumps.T)
    return bumps @ post.mean["w"][0], np.sqrt(variance)


def error(prior: tuple[Array, Array], curves: Array, sights: Array) -> float:
    """Root mean square error of the whole curves, after each life saw its points."""
    net = life(*prior)
    weights = net.query(["w"], {"curve": sights}).mean["w"]
    bumps = np.asarray(net["curve.w.weight"].value)
    return float(np.sqrt(((weights @ bumps.T - curves) ** 2).mean()))


def evolved(sights: Array) -> tuple[Array, Array]:
    """The prior under which what all earlier lives saw is most probable: mean and full covariance, by exact EM."""
    size = len(_CENTRES)
    net = life(np.zeros(size), np.eye(size))
    fitted = net.fit({"curve": sights}, freeze=["curve"], px=False, max_iter=300, tol=3e-5, progress=False).net
    return np.asarray(fitted["w"].value), fitted.noises["w"].matrix()


def in_halves(rng: np.random.Generator) -> float:
    """The posterior of half the points as the prior of the rest, against all points at once: largest difference."""
    size = len(_CENTRES)
    whole = seen(family(1, rng), len(_POINTS), rng)
    first, second = whole.copy(), whole.copy()
    first[:, ::2], second[:, 1::2] = np.nan, np.nan
    prior = np.zeros(size), np.eye(size)
    middle = life(*prior).query(["w"], {"curve": first})
    last = life(middle.mean["w"][0], middle.cov("w")[0]).query(["w"], {"curve": second})
    once = life(*prior).query(["w"], {"curve": whole})
    gaps = last.mean["w"] - once.mean["w"], last.cov("w") - once.cov("w")
    return float(max(np.abs(gap).max() for gap in gaps))


def instinct(
    lives: int = 40, points: Sequence[int] = (1, 2, 3, 5, 8, 12, 20), *, tested: int = 100, seed: int = 0
) -> Known:
    """New lives that begin with the prior of earlier ones, beside others.

    - "afresh": mean 0, all weights equally uncertain;
    - "fine-tuned": the mean of earlier lives, all weights equally uncertain about it, as a point estimate leaves it;
    - "one life's posterior": what the last life ended with, as it stands;
    - "instinct": mean and covariance of earlier lives.

    The uncertainty of the first two is the best of eleven for each number of points, judged on further lives.
    """
    rng = np.random.default_rng(seed)
    earlier, others, curves = family(lives, rng), family(tested, rng), family(tested, rng)
    size = len(_CENTRES)
    mean, cov = evolved(seen(earlier, len(_POINTS) // 2, rng))
    broad = np.zeros(size), np.eye(size)
    last = life(*broad).query(["w"], {"curve": seen(earlier[-1:], len(_POINTS), rng)})
    priors = {ONE: (last.mean["w"][0], last.cov("w")[0]), "instinct": (mean, cov)}
    tuned = {"afresh": np.zeros(size), "fine-tuned": mean}
    errors: dict[str, list[float]] = {name: [] for name in (*tuned, *priors)}
    begun: list[dict[str, tuple[Array, Array]]] = []
    for count in points:
        tuning, sights = seen(others, count, rng), seen(curves, count, rng)
        for name, centre in tuned.items():
            grid = [(centre, v * np.eye(size)) for v in _VARIANCES]
            priors[name] = min(grid, key=lambda prior: error(prior, others, tuning))
        for name in errors:
            errors[name].append(error(priors[name], curves, sights))
        begun.append(dict(priors))
    found = {name: np.array(values) for name, values in errors.items()}
    figures = {
        f"{count} points seen, error, {name}": float(values[at])
        for at, count in enumerate(points)
        for name, values in found.items()
    }
    figures["posterior as prior, against all at once"] = in_halves(rng)
    at = int(np.argmin(np.abs(np.array(points) - 3)))
    goal = found["instinct"][at]
    need = {name: _needed(points, values, goal) for name, values in found.items()}
    answer = (
        f"Earlier tasks: with the mean and covariance of {lives} earlier lives as prior, {points[at]} points of a new "
        f"curve suffice for an error of {goal:.2f}; from their mean alone it takes {need['fine-tuned']}, afresh "
        f"{need['afresh']}, and from the posterior of a single other life, taken as it stands, {need[ONE]}."
    )
    return Known(points, found, begun, earlier, figures, answer)


def _needed(points: Sequence[int], errors: Array, goal: float) -> str:
    """The fewest points with an error of that or less."""
    reached = errors <= goal
    return str(points[int(np.argmax(reached))]) if reached.any() else f"more than {points[-1]}"


@dataclass(frozen=True)
class Moved:
    """accuracy: how the second task begins -> test accuracy by number of labels, shape (labels, seeds)."""

    task: str
    labels: Sequence[int]
    accuracy: Mapping[str, Array]
    figures: Mapping[str, float]
    answer: str


def transfer(
    task: str,
    labels: Sequence[int] = (10, 30),
    *,
    before: int = 400,
    width: int = 24,
    epochs: int = 6,
    seeds: int = 3,
    seed: int = 0,
) -> Moved:
    """One task on digits, then another from few labels, with a last layer of its own.

    Tasks: "names, then odd or even" (what is learned first decides the second), and "0 to 4, then 5 to 9" (what was
    learned first need not matter).  The second task begins

    - "afresh": with random weights, by backprop or by variational Bayes;
    - "fine-tuned": by backprop, from the hidden layers where it left them after the first task;
    - "posterior as prior": by variational Bayes, with what it believes of the hidden layers after the first task.

    Rates, and the epoch that counts, are those that do best on 100 validation rows.
    """
    adam, bayes = METHODS[BACKPROP], METHODS[VB]
    found: dict[str, list[list[float]]] = {name: [[] for _ in labels] for name in STARTS}
    for mark in range(seed, seed + seeds):
        first, second = _tasks(task, before, max(labels), np.random.default_rng(mark))
        point = path(_net(adam, width, first, "first", mark), adam, {"learning_rate": _RATE}, first, 3 * epochs, mark)
        belief = _believed(_net(bayes, width, first, "first", mark), bayes, first, epochs // 2)
        for at, count in enumerate(labels):
            rows = replace(second, x=second.x[:count], labels=second.labels[:count])
            fresh, doubtful = (_net(method, width, second, "second", mark) for method in (adam, bayes))
            begun: tuple[tuple[Method, GaussianBayesNet, Sequence[Mapping[str, Any]]], ...] = (
                (adam, fresh, adam.grid),
                (adam, _with_hidden(fresh, point.net), adam.grid),
                (bayes, doubtful, [{}]),
                (bayes, _with_hidden(doubtful, belief.net), [{"prior": belief.posterior}]),
            )
            for name, (method, net, grid) in zip(STARTS, begun, strict=True):
                passes = round(adam.patience * epochs) if method is adam else epochs
                runs = [path(net, method, settings, rows, passes, mark) for settings in grid]
                found[name][at].append(max(runs, key=lambda run: run.held.max()).accuracy)
    accuracy = {name: np.array(values) for name, values in found.items()}
    figures = {
        f"{task}, {count} labels, {name}": float(values[at].mean())
        for at, count in enumerate(labels)
        for name, values in accuracy.items()
    }
    told = ", ".join(f"{values[-1].mean():.2f} {name}" for name, values in accuracy.items())
    return Moved(task, labels, accuracy, figures, f"{task}, of which {labels[-1]} labels: {told}")


def _believed(net: GaussianBayesNet, method: Method, rows: Rows, epochs: int) -> FitResult:
    """All weights after a task, as beliefs."""
    data = {"x": rows.x, "first": np.eye(net["first"].shape[0])[rows.labels]}
    size = batch(len(rows.x))
    return net.fit(data, "vb", batch_size=size, epochs=epochs, seed=0, progress=False, **method.options)


def _with_hidden(net: GaussianBayesNet, known: GaussianBayesNet) -> GaussianBayesNet:
    """The net with the parameters that it shares with another."""
    shared = {name: np.asarray(known[name].value) for name in net.parameters if name in known.vertices}
    return with_values(net, shared)


def _net(method: Method, width: int, rows: Rows, head: str, seed: int) -> GaussianBayesNet:
    rng, classes = np.random.default_rng(seed), int(rows.held_labels.max()) + 1
    return network(width, rng, hidden=method.hidden, output=method.output, classes=classes, head=head)


def _tasks(task: str, first: int, second: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Images of the two tasks, none in both, and labels from 0.

    Raises:
        UnknownNameError: neither of :data:`TASKS`.
    """
    if task not in TASKS:
        raise UnknownNameError("task", task, TASKS)
    x, names, _, _ = digits(_IMAGES, 0, rng)
    if task == TASKS[0]:
        half = len(x) // 2
        parts, labels = (np.arange(half), np.arange(half, len(x))), (names, names % 2)
    else:
        parts, labels = (np.flatnonzero(names < 5), np.flatnonzero(names >= 5)), (names % 5, names % 5)
    return _rows(x, labels[0], parts[0], first), _rows(x, labels[1], parts[1], second)


def _rows(x: Array, labels: Array, index: Array, rows: int) -> Rows:
    """The first of these images to learn from, others to choose by, and the next to test with."""
    parts = np.split(index, [rows, rows + _HELD, rows + _HELD + _TESTED])[:3]
    return Rows(*(array for part in parts for array in (x[part], labels[part])))
