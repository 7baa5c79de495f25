"""What all minimisers of many small problems side by side have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["Minimiser", "Objective", "dot", "norm"]

Array = np.ndarray[Any, Any]
Objective = Callable[[Array, Array], tuple[Array, Array]]


class Minimiser:
    """Minimise f_n(z_n) for n = 1..N; subclasses give :meth:`step`.

    Args:
        objective: points of some problems, shape (n, dim), and their numbers, shape (n,) -> values (n,) and gradients
            (n, dim).
        start: shape (N, dim).
        tol: a problem is done when its gradient norm is at most ``tol`` times that at the start,
        unit: or ``tol`` times this, where the start is steeper.

    Attributes:
        point, value, gradient: the best so far, by problem.
        done: by problem, gradient small enough.
        stuck: by problem, no further decrease of f though the gradient is not small (a kink, or rounding).
        evaluations: calls of the objective.
        calls: how many of them each problem took part in.  Shape: (N,).
    """

    def __init__(self, objective: Objective, start: Array, tol: float, unit: float = np.inf) -> None:
        self._objective, self._tol = objective, tol
        self.point = start
        self._working = np.arange(len(start))
        self.evaluations, self.calls = 0, np.zeros(len(start), int)
        self.value, self.gradient = objective(start, self._working)
        self._count(np.ones(len(start), bool))
        self._start_norm = np.minimum(norm(self.gradient), unit)
        self.done = self._start_norm <= 0
        self.stuck = np.zeros(len(start), bool)

    def step(self, _round: int = 0) -> Mapping[str, float]:
        """One iteration for every problem that is not finished."""
        raise NotImplementedError

    @property
    def pulls(self) -> int:
        """Reverse passes made."""
        return self.evaluations

    @property
    def passes(self) -> int:
        """Forward and reverse passes made: one of each for an evaluation."""
        return 2 * self.evaluations

    @property
    def relative_gradient(self) -> Array:
        """Gradient norm over its norm at the start, or over ``unit`` if that is less.  Shape: (N,)."""
        return norm(self.gradient) / np.where(self._start_norm > 0, self._start_norm, 1)

    def _active(self) -> Array:
        """The unfinished problems; the objective is asked for few others."""
        active = ~(self.done | self.stuck)
        if 2 * active.sum() <= len(self._working):
            self._working = np.flatnonzero(active)
        return active

    def _evaluate(self, trial: Array, waiting: Array) -> tuple[Array, Array]:
        """Values and gradients of the working problems, those of the rest as they are."""
        value, gradient = self.value.copy(), self.gradient.copy()
        if not waiting.any():
            return value, gradient
        value[self._working], gradient[self._working] = self._objective(trial[self._working], self._working)
        self._count(waiting)
        return value, gradient

    def _count(self, waiting: Array) -> None:
        self.evaluations += 1
        self.calls += waiting

    def _arrive(self) -> Mapping[str, float]:
        """Say who is done, and the figures of the round."""
        self.done = self.relative_gradient <= self._tol
        self.stuck &= ~self.done
        gap = float(self.relative_gradient.max(initial=0))
        return {"gap": gap, "free_energy": float(self.value.mean()), "evaluations": self.evaluations}

    def _rounding(self) -> Array:
        """Differences of f that say nothing.  Shape: (N,)."""
        return np.asarray(10 * np.finfo(self.point.dtype).eps * (np.abs(self.value) + 1))


def dot(a: Array, b: Array) -> Array:
    """Row by row.  Shape: (N,)."""
    return np.asarray((a * b).sum(axis=1))


def norm(a: Array) -> Array:
    """Row by row.  Shape: (N,)."""
    return np.sqrt(dot(a, a))
