"""Learning in lockstep against the pace of the environment: digits of 8x8, every vertex and weight at every tick.

Printed for each period: held-out accuracy of a forward pass of what was learned, of what the net says while a sample
stands, and the mean cosine of what weights hear with the gradient, for labels that come with their image and with the
answer; batches of as many rows and steps beside them.  Then the price of a tick beside that of a gradient by one sweep,
one after the other in one process, and how online EM that forgets follows a drifting regression.

Usage: python benchmarks/stream.py [--periods 1 2 4 6 8 12 16 24] [--samples 600] [--rows 64] [--hidden 32] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import time

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

import gbn  # noqa: E402
from gbn.equivalence.claims import lockstep  # noqa: E402
from gbn.equivalence.claims.networks import tanh_classifier  # noqa: E402
from gbn.learning.online import Online  # noqa: E402
from gbn.learning.stream import Stream  # noqa: E402


def paces(arguments: argparse.Namespace) -> None:
    sizes = (64, *arguments.hidden, 10)
    found = lockstep.experiment(
        arguments.periods, sizes=sizes, samples=arguments.samples, rows=arguments.rows, seed=arguments.seed
    )
    print(f"layers {sizes}; the net needs a period of {found.figures['period that the net needs']:.0f}")
    print(f"in batches {found.figures['in batches']:.3f}")
    print(f"{'period':>6}  {'label':16} {'learned':>8} {'in time':>8} {'alignment':>10}")
    for row in found.table:
        print(
            f"{row['period']:6}  {row['label']:16} {row['learned']:8.3f} {row['in time']:8.3f} {row['alignment']:10.3f}"
        )
    print(found.answer)


def price(arguments: argparse.Namespace, ticks: int = 400) -> None:
    rng = np.random.default_rng(arguments.seed)
    net = tanh_classifier((64, *arguments.hidden, 10), rng)
    sample = {"x": rng.normal(size=(arguments.rows, 64)), "label": rng.integers(0, 10, arguments.rows)}
    stream = Stream(net, optimizer="sgd", learning_rate=0.01)
    stream.tick(sample)
    start = time.perf_counter()
    for _ in range(ticks):
        stream.tick()
    middle = time.perf_counter()
    for _ in range(ticks):
        gbn.gradient(net, sample)
    end = time.perf_counter()
    print(f"a tick takes {(middle - start) / (end - middle):.2f} times a gradient by forward pass and sweep")


def drift(arguments: argparse.Namespace, blocks: int = 400) -> None:
    rng = np.random.default_rng(arguments.seed)
    weight = rng.normal(size=(2, 4))
    net = gbn.GaussianBayesNet()
    net.add_input("x", 4)
    net.add_linear("y", {"x": weight}, bias=np.zeros(2), cov=1.0)
    lives = (10, 30, 100, 300, None)
    learners = [Online(net, half_life=life) if life else Online(net, forgetting=1.0) for life in lives]
    errors = np.zeros((blocks, len(lives)))
    for block in range(blocks):
        weight = weight + 0.05 * rng.normal(size=weight.shape)
        x = rng.normal(size=(5, 4))
        y = x @ weight.T + 0.2 * rng.normal(size=(5, 2))
        for k, learner in enumerate(learners):
            learner.update({"x": x, "y": y})
            errors[block, k] = np.abs(learner.net["y.x.weight"].value - weight).mean()
    print("drifting regression, mean error of a weight by half-life in rows:")
    print("  " + ", ".join(f"{life or 'none'}: {e:.3f}" for life, e in zip(lives, errors[100:].mean(0), strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--periods", type=int, nargs="+", default=[1, 2, 4, 6, 8, 12, 16, 24])
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--hidden", type=int, nargs="+", default=[32])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    paces(arguments)
    price(arguments)
    drift(arguments)


if __name__ == "__main__":
    main()
