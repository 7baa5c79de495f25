"""Predictions held fixed against predictions that live: two graphs, and two answers.

Held fixed, a vertex hears its children alone: messages run down a directed acyclic graph and end at backprop.  Live, it
also hears what its parents and its children's other parents do now: a graph without directions.  There the equilibrium
of a linear net, of output noise Q and hidden noise σ² Q_h, is backprop of a whitened output error,

    λ_i = J̃_{out←i}ᵀ S⁻¹ (T - f),       S = Q + σ² Σ_h J̃_{out←h} Q_h J̃_{out←h}ᵀ

J̃ being total Jacobians.  While Q outweighs the rest this is backprop, off by a share in proportion to σ².  In a
nonlinear net the same holds of the net linearised where it has come to rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims import CLAIMS, Finding
from gbn.equivalence.claims.networks import tanh_mlp
from gbn.equivalence.compare import cosine, relative_error
from gbn.evidence import Evidence
from gbn.inference import gradient, query
from gbn.inference.fixed_prediction import SCHEDULES, Channel, Rounds
from gbn.inference.live_prediction import States
from gbn.inference.point_estimate import always
from gbn.linearize import Linearization
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["dependencies", "diamond", "draw_graphs", "experiment", "whitened_gradient"]

Array = np.ndarray[Any, Any]
Edges = frozenset[tuple[str, str]]
# Share of the output noise in S, from and up to which a regime has its name.
_BACKPROP_LIKE, _EQUILIBRIUM = 0.9, 0.1


def diamond(rng: np.random.Generator) -> GaussianBayesNet:
    """x -> a -> (b, c) -> d -> y, tanh between: the smallest net whose hidden vertices share a child."""
    net = GaussianBayesNet()
    net.add_input("x", 2)
    for name, parents in {"a": ["x"], "b": ["a"], "c": ["a"], "d": ["b", "c"], "y": ["d"]}.items():
        heard = [p if p == "x" else f"tanh.{p}" for p in parents]
        net.add_linear(name, {p: rng.normal(size=(2, 2)) for p in heard}, cov=1.0)
        if name != "y":
            net.add(f"tanh.{name}", "Tanh", [name])
    return net


def dependencies(net: GaussianBayesNet, evidence: Mapping[str, Any]) -> dict[str, Edges]:
    """Which latent's next move depends on which other latent's state, found by nudging one after the other.

    Returns:
        "fixed", "live" -> pairs (nudged, moved otherwise), of different latents.
    """
    read = Evidence.read(net, evidence)
    rng = np.random.default_rng(0)
    problem = States(read)
    start = problem.start()

    def nudge(name: str) -> Array:
        parts = {n: np.zeros((len(start), *net[n].shape)) for n in problem.names}
        return problem.join({**parts, name: rng.normal(size=parts[name].shape)}, start)

    def fixed(state: Array) -> Array:
        rounds = Rounds(Linearization.forward(read), SCHEDULES["parallel"], 1.0, Channel(), rng)
        rounds.state.update(problem.split(state))
        rounds.step(1)
        return problem.join({n: rounds.state[n] for n in problem.names}, state)

    def live(state: Array) -> Array:
        return state - problem.energy(state)[1]

    found = {}
    for label, move in {"fixed": fixed, "live": live}.items():
        still = problem.split(move(start))
        edges = set()
        for nudged in problem.names:
            moved = problem.split(move(start + nudge(nudged)))
            edges |= {(nudged, n) for n in problem.names if n != nudged and not np.allclose(moved[n], still[n], 1e-9)}
        found[label] = frozenset(edges)
    return found


def whitened_gradient(evidence: Evidence) -> tuple[dict[str, Array], float]:
    """Backprop of the whitened output error at the forward pass, and the share of the output noise in S.

    Args:
        evidence: one observed vertex below, the inputs set or observed above.

    Returns:
        parameter -> array of its shape; mean of tr(Q S⁻¹) / dim over the samples, 1 for backprop.
    """
    net, point = evidence.net, Linearization.forward(evidence)
    (output,) = [n for n in evidence.values if not net[n].needs_data]
    noise, size, samples = net.noise(output), net[output].size, evidence.samples
    hidden = [n for n in net.latents if n not in evidence.values]
    units = np.broadcast_to(np.eye(size)[:, None], (size, samples, size)).reshape(size, samples, *net[output].shape)
    pulled = point.pull({output: always(units)}, hidden)
    own = noise.apply(np.eye(size).reshape(size, *net[output].shape)).reshape(size, size)  # type: ignore[union-attr]
    total = np.broadcast_to(own, (samples, size, size)).copy()
    for name in hidden:
        rows = pulled[name].reshape(size, samples, -1)
        spread = net.noise(name).apply(pulled[name]).reshape(rows.shape)  # type: ignore[union-attr]
        total += np.einsum("knd,lnd->nkl", rows, spread)
    error = np.linalg.solve(total, point.errors[output].reshape(samples, size, 1)).reshape(samples, *net[output].shape)
    messages = point.pull({output: always(error)}, net.parameters)
    share = float(np.mean(np.trace(np.linalg.solve(total, np.broadcast_to(own, total.shape)), axis1=1, axis2=2)) / size)
    return {n: -messages[n] for n in net.parameters}, share


def experiment(
    noises: Sequence[float] = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0),
    *,
    output_noises: Sequence[float] = (0.1, 1.0, 10.0),
    sizes: Sequence[int] = (6, 8, 8, 3),
    samples: int = 8,
    seed: int = 0,
) -> Finding:
    """Both graphs, and the gradient at the equilibrium of live prediction as hidden noise and output precision vary.

    Args:
        noises: hidden variances σ².
        output_noises: output variances Q.
        sizes: of a tanh network.
    """
    rng = np.random.default_rng(seed)
    graph = diamond(rng)
    edges = dependencies(graph, {"x": rng.normal(size=(1, 2)), "y": rng.normal(size=(1, 2))})
    net = tanh_mlp(sizes, rng)
    given = {"x": rng.normal(size=(samples, sizes[0])), "y": rng.normal(size=(samples, sizes[-1]))}
    table = [_row(net, given, noise, output) for output in output_noises for noise in noises]
    unit = [row for row in table if row["output noise"] == output_noises[len(output_noises) // 2]]
    small = [row for row in unit if 0 < row["gap to backprop"] < 1e-2]
    slope = _slope([r["hidden noise"] for r in small], [r["gap to backprop"] for r in small])
    linear = _linear(sizes, given, rng)
    two_way = sum((b, a) in edges["live"] for a, b in edges["live"])
    figures = {
        "dependencies, fixed": float(len(edges["fixed"])),
        "dependencies, live": float(len(edges["live"])),
        "of these, in both directions": float(two_way),
        "slope of the gap in the hidden noise": slope,
        "gap to the whitened error, linear net": linear,
        "gap of fixed prediction, any noise": max(row["gap of fixed prediction"] for row in table),
        "gap to exact inference at the equilibrium": max(row["gap to exact inference there"] for row in table),
        **{f"cosine to backprop, noise {row['hidden noise']:g}": row["cosine"] for row in unit},
    }
    first, last = unit[0], unit[-1]
    answer = (
        f"It does: held fixed, {len(edges['fixed'])} dependencies all lead from child to parent; live there are "
        f"{len(edges['live'])}, each in both directions. Held fixed, the gradient is backprop's at any noise. Live it "
        f"is backprop's of a whitened error (to {linear:.0e} on a linear net): {first['gap to backprop']:.0e} away "
        f"at hidden noise {first['hidden noise']:g} ({first['regime']}), in proportion to it (slope {slope:.2f}), and "
        f"{last['gap to backprop']:.0%} at {last['hidden noise']:g} ({last['regime']})."
    )
    topology = edges["fixed"] < edges["live"] and two_way == len(edges["live"])
    series = {
        "edges": edges,
        **{f"output noise {q:g}": [r for r in table if r["output noise"] == q] for q in output_noises},
    }
    return Finding(CLAIMS["fixed_prediction"].statement, answer, topology, figures, table, series, _draw)


def _row(net: GaussianBayesNet, given: Mapping[str, Array], noise: float, output: float) -> dict[str, Any]:
    net = _with_noise(net, noise, output)
    backprop = _flat(gradient(net, given))
    swept = query(net, [], given, engine="pc", schedule="parallel", step_size=1.0)
    live = query(net, [], given, engine="pc", prediction="live", tol=1e-9)
    relaxed = query(net, [], given, operating_point="equilibrium")
    whitened, share = whitened_gradient(Evidence.read(net, given))
    found = _flat({n: -live.messages[n] for n in net.parameters})
    regime = "backprop-like" if share >= _BACKPROP_LIKE else "equilibrium" if share <= _EQUILIBRIUM else "relaxed"
    return {
        "output noise": output,
        "hidden noise": noise,
        "regime": regime,
        "share of the output noise": share,
        "gap to backprop": relative_error(found, backprop),
        "cosine": cosine(found, backprop),
        "gap to the error whitened at the forward pass": relative_error(found, _flat(whitened)),
        "gap to exact inference there": relative_error(found, _flat({n: -relaxed.messages[n] for n in net.parameters})),
        "gap of fixed prediction": relative_error(_flat({n: -swept.messages[n] for n in net.parameters}), backprop),
        "evaluations": live.diagnostics["evaluations_median"],
    }


def _with_noise(net: GaussianBayesNet, noise: float, output: float) -> GaussianBayesNet:
    net = net.copy()
    net.set_noise({n: output if n == "y" else noise for n in net.latents})
    return net


def _linear(sizes: Sequence[int], given: Mapping[str, Array], rng: np.random.Generator) -> float:
    """Gap of the live equilibrium to the whitened error's gradient at the hidden vertices, where nothing is curved."""
    net = GaussianBayesNet()
    before = net.add_input("x", sizes[0])
    for depth, (inner, outer) in enumerate(pairwise(sizes), 1):
        name = "y" if depth == len(sizes) - 1 else f"a{depth}"
        before = net.add_linear(name, {before: rng.normal(size=(outer, inner)) / np.sqrt(inner)}, cov=1.0)
    live = query(net, [], given, engine="pc", prediction="live", tol=1e-12)
    exact = query(net, [], given)
    hidden = [n for n in net.latents if n != "y"]
    return relative_error(_flat({n: live.messages[n] for n in hidden}), _flat({n: exact.messages[n] for n in hidden}))


