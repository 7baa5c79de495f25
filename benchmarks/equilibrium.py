"""The equilibrium of live prediction: L-BFGS on whitened errors against gradient rounds on the latents.

MLPs 784-128-...-128-10 with noise on the hidden affine layers, inputs and targets clamped, float64, one thread.  Both
solvers start at the forward pass.  Gradient rounds stop when the gradient of every sample is 1e-6 of that at the start;
L-BFGS, which measures it in whitened errors, is asked for 3e-7; the figure printed is measured in the latents for both.
A pass is one forward or one reverse sweep over the net.  Gradient rounds start with a step of the hidden variance, and
halve it for a sample whose free energy would rise.  They are capped in rounds and in seconds; where the cap was hit the
ratio is a lower bound, printed with ">".

Usage: python benchmarks/equilibrium.py [--samples 8] [--rounds 20000] [--seconds 15] [--json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

import gbn
from gbn.errors import ConvergenceWarning
from gbn.evidence import Evidence
from gbn.inference.live_prediction import States

DEPTHS = (3, 10, 20)
NOISES = (1.0, 0.1, 0.01)
WIDTH = 128


def mlp(depth: int, noise: float, activation: str, seed: int = 0) -> gbn.GaussianBayesNet:
    """``depth`` weight layers; output variance 1."""
    rng = np.random.default_rng(seed)
    net = gbn.GaussianBayesNet()
    before = net.add_input("x", 784)
    gain = 2.0 if activation == "Relu" else 1.0
    for layer, (inner, outer) in enumerate(itertools.pairwise([784, *[WIDTH] * (depth - 1), 10]), 1):
        weight = rng.normal(size=(outer, inner)) * (gain / inner) ** 0.5
        last = layer == depth
        net.add_linear(f"a{layer}", {before: weight}, bias=0.1 * rng.normal(size=outer), cov=1.0 if last else noise)
        if not last:
            before = net.add(f"h{layer}", activation, [f"a{layer}"])
    net.set_outputs([f"a{depth}"])
    return net


def data(depth: int, samples: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"x": rng.normal(size=(samples, 784)), f"a{depth}": np.eye(10)[rng.integers(0, 10, samples)]}


def solved(net: gbn.GaussianBayesNet, evidence: Mapping[str, Any], seconds: float, **options: Any) -> dict[str, Any]:
    """The posterior, and what it took."""
    start = time.perf_counter()

    def late(_round: int, _figures: Mapping[str, float]) -> bool:
        return time.perf_counter() - start > seconds

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        post = net.query(net.latents, evidence, engine="pc", prediction="live", callback=late, **options)
    return {"post": post, "seconds": time.perf_counter() - start, **post.diagnostics}


def state_gradients(net: gbn.GaussianBayesNet, evidence: Mapping[str, Any], post: gbn.Posterior) -> np.ndarray:
    """Gradient norm by the latents at the end, relative to that at the forward pass.  Shape: (samples,)."""
    problem = States(Evidence.read(net, evidence))
    start = problem.start()
    end = problem.join(dict(post.mean), start)
    return np.asarray(np.linalg.norm(problem.energy(end)[1], axis=1) / np.linalg.norm(problem.energy(start)[1], axis=1))


def measure(depth: int, noise: float, activation: str, arguments: argparse.Namespace) -> dict[str, Any]:
    net, evidence = mlp(depth, noise, activation), data(depth, arguments.samples)
    fast = solved(net, evidence, 1e9, tol=3e-7)
    slow = solved(
        net, evidence, arguments.seconds, tol=1e-6, solver="gradient", step_size=noise, max_rounds=arguments.rounds
    )
    distance = max(float(np.abs(fast["post"].mean[n] - v).max()) for n, v in slow["post"].mean.items())
    gap = fast["post"].free_energy - slow["post"].free_energy
    return {
        "depth": depth,
        "noise": noise,
        "activation": activation,
        "evaluations_median": fast["evaluations_median"],
        "passes": fast["passes"],
        "seconds": fast["seconds"],
        "gradient": float(state_gradients(net, evidence, fast["post"]).max()),
        "kinks": fast["kinks"],
        "descent_passes": slow["passes"],
        "descent_seconds": slow["seconds"],
        "descent_gradient": float(state_gradients(net, evidence, slow["post"]).max()),
        "descent_kinks": slow["kinks"],
        "arrived": slow["post"].converged and slow["kinks"] == 0,
        "distance": distance,
        "free_energy_above_descent": float(gap.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20_000, help="cap on gradient rounds")
    parser.add_argument("--seconds", type=float, default=15.0, help="cap on gradient rounds, for each net")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cases = itertools.product(("Tanh", "Relu"), DEPTHS, NOISES)
    if not arguments.json:
        print(
            f"{'net':>8} {'noise':>5} | {'L-BFGS':>6} passes {'s':>6} {'gradient':>8} kinks | "
            f"{'descent':>7} passes {'s':>6} {'gradient':>8} kinks | "
            f"{'passes':>7} {'time':>7} {'distance':>8} {'dF':>9}"
        )
    rows = []
    for activation, depth, noise in cases:
        row = measure(depth, noise, activation, arguments)
        rows.append(row)
        if not arguments.json:
            sign = " " if row["arrived"] else ">"
            print(
                f"{activation:>5} {depth:2} {noise:5} | {row['evaluations_median']:6.0f} {row['passes']:6} "
                f"{row['seconds']:6.2f} {row['gradient']:8.1e} {row['kinks']:5} | {'':7} {row['descent_passes']:6} "
                f"{row['descent_seconds']:6.2f} {row['descent_gradient']:8.1e} {row['descent_kinks']:5} | "
                f"{sign}{row['descent_passes'] / row['passes']:5.0f}x "
                f"{sign}{row['descent_seconds'] / row['seconds']:5.0f}x "
                f"{row['distance']:8.1e} {row['free_energy_above_descent']:9.1e}",
                flush=True,
            )
    if arguments.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
