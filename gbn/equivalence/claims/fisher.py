"""Local gradients are no privilege of predictive coding: Fisher's identity, and EM as a preconditioned gradient.

For a CPD x = B u + e, e ~ N(0, Q), of any Bayes net, with posterior moments summed over the rows,

    ∇_B log p(evidence) = Q⁻¹ (C_xu - B C_uu),      C_xu = Σ_n E[x uᵀ | evidence_n],  C_uu likewise         (Fisher)
    B_new - B = Q ∇_B C_uu⁻¹,                        B_new = C_xu C_uu⁻¹ the M-step of EM

Both need a vertex, its parents, and nothing else.  Where hidden noise vanishes the gradient becomes backprop's.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims import CLAIMS, Finding
from gbn.equivalence.compare import cosine, relative_error
from gbn.errors import ConvergenceWarning, InferenceError
from gbn.inference import gradient, query
from gbn.learning import fit
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["em_step", "experiment", "factors", "fisher_gradient", "layers"]

Array = np.ndarray[Any, Any]
Moments = Mapping[str, tuple[Array, Array]]


def layers(sizes: Sequence[int], noise: float, rng: np.random.Generator) -> GaussianBayesNet:
    """x -> a1 -> ... -> y, all linear, hidden noise ``noise``, output noise 1."""
    net = GaussianBayesNet()
    before = net.add_input("x", sizes[0])
    for depth, outer in enumerate(sizes[1:], 1):
        last = depth == len(sizes) - 1
        weight = rng.normal(size=(outer, sizes[depth - 1])) / np.sqrt(sizes[depth - 1])
        name, cov = ("y", 1.0) if last else (f"a{depth}", noise)
        before = net.add_linear(name, {before: weight}, bias=0.1 * rng.normal(size=outer), cov=cov)
    return net


def factors(rng: np.random.Generator) -> GaussianBayesNet:
    """Two hidden causes of five numbers: nothing goes in, so that there is nothing to propagate back."""
    net = GaussianBayesNet()
    net.add_input("z", 2, mean=0.0, cov=1.0)
    net.add_linear("y", {"z": rng.normal(size=(5, 2))}, bias=rng.normal(size=5), cov=0.5)
    return net


def posterior_moments(net: GaussianBayesNet, data: Mapping[str, Any]) -> Moments:
    """Of every linear CPD: C_xu and C_uu, a 1 for the bias last in u, from the posterior of the vertex and its parents.

    Raises:
        InferenceError: a CPD that is no linear one with a bias.
    """
    found = {}
    for name, vertex in net.vertices.items():
        if vertex.kind != "op" or not vertex.random:
            continue
        if vertex.op != "Linear" or len(vertex.parents) % 2 == 0:
            raise InferenceError(f"{name!r}: got op {vertex.op}, expected a linear CPD with a bias, as by add_linear")
        family = [name, *vertex.parents[:-1:2]]
        joint = query(net, family, data).joint(family)
        size, rows = vertex.size, len(joint.mean)
        second = np.einsum("ni,nj->ij", joint.mean, joint.mean) + joint.cov.sum(axis=0)
        first = joint.mean.sum(axis=0)[:, None]
        whole = np.block([[second, first], [first.T, np.array([[float(rows)]])]])
        found[name] = whole[:size, size:], whole[size:, size:]
    return found


def fisher_gradient(net: GaussianBayesNet, data: Mapping[str, Any], moments: Moments | None = None) -> dict[str, Array]:
    """∇ log p(evidence) by B = (weights, bias) of every linear CPD, from its own posterior moments.

    Returns:
        vertex -> shape (size, size of its parents + 1).

    Raises:
        As :func:`posterior_moments`.
    """
    moments = posterior_moments(net, data) if moments is None else moments
    return {
        name: net.noise(name).solve((c_xu - _rows(net, name) @ c_uu).T).T  # type: ignore[union-attr]
        for name, (c_xu, c_uu) in moments.items()
    }


def em_step(net: GaussianBayesNet, data: Mapping[str, Any]) -> dict[str, Array]:
    """What one iteration of EM adds to B of every linear CPD."""
    roots = [name for name in net.inputs if net[name].random]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one iteration is what was asked for
        options: dict[str, Any] = {"max_iter": 1, "tol": None, "px": False, "fixed_noise": True, "freeze": roots}
        fitted = fit(net, data, "em", progress=False, **options).net
    names = [n for n, v in net.vertices.items() if v.op == "Linear" and v.random]
    return {name: _rows(fitted, name) - _rows(net, name) for name in names}


def experiment(
    noises: Sequence[float] = (1e-3, 1e-2, 0.1, 1.0, 10.0),
    *,
    sizes: Sequence[int] = (4, 3, 3, 2),
    rows: int = 40,
    missing: float = 0.2,
    seed: int = 0,
) -> Finding:
    """Fisher's gradient against differences of the log-evidence, the EM step against its preconditioning, and backprop.

    Args:
        noises: hidden variances of a linear network.
        sizes: of its layers.
        missing: share of missing cells in the data of a factor model, which has no backprop.
    """
    rng = np.random.default_rng(seed)
    teacher, start = layers(sizes, 0.3, rng), layers(sizes, 1.0, rng)
    x = rng.normal(size=(rows, sizes[0]))
    data = {"x": x, "y": teacher.sample(1, rng, do={"x": x})["y"]}
    table: list[dict[str, Any]] = []
    for noise in noises:
        net = start.copy()
        net.set_noise({n: noise for n in net.latents if n != "y"})
        table.append({"net": "layers", "hidden noise": noise, **_compared(net, data), **_beside_backprop(net, data)})
    causes = factors(rng)
    cells = np.array(causes.sample(rows, rng)["y"])
    cells[rng.random(cells.shape) < missing] = np.nan
    causes.set_value("y.z.weight", rng.normal(size=(5, 2)))
    table.append(
        {"net": "factors, missing cells", "hidden noise": 1.0, **_compared(causes, {"y": cells}), **_NO_BACKPROP}
    )
    worst, law = (max(row[key] for row in table) for key in ("Fisher, error", "EM law, error"))
    near, far = table[0], table[len(noises) - 1]
    figures = {
        "largest error of Fisher's gradient": worst,
        "largest error of the EM law": law,
        **{f"cosine of Fisher and backprop, noise {r['hidden noise']:g}": r["cosine to backprop"] for r in table[:-1]},
    }
    answer = (
        f"Fisher's identity gives the gradient of the log-evidence from each vertex's own posterior moments, to "
        f"{worst:.0e} of central differences, also where causes are hidden and cells missing; the EM step is that "
        f"gradient times Q on the left and C_uu⁻¹ on the right, to {law:.0e}. At hidden noise {near['hidden noise']:g} "
        f"it points where backprop points (cosine {near['cosine to backprop']:.6f}), at {far['hidden noise']:g} no "
        f"longer (cosine {far['cosine to backprop']:.2f})."
    )
    curves = {
        "Fisher's gradient": np.array([row["cosine to backprop"] for row in table[:-1]]),
        "EM step": np.array([row["cosine of the EM step"] for row in table[:-1]]),
    }
    series = {"noise": np.array(noises), **curves}
    return Finding(CLAIMS["fisher"].statement, answer, worst < 1e-5 and law < 1e-6, figures, table, series, _draw)


_NO_BACKPROP = {"cosine to backprop": np.nan, "length over backprop's": np.nan, "cosine of the EM step": np.nan}


def _compared(net: GaussianBayesNet, data: Mapping[str, Any]) -> dict[str, float]:
    """Fisher's gradient against differences, and the EM step against Q ∇ C_uu⁻¹; gains of one step of each."""
    moments = posterior_moments(net, data)
    ascent, step = fisher_gradient(net, data, moments), em_step(net, data)
    conditioned = {
        name: net.noise(name).apply(np.linalg.solve(moments[name][1], ascent[name].T)).T  # type: ignore[union-attr]
        for name in ascent
    }
    now, scale = _evidence(net, data), float(np.linalg.norm(_flat(step)) / np.linalg.norm(_flat(ascent)))
    as_long = {name: scale * slope for name, slope in ascent.items()}
    return {
        "Fisher, error": relative_error(_flat(ascent), _flat(_differences(net, data))),
        "EM law, error": relative_error(_flat(step), _flat(conditioned)),
        "EM step, nats gained": _evidence(_moved(net, step), data) - now,
        "as long a step along the gradient, nats gained": _evidence(_moved(net, as_long), data) - now,
    }