def _flat(arrays: Mapping[str, Array]) -> Array:
    return np.concatenate([arrays[name].reshape(-1) for name in sorted(arrays)])


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of log y in log x; NaN below two points."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if len(x) > 1 else float("nan")


def draw_graphs(finding: Finding, ax: Axes) -> None:
    """The two graphs of the diamond side by side: an arrow from a latent to each whose move depends on it."""
    places = {"a": (0.5, 3), "b": (0.0, 2), "c": (1.0, 2), "d": (0.5, 1)}
    style = {"arrowstyle": "-|>", "color": "tab:blue", "shrinkA": 13, "shrinkB": 13, "linewidth": 1.6}
    for shift, (label, edges) in zip((0.0, 2.2), finding.series["edges"].items(), strict=False):
        for name, (x, y) in places.items():
            ax.text(x + shift, y, name, ha="center", va="center", bbox={"boxstyle": "circle", "fc": "white"})
        for start, end in sorted(edges):
            ends = [(places[n][0] + shift, places[n][1]) for n in (end, start)]
            ax.annotate("", *ends, arrowprops={**style, "connectionstyle": "arc3,rad=0.12"})
        ax.text(0.5 + shift, 3.6, f"predictions {'held ' if label == 'fixed' else ''}{label}", ha="center")
    ax.text(1.6, 0.4, "input above a, observed output below d", ha="center", color="gray", fontsize="small")
    ax.set(xlim=(-0.5, 3.7), ylim=(0.2, 3.9))
    ax.axis("off")


def _draw(finding: Finding, ax: Axes) -> None:
    """The gap of live prediction to backprop against hidden noise over output noise, where all curves meet."""
    for label, rows in finding.series.items():
        if label != "edges":
            ratio = [row["hidden noise"] / row["output noise"] for row in rows]
            ax.plot(ratio, [row["gap to backprop"] for row in rows], "o-", label=label)
    ax.set(xlabel="hidden noise / output noise", ylabel="relative gap of live prediction", xscale="log", yscale="log")
    ax.legend()
