"""Every model learned by gradient descent is a kernel machine: the kernels of four ways to learn one net.

Under gradient flow a prediction moves by dy(x)/dt = Σ_i K(x, x_i) e_i, with e_i the error at example i and the tangent
kernel K(x, x') = ∇f(x)·∇f(x') of the moment; summed along the path it is all that was learned (Domingos, *Every model
learned by gradient descent is approximately a kernel machine*, 2020).  That kernel is what a nudge of target i does to
the prediction at x, in one short step::

    K(x, i) = ∂² f(θ + η Δ(y); x) / ∂η ∂y_i

In this form it can be measured of any rule Δ: backprop, fixed and live prediction, the M-step of EM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims.finding import Finding
from gbn.errors import MissingDependencyError
from gbn.inference import gradient
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["RULES", "experiment", "kernel", "network"]

Array = np.ndarray[Any, Any]
Data = Mapping[str, Array]
Step = dict[str, Array]
CLAIM = "Every model learned by gradient descent is a kernel machine."
_PROBE = 1e-3
_NUDGE = 1e-2


def network(units: int, noise: float, rng: np.random.Generator) -> GaussianBayesNet:
    """x → tanh layer → y, the layer's sums with that noise, the output with 0.1."""
    net = GaussianBayesNet()
    net.add_input("x", 1)
    net.add_linear("a", {"x": 2 * rng.normal(size=(units, 1))}, bias=rng.normal(size=units), cov=noise)
    net.add("h", "Tanh", ["a"])
    net.add_linear("y", {"h": rng.normal(size=(1, units)) / np.sqrt(units)}, bias=[0.0], cov=0.1)
    return net


