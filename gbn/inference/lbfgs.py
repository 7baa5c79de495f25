"""Limited-memory BFGS for many small problems side by side, each with its own state, step and stopping.

The two-loop recursion is algorithm 7.4 of Nocedal & Wright, *Numerical Optimization* (2nd ed.), the line search the
bracketing one of Lewis & Overton, *Nonsmooth optimization via quasi-Newton methods* (2013), algorithm 2.6, which also
serves where the objective has kinks.  Every scalar of theirs is a vector over problems here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from gbn.inference.minimiser import Minimiser, Objective, dot, norm

__all__ = ["LBFGS"]

Array = np.ndarray[Any, Any]

_MEMORY = 10
_PATIENCE = 10
_DECREASE = 1e-4
_CURVATURE = 0.9
_TRIALS = 20


class LBFGS(Minimiser):
    """The minimiser; see the base class.

    Args:
        resolution: differences of f below this do not count as progress; a problem is stuck when it makes none over ten
            iterations.
    """

    def __init__(
        self, objective: Objective, start: Array, tol: float, unit: float = np.inf, resolution: float = 0.0
    ) -> None:
        super().__init__(objective, start, tol, unit)
        self._resolution = resolution
        self._least_norm, self._mark, self._idle_rounds = norm(self.gradient), self.value, np.zeros(len(start), int)
        self._pairs: deque[tuple[Array, Array, Array]] = deque(maxlen=_MEMORY)

    def step(self, _round: int = 0) -> Mapping[str, float]:
        """One iteration for every problem that is not finished."""
        active = self._active()
        direction = -self._inverse_hessian(self.gradient)
        slope = dot(direction, self.gradient)
        uphill = slope >= 0
        direction = np.where(uphill[:, None], -self.gradient, direction)
        slope = np.where(uphill, -dot(self.gradient, self.gradient), slope)
        point, value, gradient, moved = self._search(direction, slope, active)
        self._remember(point - self.point, gradient - self.gradient)
        self.stuck |= active & (~moved | self._is_idle(value, gradient))
        self.point, self.value, self.gradient = point, value, gradient
        return self._arrive()

    def _search(self, direction: Array, slope: Array, active: Array) -> tuple[Array, Array, Array, Array]:
        """Weak Wolfe steps: bracket, then halve, until f has decreased enough and is less steep.

        Of steps that are only long enough, or only short enough, the last with enough decrease is taken.
        """
        step = np.ones(len(slope), self.point.dtype)
        if not self._pairs:
            step = np.minimum(step, 1 / np.maximum(norm(self.gradient), np.finfo(step.dtype).tiny))
        low, high = np.zeros_like(step), np.full_like(step, np.inf)
        point, value, gradient = self.point.copy(), self.value.copy(), self.gradient.copy()
        waiting, moved, rounding = active.copy(), np.zeros_like(active), self._rounding()
        for _ in range(_TRIALS):
            if not waiting.any():
                break
            trial = np.where(waiting[:, None], self.point + step[:, None] * direction, point)
            f, g = self._evaluate(trial, waiting)
            # Where f no longer resolves the decrease, a smaller gradient decides.
            close = (np.abs(f - self.value) <= rounding) & (norm(g) < norm(self.gradient))
            enough = np.isfinite(f) & (f <= self.value + _DECREASE * step * slope)
            taken = waiting & (enough | close)
            point[taken], value[taken], gradient[taken] = trial[taken], f[taken], g[taken]
            moved |= taken
            waiting &= ~(taken & (close | (dot(g, direction) >= _CURVATURE * slope)))
            low, high = np.where(enough, step, low), np.where(enough, high, step)
            step = np.where(np.isinf(high), 2 * step, self._between(low, high, step, f, slope))
        return point, value, gradient, moved

    def _between(self, low: Array, high: Array, step: Array, f: Array, slope: Array) -> Array:
        """A step inside the bracket: the minimum of a parabola while nothing has been accepted, else the middle."""
        with np.errstate(all="ignore"):
            parabola = -slope * step**2 / (2 * (f - self.value - step * slope))
            middle = (low + high) / 2
            inside = np.isfinite(parabola) & (low == 0)
            return np.where(inside, np.clip(parabola, 0.1 * high, 0.5 * high), middle)

    def _is_idle(self, value: Array, gradient: Array) -> Array:
        """Problems that for some rounds have neither lowered f beyond rounding nor come to a smaller gradient."""
        length = norm(gradient)
        smaller = length < 0.9 * self._least_norm
        progress = smaller | (self._mark - value > np.maximum(self._rounding(), self._resolution))
        self._least_norm = np.where(smaller, length, self._least_norm)
        self._mark = np.where(progress, value, self._mark)
        self._idle_rounds = np.where(progress, 0, self._idle_rounds + 1)
        return self._idle_rounds >= _PATIENCE

    def _remember(self, moved: Array, turned: Array) -> None:
        """Keep a pair where it has positive curvature; elsewhere a pair of zeros, which changes nothing."""
        curvature = dot(moved, turned)
        good = curvature > 1e-12 * norm(moved) * norm(turned)
        inverse = np.where(good, 1 / np.where(good, curvature, 1), 0)
        keep = good[:, None]
        self._pairs.append((np.where(keep, moved, 0), np.where(keep, turned, 0), inverse))

    def _inverse_hessian(self, gradient: Array) -> Array:
        q = gradient.copy()
        weights = []
        for moved, turned, inverse in reversed(self._pairs):
            weight = inverse * dot(moved, q)
            q -= weight[:, None] * turned
            weights.append(weight)
        scale = np.ones(len(q), q.dtype)
        for moved, turned, _ in self._pairs:
            square = dot(turned, turned)
            scale = np.where(square > 0, dot(moved, turned) / np.where(square > 0, square, 1), scale)
        q *= scale[:, None]
        for (moved, turned, inverse), weight in zip(self._pairs, reversed(weights), strict=True):
            q += (weight - inverse * dot(turned, q))[:, None] * moved
        return q
