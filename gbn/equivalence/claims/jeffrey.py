"""Not everything is conditioning: soft evidence by likelihood against Jeffrey's rule.

"The reading is 2, give or take ½" can be meant in two ways.  As a likelihood it is evidence, to be weighed against what
was believed: Pearl's virtual evidence, ``net.query(soft=...)``.  As a new marginal it is the outcome, whatever was
believed: Jeffrey's rule, ``post.joint(...).revise(...)``.  The first is conditioning on a child; the second is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims.finding import Finding
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gbn.joint import Joint

__all__ = ["experiment", "two_witnesses"]

Array = np.ndarray[Any, Any]
CLAIM = "Not everything is conditioning."
NAMES = ["cause", "first", "second"]


def two_witnesses(noise: float = 0.5) -> GaussianBayesNet:
    """cause ~ N(0, 1), seen as first and second, each with noise of that variance."""
    net = GaussianBayesNet()
    net.add_input("cause", 1, mean=0.0, cov=1.0)
    net.add_linear("first", {"cause": [[1.0]]}, cov=noise)
    net.add_linear("second", {"cause": [[1.0]]}, cov=noise)
    return net


def experiment(*, mean: float = 2.0, std: float = 0.5, other: float = -1.0, noise: float = 0.5) -> Finding:
    """A report on ``first``, taken as a likelihood and as a marginal; twice; and with one on ``second``.

    Args:
        mean, std: of the report on ``first``.
        other: mean of the report on ``second``, which has the same std.
        noise: variance of ``first`` and ``second`` given the cause.
    """
    net = two_witnesses(noise)
    prior = net.query(NAMES).joint()
    one, two = (mean, std**2), (other, std**2)
    heard = {"likelihood": _likelihood(net, first=one), "Jeffrey's rule": prior.revise({"first": one})}
    again = {
        "likelihood": _twice(net, *one),
        "Jeffrey's rule": heard["Jeffrey's rule"].revise({"first": one}),
    }
    orders = {
        "likelihood": (_likelihood(net, first=one, second=two), _likelihood(net, second=two, first=one)),
        "Jeffrey's rule": (
            heard["Jeffrey's rule"].revise({"second": two}),
            prior.revise({"second": two}).revise({"first": one}),
        ),
    }
    table: list[dict[str, Any]] = [
        {
            "rule": rule,
            **{f"{name} {what}": value for name in NAMES[:2] for what, value in _told(heard[rule], name).items()},
            "first std, told twice": _told(again[rule], "first")["std"],
            "order matters by": float(np.abs(np.subtract(*(joint.mean for joint in orders[rule]))).max()),
        }
        for rule in heard
    ]
    soft, jeffrey = table
    figures = {f"{row['rule']}: {key}": float(row[key]) for row in table for key in list(row)[1:]}
    figures["the likelihood that Jeffrey's rule amounts to: gap"] = _as_likelihood(net, prior, one, heard)
    wide = prior.revise({"first": (mean, 4 * float(prior.marginal("first").cov[0, 0, 0]))})
    figures["cause std, before"] = _told(prior, "cause")["std"]
    figures["cause std, after a vague report (Jeffrey's rule)"] = _told(wide, "cause")["std"]
    order = jeffrey["order matters by"]
    answer = (
        f"Told that `first` is {mean:g} ± {std:g}, conditioning believes {soft['first mean']:.2f} ± "
        f"{soft['first std']:.2f}, Jeffrey's rule {jeffrey['first mean']:.2f} ± {jeffrey['first std']:.2f}. Told "
        f"again, the first narrows to ± {soft['first std, told twice']:.2f}, the second does not. With a second report "
        f"the order moves Jeffrey's beliefs by {order:.2f}, the likelihood's not at all; and only Jeffrey's rule can "
        "make us less sure than we were."
    )
    series = {"prior": prior, **heard, "report": np.array([mean, std])}
    return Finding(CLAIM, answer, True, figures, table, series, _draw)


def _likelihood(net: GaussianBayesNet, **reports: tuple[float, float]) -> Joint:
    return net.query(NAMES, soft={name: ([value], cov) for name, (value, cov) in reports.items()}).joint()


def _twice(net: GaussianBayesNet, mean: float, var: float) -> Joint:
    """The same report by a second sensor, independent of the one that gave the first."""
    net = net.copy()
    net.add_linear("again", {"first": [[1.0]]}, cov=var)
    return net.query(NAMES, {"again": [mean]}, soft={"first": ([mean], var)}).joint()


def _told(joint: Joint, name: str) -> dict[str, float]:
    one = joint.marginal(name)
    return {"mean": float(one.mean[0, 0]), "std": float(np.sqrt(one.cov[0, 0, 0]))}


def _as_likelihood(net: GaussianBayesNet, prior: Joint, report: tuple[float, float], heard: dict[str, Joint]) -> float:
    """How far Jeffrey's answer is from conditioning on the reading that has the prior taken out of it."""
    before = prior.marginal("first")
    mean, var = float(before.mean[0, 0]), float(before.cov[0, 0, 0])
    precision = 1 / report[1] - 1 / var
    reading = (report[0] / report[1] - mean / var) / precision
    posed = _likelihood(net, first=(reading, 1 / precision))
    jeffrey = heard["Jeffrey's rule"]
    return float(max(np.abs(posed.mean - jeffrey.mean).max(), np.abs(posed.cov - jeffrey.cov).max()))


def _draw(finding: Finding, ax: Axes) -> None:
    mean, std = finding.series["report"]
    x = np.linspace(min(-3.5, mean - 3 * std), max(3.5, mean + 3 * std), 300)
    for label in ("prior", "likelihood", "Jeffrey's rule"):
        told = _told(finding.series[label], "first")
        ax.plot(x, _density(x, told["mean"], told["std"]), label=label)
    ax.plot(x, _density(x, mean, std), "k:", label="the report", linewidth=3)
    ax.set(xlabel="first", ylabel="density", title=f"told that `first` is {mean:g} ± {std:g}")
    ax.legend()


def _density(x: Array, mean: float, std: float) -> Array:
    return np.asarray(np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi)))
