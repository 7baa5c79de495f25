"""Small networks of every common kind, and data for them: what the experiments run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from gbn.errors import MissingDependencyError, UnknownNameError
from gbn.net import GaussianBayesNet

__all__ = ["TORCH", "Case", "tanh_classifier", "tanh_mlp", "torch_case", "torch_mlp"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """A torch module in float64 and evaluation mode, with inputs and targets of random numbers."""

    module: Any
    x: Any
    y: Any


def tanh_mlp(
    sizes: Sequence[int], rng: np.random.Generator, *, noise: float = 1.0, output_noise: float = 1.0
) -> GaussianBayesNet:
    """x -> a1 -> h1 -> ... -> y: affine layers with noise, tanh between them; weights of variance 1 / inputs."""
    net = GaussianBayesNet()
    before = net.add_input("x", sizes[0])
    for depth, (inner, outer) in enumerate(pairwise(sizes), 1):
        last = depth == len(sizes) - 1
        weight, bias = rng.normal(size=(outer, inner)) / np.sqrt(inner), 0.1 * rng.normal(size=outer)
        name = "y" if last else f"a{depth}"
        net.add_linear(name, {before: weight}, bias=bias, cov=output_noise if last else noise)
        if not last:
            before = net.add(f"h{depth}", "Tanh", [name])
    return net


def tanh_classifier(sizes: Sequence[int], rng: np.random.Generator, *, noise: float = 0.05) -> GaussianBayesNet:
    """x -> a1 -> h1 -> ... -> y -> label: :func:`tanh_mlp` with a categorical label in place of noise at the end."""
    net = tanh_mlp(sizes, rng, noise=noise)
    net.set_noise({"y": None})
    net.add_likelihood("label", "categorical", "y")
    return net


def torch_case(name: str, *, samples: int = 4, seed: int = 0) -> Case:
    """One of :data:`TORCH`.

    Raises:
        MissingDependencyError: torch is absent.
        UnknownNameError: with near matches.
    """
    if name not in TORCH:
        raise UnknownNameError("network", name, TORCH)
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("torch", "torch", "an experiment on networks of PyTorch") from error
    build, shape = TORCH[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build().double().eval()
        x, y = torch.randn(samples, *shape, dtype=torch.float64), torch.randn(samples, 3, dtype=torch.float64)
    return Case(module, x, y)


def torch_mlp(sizes: Sequence[int]) -> Any:
    """Affine layers with tanh between them."""
    from torch import nn

    layers = [[nn.Linear(inner, outer), nn.Tanh()] for inner, outer in pairwise(sizes)]
    return nn.Sequential(*[layer for pair in layers for layer in pair][:-1])


def _cnn() -> Any:
    from torch import nn

    convolutions = [nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*convolutions, nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def _last_state(make: Callable[[], Any]) -> Any:
    """A recurrent layer and an affine one that reads its last state."""
    from torch import nn

    class LastState(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = make(), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            last = self.cell(x)[1]
            return self.head((last[0] if isinstance(last, tuple) else last)[-1])

    return LastState()


def _rnn() -> Any:
    from torch import nn

    return _last_state(lambda: nn.RNN(4, 8, batch_first=True))


def _lstm() -> Any:
    from torch import nn

    return _last_state(lambda: nn.LSTM(4, 8, batch_first=True))


def _transformer() -> Any:
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.head(self.block(self.embed(x)).mean(1))

    return Encoder()


# Name -> what builds it, and the shape of one sample.
TORCH: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "mlp": (partial(torch_mlp, (8, 8, 8, 8, 3)), (8,)),
    "wide mlp": (partial(torch_mlp, (128, 128, 128, 128, 3)), (128,)),
    "cnn": (_cnn, (1, 8, 8)),
    "rnn": (_rnn, (6, 4)),
    "lstm": (_lstm, (4, 4)),
    "transformer": (_transformer, (5, 4)),
}
