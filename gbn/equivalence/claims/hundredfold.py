"""Where "100 times the cost of backprop" comes from: the tail of a binomial at a small step.

Synchronous rounds at step η bring what lies k latents away with the weight Pr[Binomial(t, η) ≥ k].  Four layers at
η = 0.1 and a tolerance of 1e-3 come to about a hundred rounds; at η = 1 to four; a reverse sweep takes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.conversion import convert
from gbn.equivalence.claims import CLAIMS, Finding
from gbn.equivalence.claims.networks import tanh_mlp, torch_case
from gbn.equivalence.compare import compare, relative_error
from gbn.equivalence.rounds import gradients_by_round, predicted_errors, rounds_needed
from gbn.inference import gradient

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["experiment"]

Array = np.ndarray[Any, Any]


def experiment(
    depths: Sequence[int] = (2, 4, 8),
    step_sizes: Sequence[float] = (0.1, 0.3, 1.0),
    *,
    tol: float = 1e-3,
    width: int = 16,
    samples: int = 8,
    repeats: int = 5,
    seed: int = 0,
) -> Finding:
    """Rounds to a gradient within ``tol``, measured and computed from graph and step size; and their wall-clock price.

    Args:
        depths: weight layers of tanh networks of that ``width``.
        step_sizes: of synchronous rounds.
        repeats: timed repetitions for the ratios to backprop; 0 leaves these out, and with them the need for torch.

    Raises:
        MissingDependencyError: torch is absent, and ``repeats`` is not 0.
    """
    rng = np.random.default_rng(seed)
    table: list[dict[str, Any]] = []
    series: dict[str, tuple[Array, Array]] = {}
    worst = 0.0
    for depth in depths:
        net = tanh_mlp([width] * depth + [4], rng)
        evidence = {"x": rng.normal(size=(samples, width)), "y": rng.normal(size=(samples, 4))}
        exact = gradient(net, evidence)
        for eta in step_sizes:
            needed = rounds_needed(net, eta, tol)
            law = predicted_errors(net, evidence, eta, needed)
            trace = list(gradients_by_round(net, evidence, needed, step_size=eta))
            measured = {n: np.array([relative_error(found[n], exact[n]) for found in trace]) for n in law}
            worst = max(worst, *(float(np.abs(measured[n] - law[n]).max()) for n in law))
            largest = np.max(list(measured.values()), axis=0)
            series[f"{depth} layers, η = {eta:g}"] = largest, np.max(list(law.values()), axis=0)
            counted = int(np.argmax(largest <= tol)) if (largest <= tol).any() else -1
            table.append(
                {
                    "layers": depth,
                    "step size": eta,
                    "rounds, computed": needed,
                    "rounds, measured": counted,
                    "in one sweep": 1,
                }
            )
    agree = all(row["rounds, computed"] == row["rounds, measured"] for row in table)
    figures: dict[str, float] = {"largest difference, measured from law": worst}
    figures |= {f"rounds, {row['layers']} layers, step {row['step size']:g}": row["rounds, measured"] for row in table}
    answer = (
        f"It depends on the step: rounds to a relative error of {tol:g} are those of the binomial law"
        f"{'' if agree else ', with exceptions'}, {_range(table, min(step_sizes))} at step {min(step_sizes):g} and "
        f"{_range(table, max(step_sizes))} at step {max(step_sizes):g} for {depths[0]} to {depths[-1]} layers. "
        "A reverse sweep gives the same gradient in one round"
    )
    if repeats:
        slow, fast, rounds = _times(tol, repeats, seed)
        figures |= {
            "rounds timed": rounds,
            "time of the rounds / backprop": slow,
            "time of one sweep / backprop": fast,
            "time of the rounds / time of one sweep": slow / fast,
        }
        answer += f", in {fast:.1f} times the time of torch's backprop; {rounds} rounds take {slow:.0f} times"
    return Finding(CLAIMS["hundredfold"].statement, answer + ".", None, figures, table, series, _draw)


def _range(table: Sequence[dict[str, Any]], eta: float) -> str:
    rounds = [row["rounds, measured"] for row in table if row["step size"] == eta]
    return f"{min(rounds)} to {max(rounds)}"


def _times(tol: float, repeats: int, seed: int) -> tuple[float, float, int]:
    """Wall-clock time over that of torch's backprop, of synchronous rounds at step 0.1 and of one sweep; the rounds."""
    case = torch_case("wide mlp", samples=64, seed=seed)
    net = convert(case.module, case.x)
    rounds = rounds_needed(net, 0.1, tol)
    slow = compare(
        case.module,
        case.x,
        case.y,
        net=net,
        repeats=repeats,
        tol=tol,
        schedule="parallel",
        step_size=0.1,
        max_rounds=rounds,
    )
    fast = compare(case.module, case.x, case.y, net=net, repeats=repeats)
    return float(slow.time_ratio or np.nan), float(fast.time_ratio or np.nan), rounds


def _draw(finding: Finding, ax: Axes) -> None:
    """Lines: the law; dots: what was measured; one colour a depth, one style a step size."""
    depths, etas = (list(dict.fromkeys(row[key] for row in finding.table)) for key in ("layers", "step size"))
    for (label, (measured, law)), row in zip(finding.series.items(), finding.table, strict=True):
        colour = f"C{depths.index(row['layers'])}"
        style = ("-", "--", ":", "-.")[etas.index(row["step size"]) % 4]
        rounds, shown, met = np.arange(len(law)), law > 1e-15, measured > 1e-15
        every = max(1, len(law) // 15)
        ax.plot(rounds[shown], law[shown], style, color=colour, label=label, linewidth=1)
        ax.plot(rounds[met][::every], measured[met][::every], "o", color=colour, markersize=3)
    ax.set(xlabel="round (line: binomial law, dots: measured)", ylabel="relative error, worst weights", yscale="log")
    ax.legend(fontsize="small")
