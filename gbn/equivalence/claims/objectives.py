"""Many variational objectives: what each gets wrong about one net, and what each would have it learn.

Between the exact posterior and a point estimate lie factorised Gaussians (mean field, by blocks or by entries) and the
fixed points of belief propagation on a graph with loops.  All agree on the means of a linear-Gaussian net.  They differ
in the spread that they leave, and learning lives on the spread: expected second moments are what an M-step reads.

Source of the bias: Turner & Sahani, *Two problems with variational expectation maximisation for time-series models*
(2011).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims.finding import Finding
from gbn.errors import InferenceError
from gbn.learning import Data, Frozen, learner
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gbn.posterior import Posterior

__all__ = ["autoregression", "experiment", "looped"]

Array = np.ndarray[Any, Any]
CLAIM = "There are many variational objectives."
OBJECTIVES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "exact": ("exact", {}),
    "block mean-field": ("vmp", {"covariance": "block"}),
    "diagonal mean-field": ("vmp", {"covariance": "diagonal"}),
    "point estimate": ("pc", {"prediction": "live"}),
    "loopy belief propagation": ("bp", {}),
}
# The states of the process are scalars: by blocks and by entries are the same there.
LEARNERS = ("exact", "block mean-field", "point estimate")
_SETTLED = 1e-5


def looped(rng: np.random.Generator) -> tuple[GaussianBayesNet, dict[str, Array]]:
    """A net whose hidden blocks x, a, b form a loop, and what is observed of it."""
    net = GaussianBayesNet()
    correlated = np.array([[0.5, 0.2], [0.2, 0.5]])
    net.add_input("x", 2, mean=0.0, cov=2 * correlated)
    net.add_linear("a", {"x": _weight(rng)}, cov=correlated)
    net.add_linear("b", {"x": _weight(rng)}, cov=correlated)
    net.add_linear("y", {"a": _weight(rng), "b": _weight(rng)}, cov=0.5)
    return net, {"y": net.sample(20, rng)["y"]}


def _weight(rng: np.random.Generator) -> Array:
    """A turn, and weak enough for belief propagation to converge for certain.  Shape: (2, 2)."""
    return 0.5 * np.linalg.qr(rng.normal(size=(2, 2)))[0]


def autoregression(steps: int, a: float = 0.5, q: float = 1.0) -> GaussianBayesNet:
    """x_t = a x_{t-1} + N(0, q), seen as y_t = x_t + N(0, 1); x_0 ~ N(0, 1)."""
    net = GaussianBayesNet()
    net.add_parameter("a", [[a]])
    net.add_parameter("seen", [[1.0]])
    net.add_noise("q", q, (1,))
    net.add_input("x0", 1, mean=0.0, cov=1.0)
    for t in range(1, steps):
        net.add_linear(f"x{t}", {f"x{t - 1}": "a"}, cov="q")
    for t in range(steps):
        net.add_linear(f"y{t}", {f"x{t}": "seen"}, cov=1.0)
    return net


def experiment(
    *,
    steps: int = 20,
    sequences: int = 300,
    a: float = 0.9,
    q: float = 0.19,
    max_iter: int = 200,
    seed: int | np.random.Generator = 0,
) -> Finding:
    """One net with a loop, asked under five objectives; then an AR(1) process, learned under three of them.

    Args:
        steps, sequences: of the process.
        a, q: its transition and noise, q = 1 - a² being stationary beside x_0 ~ N(0, 1).
        max_iter: iterations of EM at most, for each objective.
    """
    rng = np.random.default_rng(seed)
    asked = _asked(*looped(rng))
    readings = autoregression(steps, a, q).sample(sequences, rng)
    data = {name: value for name, value in readings.items() if name.startswith("y")}
    paths = {name: _path(autoregression(steps), data, *OBJECTIVES[name], max_iter) for name in LEARNERS}
    table = [_row(name, asked[name], paths.get(name)) for name in OBJECTIVES]
    figures = {
        f"{name}: learned {what}": float(path[-1][k]) for name, path in paths.items() for k, what in enumerate("aq")
    }
    figures |= {f"{row['objective']}: narrowest std / exact": row["narrowest std"] for row in table[1:]}
    figures["belief propagation on the chain: variance error"] = _chain_gap(autoregression(steps, a, q), data)
    exact, field, point = (paths[name][-1] for name in LEARNERS)
    answer = (
        f"All agree on the means; they differ in the spread, and so in what they teach. Of a process with a = {a}, "
        f"q = {q}, exact EM learns {exact[0]:.3f} / {exact[1]:.3f}, mean-field EM {field[0]:.2f} / {field[1]:.2f}, and "
        f"the point estimate ends at {point[0]:.2f} / {point[1]:.1g}: certainty explains the noise away."
    )
    return Finding(CLAIM, answer, True, figures, table, {"truth": np.array([a, q]), **paths}, _draw)


def _asked(net: GaussianBayesNet, evidence: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    """objective -> what it gets wrong: means in exact standard deviations, spread, and nats of the evidence."""
    names = ["x", "a", "b"]
    posts = {
        objective: net.query(names, evidence, engine=engine, **options)
        for objective, (engine, options) in OBJECTIVES.items()
    }
    exact = posts["exact"]
    truth = -exact.log_evidence.mean()
    wrong: dict[str, dict[str, float]] = {}
    for objective, post in posts.items():
        off = max(np.abs((post.mean[n] - exact.mean[n]) / exact.std[n]).max() for n in names)
        ratios = np.concatenate([(_std(post, n) / exact.std[n]).reshape(-1) for n in names])
        wrong[objective] = {
            "mean error": float(off),
            "narrowest std": float(ratios.min()),
            "widest std": float(ratios.max()),
            "gap (nats)": float(_free_energy(post).mean() - truth),
        }
    return wrong


def _std(post: Posterior, name: str) -> Array:
    """A point estimate has none: 0."""
    return np.zeros_like(post.mean[name]) if post.engine == "pc" else post.std[name]


def _free_energy(post: Posterior) -> Array:
    """NaN where the engine has no objective to show: belief propagation with loops."""
    try:
        return post.free_energy
    except InferenceError:
        return np.full(1, np.nan)


def _path(
    net: GaussianBayesNet, data: Mapping[str, Array], engine: str, options: Mapping[str, Any], max_iter: int
) -> Array:
    """(a, q) before EM and after every iteration, till they stand.  Shape: (points, 2)."""
    em = learner("em")(
        net, Data.read(net, data), Frozen.read(net, ["x0", "seen", *data]), np.random.default_rng(0),
        engine=engine, engine_options=options, fixed_noise=False, max_iter=max_iter, tol=None,
    )  # fmt: skip
    em.begin()
    points = [_estimate(em.net)]
    for _ in range(max_iter):
        em.step()
        points.append(_estimate(em.net))
        if np.abs(points[-1] - points[-2]).max() < _SETTLED:
            break
    return np.array(points)


def _estimate(net: GaussianBayesNet) -> Array:
    return np.array([float(np.asarray(net["a"].value).item()), float(np.mean(net.noises["q"].value))])


def _chain_gap(net: GaussianBayesNet, data: Mapping[str, Array]) -> float:
    """How far belief propagation is from exact on a chain, in variances and covariances of neighbours: the M-step's."""
    states = [name for name in net if name.startswith("x")]
    one = {name: value[:1] for name, value in data.items()}
    exact, beliefs = (net.query(states, one, engine=engine) for engine in ("exact", "bp"))
    pairs = [*zip(states, states, strict=True), *zip(states[1:], states, strict=False)]
    return max(float(np.abs(exact.cov(*pair) - beliefs.cov(*pair)).max()) for pair in pairs)


def _row(name: str, wrong: Mapping[str, float], path: Array | None) -> dict[str, Any]:
    learned = (np.nan, np.nan) if path is None else path[-1]
    return {"objective": name, **wrong, "learned a": float(learned[0]), "learned q": float(learned[1])}


def _draw(finding: Finding, ax: Axes) -> None:
    for name in LEARNERS:
        path = finding.series[name]
        (line,) = ax.plot(*path.T, ".-", label=name)
        ax.plot(*path[-1], "o", color=line.get_color(), markersize=9)
    ax.plot(*finding.series["truth"], "k*", markersize=14, label="truth")
    ax.set(xlabel="a, the memory", ylabel="q, the noise", title="where EM goes, iteration by iteration")
    ax.legend()
