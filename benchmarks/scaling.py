"""How the cost of a query grows with depth and with the number of samples.

A tanh network of width 32 is asked for its first hidden layer (mean and variance) given input and output, by the engine
"exact", and for a sweep of "pc".  Printed: median seconds, interleaved in one process, and the exponent of growth.
Usage: python benchmarks/scaling.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

import gbn

WIDTH, OUTPUTS = 32, 4


def network(depth: int) -> gbn.GaussianBayesNet:
    rng = np.random.default_rng(0)
    net = gbn.GaussianBayesNet()
    top = net.add_input("x", shape=(WIDTH,))
    for layer in range(depth):
        weight = rng.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)
        top = net.add_linear(f"a{layer}", {top: weight}, bias=np.zeros(WIDTH), cov=0.01)
        top = net.add(f"h{layer}", "Tanh", [top])
    net.add_linear("y", {top: rng.normal(size=(OUTPUTS, WIDTH)) / np.sqrt(WIDTH)}, cov=0.01)
    return net


def evidence(samples: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"x": rng.normal(size=(samples, WIDTH)), "y": rng.normal(size=(samples, OUTPUTS))}


def exact(net: gbn.GaussianBayesNet, data: dict[str, np.ndarray]) -> object:
    post = net.query(["a0"], data)
    return post.mean["a0"], post.var["a0"]


def sweep(net: gbn.GaussianBayesNet, data: dict[str, np.ndarray]) -> object:
    return net.query(["a0"], data, engine="pc").mean["a0"]


def medians(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(repeats + 1):
        for k, run in enumerate(runs):
            start = time.perf_counter()
            run()
            if turn:
                times[k].append(time.perf_counter() - start)
    return [statistics.median(values) for values in times]


def growth(title: str, sizes: Sequence[int], runs: Sequence[Callable[[], object]], repeats: int) -> None:
    seconds = medians(runs, repeats)
    exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    figures = "  ".join(f"{size}: {1e3 * s:.1f} ms" for size, s in zip(sizes, seconds, strict=True))
    print(f"{title:32} {figures}   exponent {exponent:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    depths, rows = (10, 20, 40, 80), (64, 128, 256, 512)
    nets = {depth: network(depth) for depth in depths}
    for name, ask in {"exact": exact, "pc": sweep}.items():
        deeper = [partial(ask, nets[depth], evidence(64)) for depth in depths]
        growth(f"{name}: depth, 64 samples", depths, deeper, repeats)
        longer = [partial(ask, nets[10], evidence(count)) for count in rows]
        growth(f"{name}: samples, depth 10", rows, longer, repeats)


if __name__ == "__main__":
    main()
