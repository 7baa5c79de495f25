"""Conversion of PyTorch models: how long it takes, how it grows, and what the gradient of the result costs.

The first table has the time of ``gbn.convert``, that of torch.export alone, and microseconds for each vertex, where
the length of the unrolled networks shows how conversion grows.  The second compares the parameter gradient by local
messages with torch's backward pass over the same unrolled graph, in float32 on one thread, interleaved.
Usage: python benchmarks/conversion.py [--repeats 10] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from gradient import measure
from torch import nn
from torch.nn import functional as F

import gbn

STEPS, SAMPLES, LETTERS, HIDDEN = 200, 16, 16, 64


class BasicBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            self.skip = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.skip(x))


def resnet18(width: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inner = width
    for k in range(4):
        outer = width * 2**k
        layers += [BasicBlock(inner, outer, 1 if k == 0 else 2), BasicBlock(outer, outer, 1)]
        inner = outer
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, 10))


class Recurrent(nn.Module):
    """An LSTM, and a class from its last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(LETTERS, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])

    def unrolled(self, x: torch.Tensor) -> torch.Tensor:
        """The same, step by step, as the net has it."""
        w = self.lstm
        h = c = x.new_zeros(len(x), HIDDEN)
        for row in x.unbind(1):
            of_input = F.linear(row, w.weight_ih_l0, w.bias_ih_l0)
            gates = of_input + F.linear(h, w.weight_hh_l0, w.bias_hh_l0)
            i, f, g, o = gates.chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-18 of width 16, 32 x 32": (lambda: resnet18(16), (3, 32, 32)),
    "ResNet-18 of width 64, 32 x 32": (lambda: resnet18(64), (3, 32, 32)),
    "Transformer encoder, 4 layers": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 4), (16, 32),
    ),
} | {f"LSTM of {steps} steps": (Recurrent, (steps, LETTERS)) for steps in (50, 100, 200, 400)}  # fmt: skip


def median(run: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def conversion(build: Callable[[], nn.Module], event: tuple[int, ...], repeats: int) -> dict[str, float]:
    torch.manual_seed(0)
    module, x = build().eval(), torch.randn(3, *event)
    shapes = ({0: torch.export.Dim.AUTO},)
    net = gbn.convert(module, x)
    seconds = median(lambda: gbn.convert(module, x), repeats)
    # Torch itself traces an LSTM step by step, for minutes where the sequence is long.
    steps = event[0] if isinstance(module, Recurrent) else 0
    traced = float("nan")
    if steps <= 50:
        traced = median(lambda: torch.export.export(module, (x,), dynamic_shapes=shapes), 1)
    return {
        "vertices": len(net),
        "seconds": seconds,
        "export_seconds": traced,
        "ratio": seconds / traced,
        "us_per_vertex": 1e6 * seconds / len(net),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch's, of its own export
    found = {name: conversion(build, event, max(1, arguments.repeats // 4)) for name, (build, event) in MODELS.items()}
    step = measure(Recurrent, (SAMPLES, STEPS, LETTERS), arguments.repeats, "unrolled")
    if arguments.json:
        print(json.dumps({"conversion": found, "gradient": step}, indent=2))
        return
    print(f"{'network':32} {'vertices':>9} {'convert s':>10} {'export s':>9} {'ratio':>6} {'us/vertex':>10}")
    for name, row in found.items():
        print(
            f"{name:32} {row['vertices']:9} {row['seconds']:10.2f} {row['export_seconds']:9.2f} {row['ratio']:6.2f} "
            f"{row['us_per_vertex']:10.0f}"
        )
    print(f"\n{f'gradient, LSTM of {STEPS} steps':32} {'torch ms':>9} {'gbn ms':>9} {'gbn/torch':>10} {'rel. gap':>10}")
    print(f"{f'batch {SAMPLES}, {HIDDEN} hidden':32} {step['torch_ms']:9.1f} {step['gbn_ms']:9.1f} "
          f"{step['ratio']:10.2f} {step['relative_gap']:10.1e}")  # fmt: skip


if __name__ == "__main__":
    main()