def _backprop(net: GaussianBayesNet, data: Data) -> Step:
    """Minus the gradient of Σ e² / 2q, by torch's autograd."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("torch", "torch", "backprop, to compare with") from error
    values = {n: torch.tensor(np.array(net[n].value), dtype=torch.float64, requires_grad=True) for n in net.parameters}
    h = torch.tanh(torch.tensor(data["x"]) @ values["a.x.weight"].T + values["a.bias"])
    errors = torch.tensor(data["y"]) - h @ values["y.h.weight"].T - values["y.bias"]
    (0.5 * (errors**2).sum() / float(np.mean(net.noises["y"].value))).backward()
    return {name: -value.grad.numpy() for name, value in values.items()}


def _fixed(net: GaussianBayesNet, data: Data) -> Step:
    return {name: -slope for name, slope in gradient(net, data).items()}


def _live(net: GaussianBayesNet, data: Data) -> Step:
    messages = net.query([], data, engine="pc", prediction="live", tol=1e-10).messages
    return {name: messages[name] for name in net.parameters}


def _em(net: GaussianBayesNet, data: Data) -> Step:
    """To where the M-step leads, from exact covariances of the linearised net."""
    learned = net.fit(
        data, batch_size=len(data["y"]), epochs=1, step_size=1.0, damping=0.0, samples=None, fixed_noise=True,
        progress=False,
    ).net  # fmt: skip
    return {name: np.asarray(learned[name].value) - np.asarray(net[name].value) for name in net.parameters}


RULES: dict[str, Callable[[GaussianBayesNet, Data], Step]] = {
    "backprop": _backprop,
    "fixed prediction": _fixed,
    "live prediction": _live,
    "EM": _em,
}


def kernel(rule: str, net: GaussianBayesNet, data: Data, at: Array) -> Array:
    """What a nudge of each target does to the predictions, per unit of nudge and of step.

    Args:
        at: inputs of the predictions.  Shape: (points, 1).

    Returns:
        shape (points, samples).
    """
    columns = []
    for i in range(len(data["y"])):
        sides = []
        for sign in (1, -1):
            y = np.array(data["y"])
            y[i] += sign * _NUDGE
            step = RULES[rule](net, {**data, "y": y})
            # The odd part in the step is its first order, but for its cube.
            ends = [_predicted(_moved(net, step, eta), at) for eta in (_PROBE, -_PROBE)]
            sides.append((ends[0] - ends[1]) / (2 * _PROBE))
        columns.append((sides[0] - sides[1]) / (2 * _NUDGE))
    return np.stack(columns, axis=1)


def experiment(
    *,
    units: int = 10,
    samples: int = 6,
    steps: int = 30,
    time: float = 0.06,
    em_time: float = 3.0,
    noise: float = 0.1,
    seed: int | np.random.Generator = 0,
) -> Finding:
    """A small net learns a curve in four ways; the tangent kernel of every step, and their sums along the paths.

    Args:
        samples: training examples, evenly spread.
        steps: of training.
        time, em_time: the length of the path: the sum of the step sizes, for gradients and for EM.
        noise: variance of the hidden sums, which live prediction and EM use and backprop does not know of.
    """
    rng = np.random.default_rng(seed)
    start = network(units, noise, rng)
    x = np.linspace(-1.5, 1.5, samples)[:, None]
    data = {"x": x, "y": np.sin(2 * x) + 0.5 * x}
    grid = np.linspace(-2, 2, 41)[:, None]
    at = np.concatenate([x, grid])
    paths = {rule: _follow(rule, start, data, at, steps, em_time if rule == "EM" else time) for rule in RULES}
    reference = paths["backprop"]["path kernel"]
    figures: dict[str, float] = {}
    table: list[dict[str, Any]] = []
    for rule, path in paths.items():
        square = path["path kernel"][:samples]
        row: dict[str, Any] = {
            "rule": rule,
            "not explained": _gap(path["explained"], path["moved"]),
            "asymmetry": float(np.linalg.norm(square - square.T) / np.linalg.norm(square + square.T)),
            "alignment with backprop": _alignment(path["path kernel"], reference),
            "kernel moved": _gap(path["last kernel"], path["first kernel"]),
            "training error": float(((path["last"][:samples] - data["y"][:, 0]) ** 2).mean()),
        }
        table.append(row)
        figures |= {f"{rule}: {name}": float(row[name]) for name in list(row)[1:]}
    same = _gap(paths["fixed prediction"]["path kernel"], reference)
    figures["fixed prediction: path kernel against backprop's"] = same
    told = {str(row["rule"]): row for row in table}
    backprop, live, em = told["backprop"], told["live prediction"], told["EM"]
    answer = (
        f"Of what backprop learned, its path kernel explains all but {backprop['not explained']:.1%}; fixed prediction "
        f"has the same, to {same:.0e}. Live prediction is close (alignment {live['alignment with backprop']:.3f}), "
        "but weighs each example by its own uncertainty, so that its kernel is not symmetric (asymmetry "
        f"{live['asymmetry']:.0%}). EM's is another (alignment {em['alignment with backprop']:.2f}) and leaves "
        f"{em['not explained']:.0%} unexplained: an M-step is no gradient step, and moves even where there is no error."
    )
    holds = bool(told["backprop"]["not explained"] < 0.05 and told["backprop"]["asymmetry"] < 1e-4)
    series = {"grid": grid[:, 0], "x": x[:, 0], "y": data["y"][:, 0], "samples": samples, "paths": paths}
    return Finding(CLAIM, answer, holds, figures, table, series, _draw)


def _follow(rule: str, net: GaussianBayesNet, data: Data, at: Array, steps: int, time: float) -> dict[str, Array]:
    """Train by a rule, and sum what the kernel of each step says of the predictions.

    Every step goes by the midpoint, and the kernel is taken there.
    """
    eta = time / steps
    first = _predicted(net, at)
    summed, explained = np.zeros((len(at), len(data["y"]))), np.zeros(len(at))
    kernels = []
    for _ in range(steps):
        middle = _moved(net, RULES[rule](net, data), eta / 2)
        now = kernel(rule, middle, data, at)
        errors = data["y"][:, 0] - _predicted(middle, data["x"])
        summed, explained = summed + eta * now, explained + eta * now @ errors
        kernels.append(now)
        net = _moved(net, RULES[rule](middle, data), eta)
    last = _predicted(net, at)
    return {
        "path kernel": summed,
        "first kernel": kernels[0],
        "last kernel": kernels[-1],
        "explained": explained,
        "moved": last - first,
        "first": first,
        "last": last,
    }


def _moved(net: GaussianBayesNet, step: Step, eta: float) -> GaussianBayesNet:
    net = net.copy()
    for name, change in step.items():
        net.set_value(name, np.asarray(net[name].value) + eta * change)
    return net


def _predicted(net: GaussianBayesNet, at: Array) -> Array:
    return np.asarray(net.forward({"x": at})["y"][:, 0])


def _gap(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _alignment(a: Array, b: Array) -> float:
    """The cosine between two kernels (Cristianini et al., 2001)."""
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


def _draw(finding: Finding, ax: Axes) -> None:
    grid, samples = finding.series["grid"], finding.series["samples"]
    chosen = samples // 2
    for rule, path in finding.series["paths"].items():
        row = path["path kernel"][samples:, chosen]
        ax.plot(grid, row / np.abs(row).max(), "--" if rule == "fixed prediction" else "-", label=rule)
    ax.axvline(finding.series["x"][chosen], color="k", linestyle=":", linewidth=1)
    ax.set(xlabel="x", ylabel="path kernel (its peak is 1)", title="what one example taught, and where")
    ax.legend()
