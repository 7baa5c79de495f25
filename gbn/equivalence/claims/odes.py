"""Inference as a differential equation: dv/dt = -∂F/∂v, solved by what differential equations are solved by.

The flow settles at rates that are the eigenvalues of the precision K of the latents.  Their spread κ, the stiffness,
grows with the precision of what is observed.  An explicit method, adaptive or not, has to follow the fastest rate and
takes steps in proportion to κ; inertia, m v̈ + γ v̇ = -∂F/∂v, brings that towards √κ; an implicit one steps as long as
the flow is smooth.  An implicit step of unlimited length, (I/h + K) Δ = -∂F/∂v with h → ∞, is Newton's: the
second-order limit, which on a linear net is exact inference in one step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims import CLAIMS, Finding
from gbn.equivalence.claims.networks import tanh_mlp
from gbn.errors import ConvergenceWarning
from gbn.evidence import Evidence
from gbn.inference import query
from gbn.inference.live_prediction import States
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curvature", "experiment", "implicit_steps", "momentum_rounds"]

Array = np.ndarray[Any, Any]
# Free energy within which a solver has arrived, in nats.
_NEAR = 1e-3
# Label -> options of engine "pc"; "gradient" gets the best step for its stiffness.
_SOLVERS: dict[str, dict[str, Any]] = {
    "gradient rounds": {"solver": "gradient"},
    "RK45 (adaptive, explicit)": {"solver": "ode", "integrator": "RK45"},
    "LSODA (switches)": {"solver": "ode", "integrator": "LSODA"},
    "BDF (adaptive, implicit)": {"solver": "ode", "integrator": "BDF"},
    "L-BFGS": {"solver": "lbfgs"},
    "Gauss-Newton": {"solver": "gauss-newton"},
}


def curvature(problem: States, at: Array, step: float = 1e-5) -> Array:
    """∂²F/∂v² of one sample by central differences of its gradient.  Shape: (dim, dim)."""
    units = step * np.eye(at.shape[1])[:, None]
    columns = [(problem.energy(at + u)[1] - problem.energy(at - u)[1])[0] / (2 * step) for u in units]
    matrix = np.array(columns)
    return (matrix + matrix.T) / 2


def momentum_rounds(problem: States, target: float, rates: tuple[float, float], max_rounds: int = 10_000) -> int:
    """Rounds of the heavy ball (Polyak 1964), tuned to the least and the largest rate, until F is near ``target``."""
    slow, fast = (rate**0.5 for rate in rates)
    step, inertia = 4 / (slow + fast) ** 2, ((fast - slow) / (fast + slow)) ** 2
    v = before = problem.start()
    for number in range(max_rounds + 1):
        energy, slope = problem.energy(v)
        if energy[0] - target <= _NEAR:
            return number
        v, before = v - step * slope + inertia * (v - before), v
    return -1


def implicit_steps(problem: States, target: float, size: float, max_steps: int = 10_000) -> int:
    """Linearly implicit Euler steps of length ``size``, (I/h + ∂²F) Δ = -∂F, until F is near ``target``; -1: never.

    For a quadratic F: its curvature is taken at the start.
    """
    v = problem.start()
    matrix = curvature(problem, v)
    for number in range(max_steps + 1):
        energy, slope = problem.energy(v)
        if energy[0] - target <= _NEAR:
            return number
        v = v - np.linalg.solve(np.eye(v.shape[1]) / size + matrix, slope[0])
    return -1


def experiment(
    precisions: Sequence[float] = (1.0, 10.0, 100.0, 1000.0),
    *,
    step_sizes: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0, 1e6),
    sizes: Sequence[int] = (4, 6, 6, 3),
    max_rounds: int = 10_000,
    seed: int = 0,
) -> Finding:
    """Evaluations of F and its gradient until F is within 1e-3 nats of its minimum, by solver and output precision.

    Args:
        precisions: of the observed output of a tanh network with hidden noise 1; one sample.
        step_sizes: of linearly implicit Euler on the same network without its nonlinearities.
        max_rounds: cap of every solver.
    """
    rng = np.random.default_rng(seed)
    net, linear = tanh_mlp(sizes, rng), _linear(sizes, rng)
    given = {"x": rng.normal(size=(1, sizes[0])), "y": rng.normal(size=(1, sizes[-1]))}
    table = []
    for precision in precisions:
        net.set_noise({"y": 1 / precision})
        table.append({"precision": precision, **_evaluations(net, given, max_rounds)})
    steps, newton = _implicit(linear, given, step_sizes)
    kappa = np.array([row["stiffness"] for row in table])
    slopes = {label: _slope(kappa, [row[label] for row in table]) for label in (*_SOLVERS, "momentum")}
    figures: dict[str, float] = {
        **{f"stiffness at precision {row['precision']:g}": row["stiffness"] for row in table},
        **{f"growth with stiffness, {label}": slope for label, slope in slopes.items()},
        **{f"implicit steps of size {size:g}, linear net": float(count) for size, count in steps.items()},
        "one implicit step of size 1e12, from the exact posterior": newton,
    }
    answer = (
        f"They work; stiffness is what they have to master. From precision {precisions[0]:g} to {precisions[-1]:g} the "
        f"ratio of the fastest to the slowest rate grows from {kappa[0]:.0f} to {kappa[-1]:.0f}, and the evaluations "
        "needed grow from "
        + ", ".join(f"{row0} to {row1} ({label})" for label, row0, row1 in _growth(table, slopes))
        + f". On a linear net one implicit step of unlimited size is exact inference (to {newton:.0e})."
    )
    series = {
        "stiffness": kappa,
        **{label: np.array([row[label] for row in table]) for label in slopes},
        "steps": steps,
    }
    return Finding(CLAIMS["odes"].statement, answer, True, figures, table, series, _draw)


def _growth(table: Sequence[Mapping[str, float]], labels: Iterable[str]) -> list[tuple[str, str, str]]:
    """Label, evaluations at the first precision and at the last."""

    def shown(count: float) -> str:
        return "more than the cap" if np.isnan(count) else f"{count:.0f}"

    return [(label, shown(table[0][label]), shown(table[-1][label])) for label in labels]


def _linear(sizes: Sequence[int], rng: np.random.Generator) -> GaussianBayesNet:
    """The network without its nonlinearities; output precision 100."""
    net = GaussianBayesNet()
    before = net.add_input("x", sizes[0])
    for depth, outer in enumerate(sizes[1:], 1):
        last = depth == len(sizes) - 1
        weight = rng.normal(size=(outer, sizes[depth - 1])) / np.sqrt(sizes[depth - 1])
        before = net.add_linear("y" if last else f"a{depth}", {before: weight}, cov=0.01 if last else 1.0)
    return net


def _minimum(net: GaussianBayesNet, given: Mapping[str, Array]) -> tuple[States, Array, float, float]:
    """The free energy as a function, where its minimum is, and its value there without and with constants."""
    problem = States(Evidence.read(net, given))
    post = query(net, net.latents, given, engine="pc", prediction="live", tol=1e-12)
    v = problem.join({n: np.array(post.mean[n]) for n in problem.names}, problem.start())
    return problem, v, float(problem.energy(v)[0][0]), float(post.free_energy[0])


def _evaluations(net: GaussianBayesNet, given: Mapping[str, Array], max_rounds: int) -> dict[str, float]:
    problem, minimum, bare, least = _minimum(net, given)
    rates = np.linalg.eigvalsh(curvature(problem, minimum))
    row = {"stiffness": float(rates[-1] / rates[0])}

    def near(_round: int, figures: Mapping[str, float]) -> bool:
        return figures["free_energy"] - least <= _NEAR

    for label, options in _SOLVERS.items():
        # The best constant step of gradient descent, 2 / (slowest + fastest rate).
        extra = {"step_size": 2 / (rates[0] + rates[-1])} if label == "gradient rounds" else {}
        limits: dict[str, Any] = {"tol": 0.0, "max_rounds": max_rounds, "callback": near}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            post = query(net, [], given, engine="pc", prediction="live", **options, **extra, **limits)
        arrived = post.history[-1]["free_energy"] - least <= _NEAR
        # An evaluation is a forward and a reverse pass; the sweeps of Gauss-Newton count as much.
        row[label] = post.diagnostics["passes"] / 2 if arrived else np.nan
    rounds = momentum_rounds(problem, bare, (rates[0], rates[-1]), max_rounds)
    return row | {"momentum": float(rounds) if rounds >= 0 else np.nan}


def _implicit(
    net: GaussianBayesNet, given: Mapping[str, Array], sizes: Sequence[float]
) -> tuple[dict[float, int], float]:
    """Steps by their size, and how far one of size 1e12 ends from the exact posterior mean."""
    problem, _, bare, _ = _minimum(net, given)
    steps = {size: implicit_steps(problem, bare, size) for size in sizes}
    start = problem.start()
    moved = start - np.linalg.solve(
        np.eye(start.shape[1]) / 1e12 + curvature(problem, start), problem.energy(start)[1][0]
    )
    exact = query(net, net.latents, given)
    mean = problem.join({n: np.array(exact.mean[n]) for n in problem.names}, start)
    return steps, float(np.abs(moved - mean).max())


def _slope(x: Array, y: Sequence[float]) -> float:
    """Slope of log y in log x over the points there are; NaN below two."""
    values = np.array(y)
    known = np.isfinite(values) & (values > 0)
    return float(np.polyfit(np.log(x[known]), np.log(values[known]), 1)[0]) if known.sum() > 1 else float("nan")


def _draw(finding: Finding, ax: Axes) -> None:
    from gbn.display.plots import curves

    lines: Mapping[str, Any] = {k: v for k, v in finding.series.items() if k not in ("stiffness", "steps")}
    curves(
        lines,
        x=finding.series["stiffness"],
        ax=ax,
        xlabel="stiffness: fastest rate / slowest rate",
        ylabel="evaluations to 1e-3 nats",
        xscale="log",
        yscale="log",
    )
    for line in ax.lines:
        line.set_marker("o")
    low, high = ax.get_xlim()
    ticks = [digit * 10.0**power for power in range(7) for digit in (1, 3) if low <= digit * 10.0**power <= high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
