"""Losses by the names and reductions of torch.nn.functional, as likelihoods.

The scale of a loss is no precision: energies are per sample and summed, with unit output variance, and a report
multiplies the messages::

    ∂loss/∂θ = -λ_θ · multiplier,       multiplier = scale ("sum"),  scale / number of terms ("mean")
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbn import likelihoods
from gbn.errors import EvidenceError, InferenceError, ShapeError, UnknownNameError

__all__ = ["LOSSES", "REDUCTIONS", "Loss", "check_reduction", "get"]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class Loss:
    """One loss.

    name: short name.
    function: its name in torch.nn.functional.
    likelihood: of the output; "gaussian" has unit variance, so its energy is ½‖y - ŷ‖².
    scale: summed loss per nat of energy.
    by_class: whether the classes on axis 1 of the output share one term.
    of_probabilities: whether the model gives probabilities in the place of logits, with the classes on its last axis.
    """

    name: str
    function: str
    likelihood: str
    scale: float
    by_class: bool = False
    of_probabilities: bool = False

    def logits(self, p: Any) -> Any:
        """Logits, with the classes on axis 1, whose probabilities a tensor of torch holds."""
        return p.log().movedim(-1, 1) if self.by_class else p.log() - (-p).log1p()

    def multiplier(self, reduction: str, shape: Shape) -> float:
        """What turns the energy of an output of this shape, (samples, *event), into the loss.

        Raises:
            InferenceError: a reduction that is neither "mean" nor "sum".
        """
        check_reduction(reduction)
        terms = math.prod(shape) // (shape[1] if self.by_class else 1)
        return self.scale if reduction == "sum" else self.scale / terms

    def energy(self, output: Array, target: Array) -> float:
        """Energy of all samples, in nats, without the constant of the Gaussian.

        output shape: (samples, *event); target: as :meth:`target` returns it.
        """
        if self.likelihood == "gaussian":
            return float(0.5 * np.square(target - output).sum())
        leaf = likelihoods.get(self.likelihood)
        encoded = leaf.encode(target, output.shape[1:], "y", output.dtype)
        return -float(leaf.log_prob(output, encoded).sum())

    def target(self, y: Any, shape: Shape, dtype: Any) -> Array:
        """Targets in the one form that the net and torch both take.

        Args:
            y: an array like the output; for a loss by class also class numbers, shape (samples, *event[1:]).
                One number a sample may come with or without its axis.
            shape: of the output, (samples, *event).
            dtype: of the output.

        Raises:
            ShapeError, EvidenceError: another shape; NaN; classes that are no whole numbers; no numbers at all.
        """
        y = np.asarray(y)
        if y.dtype.kind not in "biuf":
            raise EvidenceError(f"y: got entries of type {y.dtype}, expected numbers; classes are counted from 0")
        numbers = (shape[0], *shape[2:])
        if self.by_class and y.shape == numbers:
            return _whole(y)
        if y.shape != shape and y.size == shape[0] == len(y) and math.prod(shape[1:]) == 1 and y.ndim <= 2:
            y = y.reshape(shape)
        if y.shape != shape:
            wanted = f"class numbers {numbers} or probabilities {shape}" if self.by_class else f"{shape}, as the output"
            hint = "" if self.by_class or y.shape != numbers else "; class numbers are for loss 'cross_entropy'"
            raise ShapeError(f"y: got shape {y.shape}, expected {wanted} (loss {self.name!r}){hint}")
        y = y.astype(dtype)
        if not np.isfinite(y).all():
            raise EvidenceError(
                "y: got NaN or infinity; backprop knows no missing targets, so compare needs complete ones"
            )
        return y


def _whole(y: Array) -> Array:
    numbers = y.astype(np.float64)
    if not (numbers == np.floor(numbers)).all():
        raise EvidenceError(
            f"y: got class numbers such as {numbers[numbers != np.floor(numbers)][0]:g}, expected integers"
        )
    return y.astype(np.int64)


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("mse", "mse_loss", "gaussian", 2.0),
        Loss("cross_entropy", "cross_entropy", "categorical", 1.0, by_class=True),
        Loss("bce", "binary_cross_entropy_with_logits", "bernoulli", 1.0),
    )
}


def get(name: str) -> Loss:
    """The loss of that name, short or as torch spells it.

    Raises:
        UnknownNameError: with near matches.
    """
    known = LOSSES | {loss.function: loss for loss in LOSSES.values()}
    if name not in known:
        raise UnknownNameError("loss", name, known, f"the losses are {', '.join(map(repr, LOSSES))}")
    return known[name]


def check_reduction(reduction: str) -> None:
    """Raises InferenceError for a reduction that is neither "mean" nor "sum"."""
    if reduction not in REDUCTIONS:
        raise InferenceError(f"reduction: got {reduction!r}, expected 'mean' or 'sum'")
