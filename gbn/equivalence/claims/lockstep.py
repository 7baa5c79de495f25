"""Everything moves at every tick: how a net that learns in lockstep keeps up with its environment.

A sample stands for a number of ticks and is replaced, input and label.  Activities climb an edge a tick, errors come
down an edge a tick; on a net of L edges an error meets the activity that caused it where a sample stands for 2 L ticks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims import CLAIMS, Finding
from gbn.equivalence.claims.networks import tanh_classifier
from gbn.equivalence.claims.precision import digits
from gbn.learning.stream import Stream, shuffled
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["accuracy", "experiment", "pace"]

Array = np.ndarray[Any, Any]


def accuracy(net: GaussianBayesNet, images: Array, labels: Array) -> float:
    """Of the forward pass."""
    return float((net.forward({"x": images})["y"].argmax(axis=1) == labels).mean())


def pace(
    net: GaussianBayesNet,
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    period: int,
    *,
    lag: int = 0,
    samples: int = 400,
    rows: int = 64,
    seed: int = 0,
    **options: Any,
) -> dict[str, float]:
    """What a classifier becomes in an environment of some speed.

    Args:
        net: with input "x", logits "y" and "label"; train, test: images and labels.
        period: ticks for which a sample stands; lag: ticks by which its label follows.
        samples: how many are shown, of that many ``rows`` each.
        options: of :class:`gbn.learning.stream.Stream`.

    Returns:
        ``learned``: held-out accuracy of a forward pass; ``in time``: of what the net says in the last tick for which a
        sample stands, held-out ones following one another without learning; ``alignment``: the mean cosine of what
        weights hear with the gradient.
    """
    data = {"x": train[0], "label": train[1]}
    # Every seventh tick meets all phases of a period.
    stream = Stream(net, period=period, lag=lag, align=7, **options)
    result = stream.run(islice(shuffled(data, rows, seed), samples), progress=False)
    still = Stream(result.net, period=period, optimizer="sgd", learning_rate=0.0)
    held = islice(shuffled({"x": test[0], "label": test[1]}, min(rows, len(test[0])), seed), 12)
    said = still.run(held, progress=False).history.column("accuracy")[1:]
    aligned = result.history.column("alignment")
    return {
        "learned": accuracy(result.net, *test),
        # The first ones answer to nothing yet.
        "in time": float(np.nanmean(said[len(said) // 2 :])),
        "alignment": float(np.nanmean(aligned)) if not np.isnan(aligned).all() else float("nan"),
    }


def experiment(
    periods: Sequence[int] = (1, 2, 4, 6, 8, 12, 16),
    *,
    sizes: Sequence[int] = (64, 32, 10),
    train: int = 1347,
    test: int = 450,
    samples: int = 300,
    rows: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> Finding:
    """Digits in lockstep at several paces, beside learning in batches of as many rows and steps.

    Each pace is tried with labels that come with their images, and with labels that come when the answer does.

    Args:
        periods: ticks for which a sample stands.
        sizes: of the layers of a tanh network.
        samples: how many are shown, of that many ``rows`` each.
        learning_rate: of Adam.

    Raises:
        MissingDependencyError: scikit-learn is absent.
    """
    rng = np.random.default_rng(seed)
    x, y, held, answers = digits(train, test, rng)
    net = tanh_classifier(sizes, rng)
    batch = net.fit(
        {"x": x, "label": y},
        "local",
        epochs=max(1, round(samples * rows / len(x))),
        batch_size=rows,
        learning_rate=learning_rate,
        progress=False,
    )
    whole = accuracy(batch.net, held, answers)
    when = Stream(net).delays({"x": x[:1], "label": y[:1]})
    table: list[dict[str, Any]] = [
        {"period": period, "label": label}
        | pace(net, (x, y), (held, answers), period, lag=lag, samples=samples, rows=rows, seed=seed,
               optimizer="adam", learning_rate=learning_rate)
        for period in periods
        for label, lag in (("with the image", 0), ("with the answer", when.activity["y"]))
    ]  # fmt: skip
    best = {p: max(row["learned"] for row in table if row["period"] == p) for p in periods}
    enough = [p for p in periods if all(best[q] >= whole - 0.02 for q in periods if q >= p)]
    figures: dict[str, float] = {"in batches": whole, "period that the net needs": when.period}
    figures |= {f"period {row['period']}, label {row['label']}": row["learned"] for row in table}
    figures["shortest period within 2 points, and all longer ones"] = enough[0] if enough else float("nan")
    fastest, slowest = min(periods), max(periods)
    last = [figures[f"period {slowest}, label with the {what}"] for what in ("answer", "image")]
    answer = (
        f"Errors come back to the first weights {when.period} ticks after a sample appears. Replaced every "
        f"{f'{fastest} ticks' if fastest > 1 else 'tick'}, samples teach {best[fastest]:.0%}, where batches teach "
        f"{whole:.0%}; "
        + (f"from {enough[0]} ticks on, within 2 points of that" if enough else "no pace tried comes within 2 points")
        + f". At {slowest} ticks, labels that come when the answer does teach {last[0]:.1%}, and labels that come with "
        f"their images {last[1]:.1%}, for then errors are in part made of two samples."
    )
    series = {name: np.array([row[name] for row in table]) for name in ("period", "learned", "in time", "alignment")}
    return Finding(CLAIMS["lockstep"].statement, answer, best[fastest] >= whole - 0.02, figures, table, series, _draw)


def _draw(finding: Finding, ax: Axes) -> None:
    for colour, label in enumerate(dict.fromkeys(row["label"] for row in finding.table)):
        rows = [row for row in finding.table if row["label"] == label]
        periods = [row["period"] for row in rows]
        for name, style in (("learned", "o-"), ("in time", "x:"), ("alignment", "--")):
            ax.plot(periods, [row[name] for row in rows], style, color=f"C{colour}", label=f"{name}, label {label}")
    ax.axhline(finding.figures["in batches"], color="gray", linewidth=1, label="in batches")
    ax.axvline(finding.figures["period that the net needs"], color="gray", linestyle=":", linewidth=1)
    ax.set(
        xlabel="ticks for which a sample stands", ylabel="held-out accuracy, cosine", xscale="log", ylim=(-0.05, 1.05)
    )
    ax.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