def _beside_backprop(net: GaussianBayesNet, data: Mapping[str, Any]) -> dict[str, float]:
    energy = gradient(net, data)
    backprop = {
        n: -np.concatenate([*(energy[w] for w in v.parents[1::2]), energy[v.parents[-1]][:, None]], axis=1)
        for n, v in net.vertices.items()
        if v.op == "Linear"
    }
    ascent, step = _flat(fisher_gradient(net, data)), _flat(em_step(net, data))
    return {
        "cosine to backprop": cosine(ascent, _flat(backprop)),
        "length over backprop's": float(np.linalg.norm(ascent) / np.linalg.norm(_flat(backprop))),
        "cosine of the EM step": cosine(step, _flat(backprop)),
    }


def _rows(net: GaussianBayesNet, name: str) -> Array:
    """B: the weights of a linear CPD side by side, its bias last."""
    parents = net[name].parents
    weights = [net[weight].value for weight in parents[1::2]]
    return np.concatenate([*weights, net[parents[-1]].value[:, None]], axis=1)  # type: ignore[index, list-item]


def _moved(net: GaussianBayesNet, steps: Mapping[str, Array]) -> GaussianBayesNet:
    net = net.copy()
    for name, step in steps.items():
        parents, rows = net[name].parents, _rows(net, name) + step
        ends = np.cumsum([0, *(net[weight].shape[1] for weight in parents[1::2])])
        for weight, a, b in zip(parents[1::2], ends[:-1], ends[1:], strict=True):
            net.set_value(weight, rows[:, a:b])
        net.set_value(parents[-1], rows[:, -1])
    return net


def _evidence(net: GaussianBayesNet, data: Mapping[str, Any]) -> float:
    return float(query(net, [], data).log_evidence.sum())


def _differences(net: GaussianBayesNet, data: Mapping[str, Any], size: float = 1e-5) -> dict[str, Array]:
    """Central differences of the log-evidence by every entry of B."""
    out = {}
    for name in [n for n, v in net.vertices.items() if v.op == "Linear"]:
        slope = np.zeros_like(_rows(net, name))
        for place in np.ndindex(slope.shape):
            step = np.zeros_like(slope)
            step[place] = size
            up, down = (_evidence(_moved(net, {name: sign * step}), data) for sign in (1, -1))
            slope[place] = (up - down) / (2 * size)
        out[name] = slope
    return out


def _flat(arrays: Mapping[str, Array]) -> Array:
    return np.concatenate([arrays[name].reshape(-1) for name in sorted(arrays)])


def _draw(finding: Finding, ax: Axes) -> None:
    from gbn.display.plots import curves

    lines = {label: values for label, values in finding.series.items() if label != "noise"}
    curves(lines, x=finding.series["noise"], ax=ax, xlabel="hidden noise", ylabel="cosine to backprop", xscale="log")
    for line in ax.lines:
        line.set_marker("o")
