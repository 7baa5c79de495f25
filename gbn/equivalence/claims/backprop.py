"""Whether predictive coding converges to backprop's gradients: five networks, the paper's scalar graph, its two slips.

The scalar graph is tan(√(θ y₀)) + sin(y₀²) of arXiv 2006.04182, figure 2, with latents at √, tan and sin.  Free energy
falls along dv/dt = -∂F/∂v = -ε_i + Σ_c J_{c←i}ᵀ ε_c; equation 2 prints the right side with its sign turned, and
Algorithm 1 moves along +∂F/∂v.  Each climbs; taken together they cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.conversion import convert
from gbn.equivalence import oracles
from gbn.equivalence.claims import CLAIMS, Finding
from gbn.equivalence.claims.networks import torch_case
from gbn.equivalence.compare import relative_error
from gbn.equivalence.rounds import gradients_by_round, latents_on_paths
from gbn.evidence import Evidence
from gbn.inference import gradient
from gbn.inference.live_prediction import States
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ascents", "experiment", "scalar_graph", "scalar_rounds"]

Array = np.ndarray[Any, Any]
_NETWORKS = ("mlp", "cnn", "rnn", "lstm", "transformer")
_LEVELS = (1e-2, 1e-3, 1e-6)


def scalar_graph(y0: float = 5.0, theta: float = 2.0) -> GaussianBayesNet:
    """z = tan(√(θ y₀)) + sin(y₀²), with y₀ and θ as parameters and noise at √, tan, sin and z."""
    net = GaussianBayesNet()
    net.add_parameter("y0", [y0])
    net.add_parameter("theta", [theta])
    net.add("product", "Mul", ["y0", "theta"])
    net.add("sqrt", "Sqrt", ["product"], cov=1.0)
    net.add("tan", "Tan", ["sqrt"], cov=1.0)
    net.add("square", "Mul", ["y0", "y0"])
    net.add("sin", "Sin", ["square"], cov=1.0)
    net.add("z", "Add", ["tan", "sin"], cov=1.0)
    return net


def scalar_rounds(
    step_size: float = 0.02, rounds: int = 720, *, y0: float = 5.0, theta: float = 2.0, target: float = 1.0
) -> tuple[float, Array]:
    """The exact gradient ∂/∂y₀ of ½(target - z)², and the relative error of predictive coding's by round.

    Rounds are counted as Algorithm 1 does: each measures the errors and then moves the values, so that round t reads
    what t - 1 moves have brought.

    Returns:
        the gradient by one sweep, and errors of rounds 1, 2, ..., shape (rounds,).
    """
    net, evidence = scalar_graph(y0, theta), {"z": [[target]]}
    exact = gradient(net, evidence, ["y0"])["y0"]
    trace = gradients_by_round(net, evidence, rounds - 1, step_size=step_size, names=["y0"])
    return float(exact[0]), np.array([relative_error(found["y0"], exact) for found in trace])


def ascents(step_size: float = 0.02, rounds: int = 20) -> dict[str, Array]:
    """Free energy of the scalar graph by round, predictions live, moved as printed and as it should be.

    Returns:
        "correct", "eq. 2 as printed", "Algorithm 1 as printed", "both together" -> shape (rounds + 1,), nats.
    """
    problem = States(Evidence.read(scalar_graph(), {"z": [[1.0]]}))

    def printed(v: Array) -> Array:
        """The right side of equation 2, ε_i - Σ_c J_{c←i}ᵀ ε_c, which stands there for -∂F/∂v_i."""
        point = problem.at(v)
        heard = {name: point.hear(name, point.errors) for name in problem.names}
        return problem.join({name: point.errors[name] - heard[name] for name in problem.names}, v)

    moves: dict[str, Callable[[Array], Array]] = {
        "correct": lambda v: -problem.energy(v)[1],
        "eq. 2 as printed": printed,
        "Algorithm 1 as printed": lambda v: problem.energy(v)[1],
        "both together": lambda v: -printed(v),  # Algorithm 1's +∂F/∂v, with equation 2's ∂F/∂v
    }
    out = {}
    for label, move in moves.items():
        v, energies = problem.start(), []
        for _ in range(rounds + 1):
            energies.append(float(problem.energy(v)[0][0] + problem.constant))
            v = v + step_size * move(v)
        out[label] = np.array(energies)
    return out


def experiment(
    networks: Sequence[str] = _NETWORKS, *, step_size: float = 0.5, rounds: int = 60, samples: int = 4, seed: int = 0
) -> Finding:
    """Every parameter's relative error against torch autograd, by round of synchronous updates.

    Args:
        networks: names of :data:`gbn.equivalence.claims.networks.TORCH`.
        step_size: η of the five networks; the scalar graph has the paper's 0.02.
        samples: random inputs and targets, squared error.

    Raises:
        MissingDependencyError: torch is absent.
    """
    table: list[dict[str, Any]] = []
    series: dict[str, Any] = {}
    for name in networks:
        errors, sweep, paths = _network(name, step_size, rounds, samples, seed)
        series[name] = np.max(list(errors.values()), axis=0)
        table += [
            {
                "network": name,
                "parameter": parameter,
                "latents on its paths": "{} to {}".format(*paths[parameter]),
                "one sweep": sweep[parameter],
                "rounds to 1e-3": _first(trace, 1e-3),
                f"after {rounds} rounds": trace[-1],
            }
            for parameter, trace in errors.items()
        ]
    exact, scalar = scalar_rounds()
    passed = {f"scalar graph: round that passes {level:g}": _first(scalar, level) + 1 for level in _LEVELS}
    climbs = ascents()
    worst = max(float(row[f"after {rounds} rounds"]) for row in table)
    sweep_error = max(float(row["one sweep"]) for row in table)
    figures = {
        "largest error of one sweep": sweep_error,
        f"largest error after {rounds} rounds": worst,
        "scalar graph: gradient": exact,
        **passed,
        **{f"free energy change, {label}": float(f[-1] - f[0]) for label, f in climbs.items()},
    }
    answer = (
        f"At {len(table)} parameters of {len(networks)} networks the largest relative error to autograd is {worst:.1e} "
        f"after {rounds} rounds at step {step_size}, and {sweep_error:.1e} after a single reverse sweep. The paper's "
        f"scalar graph has gradient {exact:.4f} and passes 1e-2, 1e-3, 1e-6 in rounds "
        f"{', '.join(str(int(t)) for t in passed.values())}. Either sign slip of the paper alone climbs the free "
        "energy; the two together cancel."
    )
    return Finding(
        CLAIMS["backprop"].statement,
        answer,
        bool(worst < 1e-3 and sweep_error < 1e-10),
        figures,
        table,
        series | {"scalar": scalar},
        _draw,
    )


def _network(
    name: str, step_size: float, rounds: int, samples: int, seed: int
) -> tuple[dict[str, Array], dict[str, float], Mapping[str, tuple[int, int]]]:
    """Of each parameter: relative error by round, that of one sweep, and the latents on its paths."""
    case = torch_case(name, samples=samples, seed=seed)
    net = convert(case.module, case.x)
    # The energy is half the squared error.
    _, expected = oracles.torch_gradients(case.module, case.x, case.y, "mse", "sum")
    halves = {vertex: expected[str(net.source_of(vertex))] / 2 for vertex in net.parameters}
    evidence = {net.inputs[0]: case.x.numpy(), net.outputs[0]: case.y.numpy()}
    trace = list(gradients_by_round(net, evidence, rounds, step_size=step_size))
    errors = {n: np.array([relative_error(found[n], halves[n]) for found in trace]) for n in halves}
    swept = gradient(net, evidence)
    return errors, {n: relative_error(swept[n], halves[n]) for n in halves}, latents_on_paths(net)


def _first(errors: Array, level: float) -> float:
    """The first round at which the error is within the level; NaN where it never is."""
    within = np.flatnonzero(errors <= level)
    return float(within[0]) if len(within) else float("nan")


def _draw(finding: Finding, ax: Axes) -> None:
    from gbn.display.plots import curves

    lines = {name: np.maximum(errors, 1e-16) for name, errors in finding.series.items() if name != "scalar"}
    curves(
        lines, ax=ax, xlabel="round", ylabel="largest relative error of a parameter", yscale="log", ylim=(1e-12, 3.0)
    )
