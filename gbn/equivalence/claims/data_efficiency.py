"""Brains are more data-efficient: the same small network on handwritten digits, by several ways of learning.

The claim is two.  One is about passes: how much is learned from seeing every row once.  The other is about labels: how
much can be learned from few of them, however often they are seen.  Methods that are far apart in the first may be equal
in the second.  A third source of thrift, what was learned before, is in :mod:`gbn.equivalence.claims.instinct`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims.finding import Finding
from gbn.equivalence.claims.instinct import TASKS, instinct, transfer
from gbn.equivalence.claims.learners import BACKPROP, LAST_LAYER, METHODS, Path, Rows, curves, last_layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["experiment"]

Array = np.ndarray[Any, Any]
CLAIM = "Brains are more data-efficient."


def experiment(
    rows: Sequence[int] = (50, 150, 400),
    widths: Sequence[int] = (16, 32, 48),
    *,
    seeds: int = 3,
    epochs: int = 10,
    held: int = 150,
    test: int = 500,
    lives: int = 40,
    transfers: int = 2,
    seed: int = 0,
) -> Finding:
    """Learning curves over labels at the middle width, over width at the middle number of labels, and over passes.

    Each method takes the settings that do best on ``held`` validation rows of the first seed, and in every run the
    epoch that does best there; these rows are counted for none.  The Bayesian regression on 200 random features
    (:func:`gbn.equivalence.claims.learners.last_layer`), shown beside the middle width, has no use for them.

    Args:
        rows, widths: in rising order.
        seeds: splits, each with weights and an order of the rows of its own.
        epochs: of EM; see :class:`Method` for the patience of others.
        test: rows that judge.
        lives: tasks from which a prior is learned (:func:`gbn.equivalence.claims.instinct.instinct`); 0: no such part.
        transfers: seeds of one task after another (:func:`gbn.equivalence.claims.instinct.transfer`);
            0: no such part.

    Raises:
        MissingDependencyError: scikit-learn is absent.
    """
    options: dict[str, Any] = {
        "seeds": seeds,
        "epochs": epochs,
        "held": held,
        "test": test,
        "seed": seed,
    }
    few, middle = rows[len(rows) // 2], widths[len(widths) // 2]
    cells = [(n, middle) for n in rows] + [(few, w) for w in widths if w != middle]
    found = {cell: curves(*cell, methods=METHODS, **options) for cell in cells}
    for n in rows:
        drawn = [(Rows.drawn(n, held, test, np.random.default_rng(mark)), mark) for mark in range(seed, seed + seeds)]
        found[n, middle][LAST_LAYER] = [last_layer(*one) for one in drawn]
    table = [_record(cell, name, paths) for cell, by_name in found.items() for name, paths in by_name.items()]
    by_epoch = {name: np.stack([one.test for one in found[rows[-1], middle][name]]) for name in METHODS}
    figures: dict[str, float] = {}
    for name, passes in by_epoch.items():
        figures |= {f"after epoch {n}, {name}": float(passes[:, n - 1].mean()) for n in _shown(passes.shape[1])}
    for record in table:
        key = f"{record['labels']} labels, width {record['width']}, {record['method']}"
        figures[key] = record["accuracy"]
    seconds = {name: np.mean([one.seconds for one in found[rows[-1], middle][name]]) for name in METHODS}
    price = {name: float(spent / seconds[BACKPROP]) for name, spent in seconds.items() if name != BACKPROP}
    figures |= {f"CPU time of an epoch / backprop's, {name}": ratio for name, ratio in price.items()}
    series: dict[str, Any] = {
        "by epoch": by_epoch,
        "seconds": seconds,
        "by labels": {name: _over([(n, middle) for n in rows], found, name) for name in (*METHODS, LAST_LAYER)},
        "by width": {name: _over([(few, w) for w in widths], found, name) for name in METHODS},
        "rows": list(rows),
        "widths": list(widths),
    }
    answer = _answer(figures, series, rows, middle, price)
    if lives:
        known = instinct(lives, seed=seed)
        series["instinct"] = known
        answer += f" {known.answer}"
        figures |= known.figures
    if transfers:
        moved = [transfer(task, seeds=transfers, seed=seed) for task in TASKS]
        series["transfer"] = {one.task: one for one in moved}
        answer += f" One task after another: {'; '.join(one.answer for one in moved)}."
        figures |= {name: value for one in moved for name, value in one.figures.items()}
    return Finding(CLAIM, answer, None, figures, table, series, _draw)


def _shown(epochs: int) -> list[int]:
    return [n for n in (1, 2, 5, 10, 15, 30, 60) if n <= epochs]


def _record(cell: tuple[int, int], name: str, paths: Sequence[Path]) -> dict[str, Any]:
    accuracy = [one.accuracy for one in paths]
    return {
        "labels": cell[0],
        "width": cell[1],
        "method": name,
        "accuracy": float(np.mean(accuracy)),
        "lowest": min(accuracy),
        "highest": max(accuracy),
        "epoch chosen": float(np.mean([one.best + 1 for one in paths])),
        "CPU s an epoch": float(np.mean([one.seconds for one in paths])),
    }


def _over(cells: Sequence[tuple[int, int]], found: Mapping[Any, Mapping[str, list[Path]]], name: str) -> Array:
    """Test accuracies.  Shape: (cells, seeds)."""
    return np.array([[one.accuracy for one in found[cell][name]] for cell in cells])


def _answer(
    figures: Mapping[str, float], series: Mapping[str, Any], rows: Sequence[int], width: int, price: Mapping[str, float]
) -> str:
    first = {name: figures[f"after epoch 1, {name}"] for name in METHODS}
    quick = max(first, key=first.__getitem__)
    reached = np.flatnonzero(series["by epoch"][BACKPROP].mean(axis=0) >= first[quick])
    caught = f"in epoch {reached[0] + 1}" if len(reached) else "in no epoch"
    ends = []
    for n in (rows[0], rows[-1]):
        scores = {name: figures[f"{n} labels, width {width}, {name}"] for name in (*METHODS, LAST_LAYER)}
        best = max(scores, key=scores.__getitem__)
        ends.append(f"at {n} labels {best} is best ({scores[best]:.3f}, backprop {scores[BACKPROP]:.3f})")
    return (
        f"Per pass: after one epoch of {rows[-1]} rows {quick} is right on {first[quick]:.0%} of the test digits, "
        f"backprop with Adam on {first[BACKPROP]:.0%}; Adam is as far {caught}, and an epoch of {quick} takes "
        f"{price.get(quick, 1.0):.0f} times its CPU time. "
        f"Per label, at the best epoch of the passes each is given: {'; '.join(ends)}."
    )


def _draw(finding: Finding, ax: Axes) -> None:
    """Test accuracy by epoch: means, and the range over seeds."""
    for name, passes in finding.series["by epoch"].items():
        epochs = np.arange(1, passes.shape[1] + 1)
        (line,) = ax.plot(epochs, passes.mean(axis=0), label=name)
        ax.fill_between(epochs, passes.min(axis=0), passes.max(axis=0), color=line.get_color(), alpha=0.2, linewidth=0)
    rows = finding.series["rows"][-1]
    ax.set(xscale="log", xlabel=f"passes over {rows} labels", ylabel="test accuracy", title="accuracy by epoch")
    ax.legend(loc="lower right")
