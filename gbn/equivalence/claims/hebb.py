"""Hebbian learning is PCA; and a chain of the same rule, clamped at both ends, is gradient descent.

A weight from u to x learns by what is at its two ends, ΔW ∝ λ_x uᵀ: what the child gets wrong, times what the parent
does.  The rule is one; what it learns depends on what is clamped:

- z → y with y alone observed: the principal subspace (Tipping & Bishop, *Probabilistic principal component analysis*,
  1999; Oja, J. Math. Biology 15, 1982);
- x → h → y with y a copy of x: the principal subspace again (Baldi & Hornik, Neural Networks 2, 1989);
- x → h → y with y a target: the gradient of the regression, and in the end reduced-rank regression (Izenman, 1975).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg

from gbn.equivalence.claims.finding import Finding
from gbn.learning import Data, Frozen, learner
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["chain", "components", "data", "experiment", "principal", "reduced_rank"]

Array = np.ndarray[Any, Any]
Angle = Callable[[GaussianBayesNet], float]
CLAIM = "Hebbian learning is PCA; how can a chain of PCAs be gradient descent?"
_STEP = 1e-5


def data(rows: int, size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """x, whose variance falls from entry to entry of a hidden frame, and y, which depends on the quiet ones.

    Shapes: (rows, size), (rows, 3); both centred.
    """
    frame = np.linalg.qr(rng.normal(size=(size, size)))[0]
    sources = rng.standard_normal((rows, size)) * np.linspace(2.5, 0.5, size)
    y = sources[:, -2:] @ (2 * rng.normal(size=(2, 3))) + 0.3 * rng.standard_normal((rows, 3))
    x = sources @ frame.T
    return x - x.mean(axis=0), y - y.mean(axis=0)


def components(size: int, units: int, rng: np.random.Generator) -> GaussianBayesNet:
    """Probabilistic PCA: z ~ N(0, I), y = W z + N(0, σ²)."""
    net = GaussianBayesNet()
    net.add_input("z", units, mean=0.0, cov=1.0)
    net.add_linear("y", {"z": 0.5 * rng.normal(size=(size, units))}, cov=1.0)
    return net


def chain(size: int, units: int, outputs: int, rng: np.random.Generator) -> GaussianBayesNet:
    """x → h → y, linear, with a narrow middle; x must be observed."""
    net = GaussianBayesNet()
    net.add_input("x", size)
    net.add_linear("h", {"x": 0.3 * rng.normal(size=(units, size))}, cov=0.1)
    net.add_linear("y", {"h": 0.3 * rng.normal(size=(outputs, units))}, cov=1.0)
    return net


def principal(x: Array, units: int) -> tuple[Array, Array]:
    """By SVD: principal directions, shape (size, units), and all variances, largest first."""
    _, singular, directions = np.linalg.svd(x, full_matrices=False)
    return directions[:units].T, singular**2 / len(x)


def reduced_rank(x: Array, y: Array, units: int) -> Array:
    """Directions of x that the best regression of y through so many units reads.  Shape: (size of x, units)."""
    coefficients = np.linalg.lstsq(x, y, rcond=None)[0]
    kept = np.linalg.svd(x @ coefficients, full_matrices=False)[2][:units]
    return np.asarray(coefficients @ kept.T)


def experiment(
    *,
    rows: int = 500,
    size: int = 6,
    units: int = 2,
    iterations: int = 150,
    epochs: int = 250,
    seed: int | np.random.Generator = 0,
) -> Finding:
    """PPCA by Hebbian updates and by EM; then one chain, taught its own input and taught a target.

    Args:
        iterations: of EM.
        epochs: of Hebbian learning on full batches, for each net: of PPCA by steps with weight decay (forgetting), of
            the chains by Adam.
    """
    rng = np.random.default_rng(seed)
    x, y = data(rows, size, rng)
    directions, variances = principal(x, units)
    target = reduced_rank(x, y, units)
    ppca, seen = components(size, units, rng), {"y": x}
    weight = "y.z.weight"

    def off(name: str, space: Array, transpose: bool = False) -> Angle:
        def angle(net: GaussianBayesNet) -> float:
            value = np.asarray(net[name].value)
            return _angle(value.T if transpose else value, space)

        return angle

    by_em, em_path = _learn(ppca, seen, "em", iterations, off(weight, directions), freeze=["z"], tol=None, px=False)
    live = {"prediction": "live", "optimizer": "sgd", "learning_rate": 0.3, "batch_size": None}
    forgetful = live | {"weight_decay": 0.1}
    hebbian, hebb_path = _learn(ppca, seen, "local", epochs, off(weight, directions), **forgetful)
    growing, _ = _learn(ppca, seen, "local", epochs, off(weight, directions), **live)
    fixed = {"learning_rate": 0.02, "batch_size": None}
    start = chain(size, units, size, rng)
    _, copy_path = _learn(start, {"x": x, "y": x}, "local", epochs, off("h.x.weight", directions, True), **fixed)
    taught = chain(size, units, y.shape[1], rng)
    pair = {"x": x, "y": y}
    slopes = _slopes(taught, pair)
    clamped, clamped_path = _learn(taught, pair, "local", epochs, off("h.x.weight", target, True), **fixed)
    noise = float(np.mean(by_em.noises["y"].value))
    expected = float(variances[units:].mean())
    figures = {
        "angle to SVD, Hebb": hebb_path[-1],
        "angle to SVD, EM": em_path[-1],
        "noise variance, EM": noise,
        "noise variance, discarded eigenvalues": expected,
        "size of Hebb's weights over EM's": _size(hebbian, weight) / _size(by_em, weight),
        "size of Hebb's weights over EM's, without forgetting": _size(growing, weight) / _size(by_em, weight),
        "Hebbian products against the slope of the energy": _product_gap(ppca, seen),
        "chain taught its input: angle to SVD": copy_path[-1],
        "chain taught a target: products against the slope of the loss": _gap(_products(taught, pair), slopes),
        "chain taught a target: angle to reduced-rank regression": clamped_path[-1],
        "chain taught a target: angle to SVD": _angle(np.asarray(clamped["h.x.weight"].value).T, directions),
    }
    slope = figures["chain taught a target: products against the slope of the loss"]
    answer = (
        f"Unclamped, the rule finds the principal subspace: within {hebb_path[-1]:.0e} rad of the SVD by Hebbian steps "
        f"with some forgetting, {em_path[-1]:.0e} by EM, which also gets the scale right. In a chain clamped at both "
        f"ends the same products are the gradient of the loss, to {slope:.0e}. Taught its own input, the chain finds "
        f"the principal subspace ({copy_path[-1]:.0e} rad); taught a target, the directions that matter for it "
        f"({clamped_path[-1]:.0e} rad from reduced-rank regression). Clamping makes a chain of PCAs gradient descent."
    )
    series = {
        "Hebb": np.array(hebb_path),
        "EM": np.array(em_path),
        "chain taught its input": np.array(copy_path),
        "chain taught a target (to regression)": np.array(clamped_path),
    }
    return Finding(CLAIM, answer, True, figures, (), series, _draw)


def _learn(
    net: GaussianBayesNet, data: Mapping[str, Array], method: str, rounds: int, angle: Angle, **options: Any
) -> tuple[GaussianBayesNet, list[float]]:
    """The net after so many rounds, and its angle before the first and after each."""
    frozen = Frozen.read(net, options.pop("freeze", ()))
    options["max_iter" if method == "em" else "epochs"] = rounds
    found = learner(method)(net, Data.read(net, data), frozen, np.random.default_rng(0), **options)
    found.begin()
    path = [angle(found.net)]
    for _ in range(rounds):
        found.step()
        path.append(angle(found.net))
    return found.net, path


def _angle(a: Array, b: Array) -> float:
    """The largest angle between two column spaces, in radians."""
    return float(linalg.subspace_angles(a, b).max())


def _products(net: GaussianBayesNet, data: Mapping[str, Array], prediction: str = "fixed") -> dict[str, Array]:
    """weight -> Σ_n λ_n u_nᵀ: what the child gets wrong, times what the parent does.

    With fixed prediction the parent does what the forward pass had it do, with live prediction what it settled at.
    """
    edges = [(name, parent) for name, vertex in net.vertices.items() for parent in vertex.parents[:1] if vertex.plated]
    post = net.query([parent for _, parent in edges], data, engine="pc", prediction=prediction)
    does = post.mean if prediction == "live" else net.forward({name: data[name] for name in net.inputs})
    return {f"{child}.{parent}.weight": post.messages[child].T @ does[parent] for child, parent in edges}


def _slopes(net: GaussianBayesNet, data: Mapping[str, Array]) -> dict[str, Array]:
    """weight -> minus the slope of the loss ½ Σ (y - f(x))² of the chain, by central differences."""

    def loss(other: GaussianBayesNet) -> float:
        return 0.5 * float(((other.forward({"x": data["x"]})["y"] - data["y"]) ** 2).sum())

    return _differences(net, loss)


def _product_gap(net: GaussianBayesNet, data: Mapping[str, Array]) -> float:
    """Hebbian products at the equilibrium, against the slope of the least energy by central differences."""

    def energy(other: GaussianBayesNet) -> float:
        return float(other.query([], data, engine="pc", prediction="live").free_energy.sum())

    return _gap(_products(net, data, "live"), _differences(net, energy))


def _differences(net: GaussianBayesNet, function: Callable[[GaussianBayesNet], float]) -> dict[str, Array]:
    found = {}
    for name in net.parameters:
        value = np.array(net[name].value)
        found[name] = np.empty_like(value)
        for index in np.ndindex(value.shape):
            sides = []
            for sign in (1, -1):
                moved, other = value.copy(), net.copy()
                moved[index] += sign * _STEP
                other.set_value(name, moved)
                sides.append(function(other))
            found[name][index] = (sides[1] - sides[0]) / (2 * _STEP)
    return found


def _gap(found: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """The largest relative error of a weight's slopes."""
    return max(float(np.linalg.norm(found[n] - v) / np.linalg.norm(v)) for n, v in expected.items())


def _size(net: GaussianBayesNet, name: str) -> float:
    return float(np.linalg.norm(np.asarray(net[name].value)))


def _draw(finding: Finding, ax: Axes) -> None:
    for name, path in finding.series.items():
        ax.plot(np.degrees(path), label=name)
    ax.set(yscale="log", xlabel="rounds", ylabel="angle (degrees)", title="one rule, and what it finds")
    ax.legend(fontsize=8)
