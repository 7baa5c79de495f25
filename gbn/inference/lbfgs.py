"""Limited-memory BFGS for many small problems side by side, each with its own state, step and stopping.

The two-loop recursion is algorithm 7.4 of Nocedal & Wright, *Numerical Optimization* (2nd ed.), the line search the
bracketing one of Lewis & Overton, *Nonsmooth optimization via quasi-Newton methods* (2013), algorithm 2.6, which also
serves where the objective has kinks.  Every scalar of theirs is a vector over problems here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["LBFGS"]

Array = np.ndarray[Any, Any]
Objective = Callable[[Array, Array], tuple[Array, Array]]

_MEMORY = 10
_PATIENCE = 10
_DECREASE = 1e-4
_CURVATURE = 0.9
_TRIALS = 20


class LBFGS:
    """Minimise f_n(z_n) for n = 1..N.

    Args:
        objective: points of some problems, shape (n, dim), and their numbers, shape (n,) -> values (n,) and gradients
            (n, dim).
        start: shape (N, dim).
        tol: a problem is done when its gradient norm is at most ``tol`` times that at the start,
        unit: or ``tol`` times this, where the start is steeper.
        resolution: differences of f below this do not count as progress.

    Attributes:
        point, value, gradient: the best so far, by problem.
        done: by problem, gradient small enough.
        stuck: by problem, no further decrease of f though the gradient is not small (a kink, or rounding): none beyond
            rounding or ``resolution`` over ten iterations.
        evaluations: calls of the objective.
    """

    def __init__(
        self, objective: Objective, start: Array, tol: float, unit: float = np.inf, resolution: float = 0.0
    ) -> None:
        self._objective, self._tol, self._resolution = objective, tol, resolution
        self.point = start
        self._working = np.arange(len(start))
        self.value, self.gradient = objective(start, self._working)
        self.evaluations = 1
        self._start_norm = np.minimum(_norm(self.gradient), unit)
        self.done = self._start_norm <= 0
        self.stuck = np.zeros(len(start), bool)
        self._least_norm, self._mark, self._idle_rounds = _norm(self.gradient), self.value, np.zeros(len(start), int)
        self._pairs: deque[tuple[Array, Array, Array]] = deque(maxlen=_MEMORY)

    @property
    def relative_gradient(self) -> Array:
        """Gradient norm over its norm at the start, or over ``unit`` if that is less.  Shape: (N,)."""
        return _norm(self.gradient) / np.where(self._start_norm > 0, self._start_norm, 1)

    def step(self, _round: int = 0) -> Mapping[str, float]:
        """One iteration for every problem that is not finished."""
        active = ~(self.done | self.stuck)
        if 2 * active.sum() <= len(self._working):
            self._working = np.flatnonzero(active)
        direction = -self._inverse_hessian(self.gradient)
        slope = _dot(direction, self.gradient)
        uphill = slope >= 0
        direction = np.where(uphill[:, None], -self.gradient, direction)
        slope = np.where(uphill, -_dot(self.gradient, self.gradient), slope)
        point, value, gradient, moved = self._search(direction, slope, active)
        self._remember(point - self.point, gradient - self.gradient)
        self.stuck |= active & (~moved | self._is_idle(value, gradient))
        self.point, self.value, self.gradient = point, value, gradient
        self.done = self.relative_gradient <= self._tol
        self.stuck &= ~self.done
        gap = float(self.relative_gradient.max(initial=0))
        return {"gap": gap, "free_energy": float(self.value.mean()), "evaluations": self.evaluations}

    def _search(self, direction: Array, slope: Array, active: Array) -> tuple[Array, Array, Array, Array]:
        """Weak Wolfe steps: bracket, then halve, until f has decreased enough and is less steep.

        Of steps that are only long enough, or only short enough, the last with enough decrease is taken.
        """
        step = np.ones(len(slope), self.point.dtype)
        if not self._pairs:
            step = np.minimum(step, 1 / np.maximum(_norm(self.gradient), np.finfo(step.dtype).tiny))
        low, high = np.zeros_like(step), np.full_like(step, np.inf)
        point, value, gradient = self.point.copy(), self.value.copy(), self.gradient.copy()
        waiting, moved, rounding = active.copy(), np.zeros_like(active), self._rounding()
        for _ in range(_TRIALS):
            if not waiting.any():
                break
            trial = np.where(waiting[:, None], self.point + step[:, None] * direction, point)
            f, g = value.copy(), gradient.copy()
            f[self._working], g[self._working] = self._objective(trial[self._working], self._working)
            self.evaluations += 1
            # Where f no longer resolves the decrease, a smaller gradient decides.
            close = (np.abs(f - self.value) <= rounding) & (_norm(g) < _norm(self.gradient))
            enough = np.isfinite(f) & (f <= self.value + _DECREASE * step * slope)
            taken = waiting & (enough | close)
            point[taken], value[taken], gradient[taken] = trial[taken], f[taken], g[taken]
            moved |= taken
            waiting &= ~(taken & (close | (_dot(g, direction) >= _CURVATURE * slope)))
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

    def _rounding(self) -> Array:
        """Differences of f that say nothing.  Shape: (N,)."""
        return np.asarray(10 * np.finfo(self.point.dtype).eps * (np.abs(self.value) + 1))

    def _is_idle(self, value: Array, gradient: Array) -> Array:
        """Problems that for some rounds have neither lowered f beyond rounding nor come to a smaller gradient."""
        norm = _norm(gradient)
        smaller = norm < 0.9 * self._least_norm
        progress = smaller | (self._mark - value > np.maximum(self._rounding(), self._resolution))
        self._least_norm = np.where(smaller, norm, self._least_norm)
        self._mark = np.where(progress, value, self._mark)
        self._idle_rounds = np.where(progress, 0, self._idle_rounds + 1)
        return self._idle_rounds >= _PATIENCE

    def _remember(self, moved: Array, turned: Array) -> None:
        """Keep a pair where it has positive curvature; elsewhere a pair of zeros, which changes nothing."""
        curvature = _dot(moved, turned)
        good = curvature > 1e-12 * _norm(moved) * _norm(turned)
        inverse = np.where(good, 1 / np.where(good, curvature, 1), 0)
        keep = good[:, None]
        self._pairs.append((np.where(keep, moved, 0), np.where(keep, turned, 0), inverse))

    def _inverse_hessian(self, gradient: Array) -> Array:
        q = gradient.copy()
        weights = []
        for moved, turned, inverse in reversed(self._pairs):
            weight = inverse * _dot(moved, q)
            q -= weight[:, None] * turned
            weights.append(weight)
        scale = np.ones(len(q), q.dtype)
        for moved, turned, _ in self._pairs:
            square = _dot(turned, turned)
            scale = np.where(square > 0, _dot(moved, turned) / np.where(square > 0, square, 1), scale)
        q *= scale[:, None]
        for (moved, turned, inverse), weight in zip(self._pairs, reversed(weights), strict=True):
            q += (weight - inverse * _dot(turned, q))[:, None] * moved
        return q


def _dot(a: Array, b: Array) -> Array:
    return (a * b).sum(axis=1)


def _norm(a: Array) -> Array:
    return np.sqrt(_dot(a, a))
