"""Dreaming is contrastive: statistics with the data clamped, less those of the free-running net.

For a joint density exp(-½ vᵀKv) / Z the slope of the log-evidence in a coupling is a difference of two averages, one
awake and one asleep (Ackley, Hinton & Sejnowski, Cognitive Science 9, 1985)::

    ∂ log p(y) / ∂K = -½ (⟨v vᵀ⟩_clamped - ⟨v vᵀ⟩_free)

A Bayes net's own weights enter K and Z together: for x = W u + e the contrast is Λ (ΔC_xu - W ΔC_uu), Δ the clamped
less the free moments.  Free moments obey C_xu = W C_uu, so that the dream drops out, and what stays is Fisher's
identity: Λ (C_xu - W C_uu), clamped alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims.finding import Finding
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gbn.joint import Joint

__all__ = ["couplings", "experiment", "layered", "moments"]

Array = np.ndarray[Any, Any]
CLAIM = "Dreaming is contrastive."
NAMES = ("z", "h", "y")
EDGES = (("h", "z"), ("y", "h"))
SIZES = {"z": 2, "h": 3, "y": 4}
_STEP = 1e-5


def layered(rng: np.random.Generator) -> GaussianBayesNet:
    """z → h → y, linear, with random weights."""
    net = GaussianBayesNet()
    net.add_input("z", SIZES["z"], mean=0.0, cov=1.0)
    for child, parent in EDGES:
        net.add_linear(child, {parent: rng.normal(size=(SIZES[child], SIZES[parent]))}, cov=0.5)
    return net


def moments(joint: Joint) -> Array:
    """⟨v vᵀ⟩ over the rows of a joint posterior.  Shape: (n, n)."""
    return np.asarray(joint.mean.T @ joint.mean / len(joint) + joint.cov.mean(axis=0))


def couplings(clamped: Array, free: Array) -> Array:
    """The slope of the mean log-evidence in every entry of K.  Shape: (n, n)."""
    return -0.5 * (clamped - free)


def experiment(
    *,
    rows: int = 200,
    dreams: Sequence[int] = (10, 30, 100, 300, 1000, 3000, 10000),
    repeats: int = 10,
    steps: int = 40,
    learning_rate: float = 0.05,
    seed: int | np.random.Generator = 0,
) -> Finding:
    """The gradient of the log-evidence three ways, and how it fares when dreams are drawn rather than summed.

    Args:
        rows: of data, drawn from another net of the same shape.
        dreams: numbers of free samples.
        repeats: dreams of each number, over which errors are averaged.
        steps, learning_rate: of gradient ascent by the contrast, with the fewest dreams in every step.
    """
    rng = np.random.default_rng(seed)
    net, data = layered(rng), {"y": layered(rng).sample(rows, rng)["y"]}
    clamped, free = moments(net.query(NAMES, data).joint()), moments(net.query(NAMES).joint())
    contrast, fisher = _weights(net, clamped - free), _weights(net, clamped)
    slopes = _differences(net, data)
    exact = couplings(clamped, free)
    by_dreams = {n: [_dreamt(net, n, rng) for _ in range(repeats)] for n in dreams}
    drawn = {
        "couplings": [np.mean([_gap(couplings(clamped, f), exact) for f in by_dreams[n]]) for n in dreams],
        "weights": [
            np.mean([_gap(_stacked(_weights(net, clamped - f)), _stacked(fisher)) for f in by_dreams[n]])
            for n in dreams
        ],
    }
    slope = np.polyfit(np.log(dreams), np.log(drawn["couplings"]), 1)[0]
    climbs = _climb(net, data, steps, learning_rate, min(dreams), rng)
    figures = {
        "contrast against Fisher, weights": _gap(_stacked(contrast), _stacked(fisher)),
        "contrast against differences, weights": _gap(_stacked(contrast), _stacked(slopes)),
        "couplings without the dream: relative error": _gap(-0.5 * clamped, exact),
        "error against dreams: slope": float(slope),
        "log-evidence a row, first": float(climbs["awake"][0]),
        "log-evidence a row, last, awake": float(climbs["awake"][-1]),
        "log-evidence a row, last, dreaming": float(climbs["dreaming"][-1]),
    }
    table = [
        {"dreams": n, **{f"error, {name}": float(errors[k]) for name, errors in drawn.items()}}
        for k, n in enumerate(dreams)
    ]
    asleep = figures["couplings without the dream: relative error"]
    answer = (
        "Clamped less free statistics are the gradient of the log-evidence, but for "
        f"{figures['contrast against differences, weights']:.0e} of it. For undirected couplings the dream is needed; "
        f"without it the gradient is off by {asleep:.0%}. For the weights of a Bayes net it averages to nothing, and "
        f"Fisher's identity gives the same gradient awake, without the noise of dreams, which falls as n^{slope:.2f}."
    )
    series = {"dreams": np.array(dreams), **{k: np.array(v) for k, v in drawn.items()}, "climbs": climbs}
    return Finding(CLAIM, answer, True, figures, table, series, _draw)


def _part(a: str, b: str) -> tuple[slice, slice]:
    ends = np.cumsum([0, *(SIZES[name] for name in NAMES)])
    spans = {name: slice(int(i), int(j)) for name, i, j in zip(NAMES, ends[:-1], ends[1:], strict=True)}
    return spans[a], spans[b]


def _name(child: str, parent: str) -> str:
    return f"{child}.{parent}.weight"


def _weights(net: GaussianBayesNet, second: Array) -> dict[str, Array]:
    """weight -> Λ (C_xu - W C_uu), of moments or of a difference of moments."""
    found = {}
    for child, parent in EDGES:
        name, noise = _name(child, parent), net.noise(child)
        error = second[_part(child, parent)] - np.asarray(net[name].value) @ second[_part(parent, parent)]
        found[name] = error if noise is None else noise.solve(error.T).T
    return found


def _dreamt(net: GaussianBayesNet, n: int, rng: np.random.Generator) -> Array:
    """⟨v vᵀ⟩ over n ancestral samples."""
    drawn = net.sample(n, rng)
    values = np.concatenate([drawn[name] for name in NAMES], axis=1)
    return np.asarray(values.T @ values / n)


def _differences(net: GaussianBayesNet, data: Mapping[str, Array]) -> dict[str, Array]:
    """Central differences of the mean log-evidence in every weight."""
    found = {}
    for child, parent in EDGES:
        name = _name(child, parent)
        value = np.array(net[name].value)
        found[name] = np.empty_like(value)
        for index in np.ndindex(value.shape):
            sides = []
            for sign in (1, -1):
                moved, other = value.copy(), net.copy()
                moved[index] += sign * _STEP
                other.set_value(name, moved)
                sides.append(other.query([], data).log_evidence.mean())
            found[name][index] = (sides[0] - sides[1]) / (2 * _STEP)
    return found


def _climb(
    net: GaussianBayesNet, data: Mapping[str, Array], steps: int, rate: float, dreams: int, rng: np.random.Generator
) -> dict[str, Array]:
    """Log-evidence a row along gradient ascent, with Fisher's identity and with a contrast against drawn dreams."""
    paths: dict[str, Array] = {}
    for way in ("awake", "dreaming"):
        now, path = net.copy(), []
        for _ in range(steps + 1):
            post = now.query(NAMES, data)
            path.append(float(post.log_evidence.mean()))
            second = moments(post.joint())
            if way == "dreaming":
                second = second - _dreamt(now, dreams, rng)
            for name, slope in _weights(now, second).items():
                now.set_value(name, np.asarray(now[name].value) + rate * slope)
        paths[way] = np.array(path)
    return paths


def _stacked(parts: Mapping[str, Array]) -> Array:
    return np.concatenate([parts[_name(*edge)].reshape(-1) for edge in EDGES])


def _gap(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _draw(finding: Finding, ax: Axes) -> None:
    dreams = finding.series["dreams"]
    for name in ("couplings", "weights"):
        ax.plot(dreams, finding.series[name], "o-", label=f"gradient of {name}")
    ax.plot(dreams, finding.series["couplings"][0] * np.sqrt(dreams[0] / dreams), "k:", label="1 / √dreams")
    ax.axhline(max(finding.figures["contrast against Fisher, weights"], 1e-17), color="C2", label="awake: Fisher")
    ax.set(xscale="log", yscale="log", xlabel="dreams", ylabel="relative error", title="a gradient from dreams")
    ax.legend()
