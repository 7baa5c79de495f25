"""The whole parameter gradient by local messages (forward pass and one sweep) against torch autograd.

Both compute the same loss gradient, in float32 on one thread; runs are interleaved in one process and medians compared.
Usage: python benchmarks/gradient.py [--repeats 60] [--json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import gbn


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def paper_cnn() -> nn.Sequential:
    """The convolutional network of arXiv 2006.04182, section 4.1."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.Flatten(),
        nn.Linear(1600, 200), nn.ReLU(), nn.Linear(200, 150), nn.ReLU(), nn.Linear(150, 10),
    )  # fmt: skip


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 784-300-300-10, batch 64": (lambda: mlp(784, 300, 300, 10), (64, 784)),
    "MLP 784-300-300-10, batch 256": (lambda: mlp(784, 300, 300, 10), (256, 784)),
    "20 layers of 128, batch 64": (lambda: mlp(*[128] * 20, 10), (64, 128)),
    "CNN of the paper, batch 64": (paper_cnn, (64, 3, 32, 32)),
}


def medians(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, all of them interleaved."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    result: dict[str, object] = {}
    for round_ in range(repeats + repeats // 5):
        for name, run in runs.items():
            start = time.perf_counter()
            # The result outlives its run, as it would in training: memory given back at once is slow to get again.
            result[name] = run()
            if round_ >= repeats // 5:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(
    build: Callable[[], nn.Module], shape: tuple[int, ...], repeats: int, forward: str = "__call__"
) -> dict[str, float]:
    """Both gradients, in turns; ``forward`` names the method whose graph torch goes back over."""
    torch.manual_seed(0)
    module = build().eval()
    x = torch.randn(shape)
    y = torch.randn(shape[0], 10)
    net = gbn.convert(module, x[:2])
    evidence = {net.inputs[0]: x.numpy(), net.outputs[0]: y.numpy()}
    parameters = dict(module.named_parameters())

    def backprop() -> dict[str, torch.Tensor]:
        loss = 0.5 * ((getattr(module, forward)(x) - y) ** 2).sum()
        return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))

    def local() -> dict[str, np.ndarray]:
        return gbn.gradient(net, evidence)

    expected, got = backprop(), local()
    gap = max(float(np.linalg.norm(got[n] - g.numpy()) / np.linalg.norm(g.numpy())) for n, g in expected.items())
    seconds = medians({"torch": backprop, "gbn": local}, repeats)
    return {
        "torch_ms": 1e3 * seconds["torch"],
        "gbn_ms": 1e3 * seconds["gbn"],
        "ratio": seconds["gbn"] / seconds["torch"],
        "relative_gap": gap,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {name: measure(build, shape, arguments.repeats) for name, (build, shape) in CASES.items()}
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{'network':32} {'torch ms':>9} {'gbn ms':>9} {'gbn/torch':>10} {'rel. gap':>10}")
    for name, row in results.items():
        print(f"{name:32} {row['torch_ms']:9.2f} {row['gbn_ms']:9.2f} {row['ratio']:10.2f} {row['relative_gap']:10.1e}")


if __name__ == "__main__":
    main()
