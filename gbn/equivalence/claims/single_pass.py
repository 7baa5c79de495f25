"""At step 1 the order of updates is all there is: how many passes each order takes.

A message waits at a vertex that was visited before its child had spoken.  In reverse topological order none ever waits;
in forward order each waits at every vertex; in synchronous rounds at every latent.  In a random order it goes on
as long as the order happens to fall: e - 1 = 1.72 vertices a round on a long chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims import CLAIMS, Finding
from gbn.equivalence.claims.networks import tanh_mlp
from gbn.equivalence.compare import relative_error
from gbn.evidence import Evidence
from gbn.inference import gradient
from gbn.inference.fixed_prediction import SCHEDULES, Channel, Rounds
from gbn.linearize import Linearization

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ORDERS", "arrival", "experiment"]

# Name of the order -> schedule of the engine.
ORDERS = {"reverse topological": "sweep", "parallel": "parallel", "random": "random", "forward": "forward"}


def arrival(
    evidence: Evidence,
    schedule: str,
    *,
    step_size: float = 1.0,
    tol: float = 1e-12,
    max_rounds: int = 1000,
    rng: np.random.Generator | int | None = None,
) -> tuple[int, int]:
    """Rounds until every parameter's gradient is backprop's to ``tol``, and messages sent by then; -1 where never.

    Raises:
        UnknownNameError, InferenceError: as :func:`gbn.inference.gradient`.
    """
    net = evidence.net
    exact = gradient(net, evidence, net.parameters)
    channel = Channel()
    state = Rounds(Linearization.forward(evidence), SCHEDULES[schedule], step_size, channel, np.random.default_rng(rng))
    for number in range(max_rounds + 1):
        if number:
            state.step(number)
        found = state.messages(net.parameters)
        if all(relative_error(-found.get(n, np.zeros_like(g)), g) <= tol for n, g in exact.items()):
            return number, channel.sent
    return -1, channel.sent


def experiment(
    depths: Sequence[int] = (2, 4, 8, 16), *, width: int = 6, samples: int = 2, draws: int = 20, seed: int = 0
) -> Finding:
    """Passes at step 1 until the gradient is backprop's, for four orders of visiting the vertices.

    Args:
        depths: weight layers of tanh networks of that ``width``.
        draws: orders averaged over in the random schedule, each round drawing a new one.
    """
    rng = np.random.default_rng(seed)
    table: list[dict[str, Any]] = []
    series: dict[str, list[float]] = {order: [] for order in ORDERS}
    for depth in depths:
        net = tanh_mlp([width] * depth + [3], rng)
        evidence = Evidence.read(net, {"x": rng.normal(size=(samples, width)), "y": rng.normal(size=(samples, 3))})
        for order, schedule in ORDERS.items():
            found = [arrival(evidence, schedule, rng=rng) for _ in range(draws if schedule == "random" else 1)]
            rounds, messages = np.mean(found, axis=0)
            series[order].append(float(rounds))
            table.append({"layers": depth, "order": order, "passes": float(rounds), "messages": float(messages)})
    deepest = depths[-1]
    last = {order: values[-1] for order, values in series.items()}
    # Between the output and the first latent lie the latents and the nonlinearities: two vertices a layer.
    vertices = 2 * (deepest - 1)
    figures = {f"passes, {order}, {deepest} layers": passes for order, passes in last.items()}
    figures["vertices a pass in random order"] = vertices / last["random"]
    answer = (
        f"One pass in reverse topological order, at every depth. On {deepest} layers ({vertices} vertices between the "
        f"output and the first layer) synchronous rounds take {last['parallel']:.0f}, one a latent; a random order "
        f"{last['random']:.1f} on average, {vertices / last['random']:.2f} vertices a pass; the forward order "
        f"{last['forward']:.0f}, one a vertex."
    )
    single = all(count == 1 for count in series["reverse topological"])
    passes = {order: np.array(values) for order, values in series.items()}
    return Finding(
        CLAIMS["single_pass"].statement, answer, single, figures, table, {"depths": np.array(depths), **passes}, _draw
    )


def _draw(finding: Finding, ax: Axes) -> None:
    from gbn.display.plots import curves

    lines = {order: finding.series[order] for order in ORDERS}
    curves(lines, x=finding.series["depths"], ax=ax, xlabel="weight layers", ylabel="passes to backprop's gradient")
    for line in ax.lines:
        line.set_marker("o")
