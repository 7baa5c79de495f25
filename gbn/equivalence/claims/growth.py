"""Able to grow: units added in the midst of training, without a change to the function, and training goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims.finding import Finding
from gbn.growth import widen
from gbn.learning import Data, Frozen, learner
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["experiment", "regressor", "task"]

Array = np.ndarray[Any, Any]
CLAIM = "Able to grow."
_NOISE = 0.05


def task(rows: int, rng: np.random.Generator) -> dict[str, Array]:
    """A curve with three bends, and noise of 0.05.  Shape of each: (rows, 1)."""
    x = rng.uniform(-2, 2, size=(rows, 1))
    return {"x": x, "y": np.sin(3 * x) + 0.3 * x + _NOISE * rng.standard_normal((rows, 1))}


def regressor(units: int, rng: np.random.Generator) -> GaussianBayesNet:
    """x → tanh layer → y, with random weights."""
    net = GaussianBayesNet()
    net.add_input("x", 1)
    net.add_linear("a", {"x": 1.5 * rng.normal(size=(units, 1))}, bias=rng.normal(size=units), cov=0.01)
    net.add("h", "Tanh", ["a"])
    net.add_linear("y", {"h": rng.normal(size=(1, units)) / np.sqrt(units)}, bias=[0.0], cov=_NOISE**2)
    return net


def experiment(
    *,
    units: int = 4,
    more: int = 12,
    rows: int = 200,
    epochs: int = 150,
    learning_rate: float = 0.02,
    seed: int | np.random.Generator = 0,
) -> Finding:
    """A small net is trained, grown and trained on, beside one that stays small and one that was large from the start.

    Args:
        units, more: of the hidden layer, before and added.
        rows: of training, and of testing.
        epochs: before growth, and after it.
        learning_rate: of Adam on local messages, with batches of 32.
    """
    rng = np.random.default_rng(seed)
    train, test = task(rows, rng), task(rows, rng)
    grid = {"x": np.linspace(-2, 2, 200)[:, None]}
    options = {"learning_rate": learning_rate, "seed": int(rng.integers(2**31))}
    first, small = _trained(regressor(units, rng), train, test, epochs, options)
    grown = widen(first, "a", more, rng=rng)
    change = float(np.abs(grown.forward(grid)["y"] - first.forward(grid)["y"]).max())
    evidence_change = float(np.abs(_density(grown, test) - _density(first, test)).max())
    last, after = _trained(grown, train, test, epochs, options)
    stayed, on = _trained(first, train, test, epochs, options)
    scratch, large = _trained(regressor(units + more, rng), train, test, 2 * epochs, options)
    paths = {
        "grown": np.concatenate([small, after[1:]]),
        "stayed small": np.concatenate([small, on[1:]]),
        "large from the start": large,
    }
    figures = {
        "function changed at growth by": change,
        "log-evidence changed at growth by": evidence_change,
        "test error before growth": float(small[-1]),
        **{f"test error at the end, {name}": float(path[-1]) for name, path in paths.items()},
    }
    nets = {"before": first, "grown": grown, "grown, trained": last, "stayed small": stayed, "large": scratch}
    curves = {name: net.forward(grid)["y"][:, 0] for name, net in nets.items()}
    table = [{"net": name, "test error": float(path[-1])} for name, path in paths.items()]
    answer = (
        f"{more} units came to {units} and changed the function by {change:.0e}. Training went on from a test error of "
        f"{small[-1]:.2g} to {after[-1]:.2g}; without growth it ended at {on[-1]:.2g}, with all units from the start "
        f"at {large[-1]:.2g} (the noise alone makes {_NOISE**2:.2g})."
    )
    holds = bool(change < 1e-12 and after[-1] < on[-1])
    series = {"paths": paths, "curves": curves, "grid": grid["x"][:, 0], "train": train, "epochs": epochs}
    return Finding(CLAIM, answer, holds, figures, table, series, _draw)


def _trained(
    net: GaussianBayesNet, train: dict[str, Array], test: dict[str, Array], epochs: int, options: dict[str, Any]
) -> tuple[GaussianBayesNet, Array]:
    """The net trained by local messages, and its mean squared error on the test rows before and after every epoch."""
    rng = np.random.default_rng(options["seed"])
    local = learner("local")(
        net, Data.read(net, train), Frozen.read(net, ()), rng,
        epochs=epochs, learning_rate=options["learning_rate"], scale=_NOISE**2,
    )  # fmt: skip
    errors = [_error(net, test)]
    for _ in range(epochs):
        local.step()
        errors.append(_error(local.net, test))
    return local.net, np.array(errors)


def _error(net: GaussianBayesNet, data: dict[str, Array]) -> float:
    return float(((net.forward({"x": data["x"]})["y"] - data["y"]) ** 2).mean())


def _density(net: GaussianBayesNet, data: dict[str, Array]) -> Array:
    """log p(y | x) of the net linearised at the forward pass.  Shape: (rows,)."""
    return net.query([], data).log_evidence


def _draw(finding: Finding, ax: Axes) -> None:
    for name, path in finding.series["paths"].items():
        ax.plot(path, label=name)
    ax.axvline(finding.series["epochs"], color="k", linestyle=":", linewidth=1)
    ax.set(yscale="log", xlabel="epochs", ylabel="test error (squared)", title="growing in the midst of training")
    ax.legend()
