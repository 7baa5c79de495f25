"""Optimisers of gradient learning: SGD, Adam and AdamW, with the semantics of torch.optim.

An optimiser is a few numbers; what it remembers of a parameter is a mapping of arrays, which a checkpoint keeps bit for
bit.  One is added as a frozen dataclass with ``start`` and ``move``, and a line in :data:`OPTIMIZERS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gbn.errors import LearningError, UnknownNameError

__all__ = ["OPTIMIZERS", "SGD", "Adam", "AdamW", "Optimizer", "read_optimizer"]

Array = np.ndarray[Any, Any]
Slots = Mapping[str, Array]


@runtime_checkable
class Optimizer(Protocol):
    """How a parameter moves against a gradient.

    weight_decay: pulls values towards zero; learning turns it off for variances.
    """

    weight_decay: float

    def start(self, value: Array) -> Slots:
        """What is remembered of a parameter before its first step."""

    def move(self, value: Array, gradient: Array, slots: Slots, step: int) -> tuple[Array, Slots]:
        """The parameter after a step, and what is remembered then; nothing is changed in place.

        Args:
            step: which step this is, from 1.
        """


def _check(optimizer: Any, least: Mapping[str, float], most: Mapping[str, float]) -> None:
    """Raise LearningError at numbers out of range, all of them in one message."""
    wrong = []
    for name, bound in least.items():
        value, top = getattr(optimizer, name), most.get(name, math.inf)
        if not (bound <= value < top):
            wrong.append(
                f"{name}: got {value}, expected a number of at least {bound:g}"
                + (f", below {top:g}" if name in most else "")
            )
    if wrong:
        raise LearningError(f"{type(optimizer).__name__}: " + "; ".join(wrong))


@dataclass(frozen=True)
class SGD:
    """Gradient descent: with g the gradient plus ``weight_decay`` · θ,

        b ← momentum · b + g,    θ ← θ - learning_rate · b        (nesterov: · (g + momentum · b))

    Raises:
        LearningError: numbers out of range.
    """

    learning_rate: float = 1e-2
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self, {"learning_rate": 0, "momentum": 0, "weight_decay": 0}, {"momentum": 1})
        if self.nesterov and not self.momentum:
            raise LearningError("SGD: nesterov needs momentum; got momentum=0, expected a number above it, such as 0.9")

    def start(self, value: Array) -> Slots:
        return {"momentum": np.zeros_like(value)} if self.momentum else {}

    def move(self, value: Array, gradient: Array, slots: Slots, step: int) -> tuple[Array, Slots]:
        if self.weight_decay:
            gradient = gradient + self.weight_decay * value
        if not self.momentum:
            return value - self.learning_rate * gradient, slots
        kept = self.momentum * slots["momentum"] + gradient
        direction = gradient + self.momentum * kept if self.nesterov else kept
        return value - self.learning_rate * direction, {"momentum": kept}


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba, arXiv 1412.6980): with g the gradient plus ``weight_decay`` · θ,

        m ← β₁ m + (1 - β₁) g,    v ← β₂ v + (1 - β₂) g²,
        θ ← θ - learning_rate · m / (1 - β₁ᵗ) / (√(v / (1 - β₂ᵗ)) + eps)

    Raises:
        LearningError: numbers out of range.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        least = dict.fromkeys(("learning_rate", "beta1", "beta2", "eps", "weight_decay"), 0.0)
        _check(self, least, {"beta1": 1, "beta2": 1})

    def start(self, value: Array) -> Slots:
        return {"first": np.zeros_like(value), "second": np.zeros_like(value)}

    def move(self, value: Array, gradient: Array, slots: Slots, step: int) -> tuple[Array, Slots]:
        if self.weight_decay:
            gradient = gradient + self.weight_decay * value
        first = self.beta1 * slots["first"] + (1 - self.beta1) * gradient
        second = self.beta2 * slots["second"] + (1 - self.beta2) * gradient * gradient
        spread = np.sqrt(second) / math.sqrt(1 - self.beta2**step) + self.eps
        return value - self.learning_rate / (1 - self.beta1**step) * first / spread, {"first": first, "second": second}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decay of the weights themselves, θ ← (1 - learning_rate · weight_decay) θ before each step, and none
    in the gradient (Loshchilov & Hutter, arXiv 1711.05101).
    """

    weight_decay: float = 1e-2

    def move(self, value: Array, gradient: Array, slots: Slots, step: int) -> tuple[Array, Slots]:
        plain = replace(self, weight_decay=0.0)
        return Adam.move(plain, value * (1 - self.learning_rate * self.weight_decay), gradient, slots, step)


OPTIMIZERS: dict[str, type[Any]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def read_optimizer(given: str | Optimizer, numbers: Mapping[str, float | None]) -> Optimizer:
    """An optimiser by its name and numbers, or one that is made already.

    Args:
        numbers: of the optimiser; None: its default.

    Raises:
        UnknownNameError: no such optimiser.
        LearningError: numbers that it does not have, or beside one that is made already.
    """
    chosen = {name: value for name, value in numbers.items() if value is not None}
    if not isinstance(given, str):
        if chosen:
            raise LearningError(f"{' and '.join(chosen)}: belong into the optimizer that is given, {given!r}")
        return given
    if given not in OPTIMIZERS:
        raise UnknownNameError("optimizer", given, OPTIMIZERS)
    kind = OPTIMIZERS[given]
    known = [f.name for f in fields(kind)]
    foreign = [name for name in chosen if name not in known]
    if foreign:
        raise LearningError(f"optimizer {given!r} has no {' and '.join(foreign)}; it has {', '.join(known)}")
    made: Optimizer = kind(**chosen)
    return made
