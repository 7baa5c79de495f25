"""Ways to the minimum of the free energy of live prediction, in one table.

Each keeps for every sample its ``point``, and says which are ``done`` (gradient small against the start) and which are
``stuck`` (no further decrease); one ``step`` is one round for all samples that are neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import integrate, sparse

from gbn.errors import InferenceError
from gbn.evidence import Evidence
from gbn.inference.lbfgs import LBFGS
from gbn.inference.live_prediction import Errors, FreeEnergy, States
from gbn.inference.minimiser import Array, Minimiser, dot

__all__ = ["INTEGRATORS", "SOLVERS", "Descent", "Flow", "GaussNewton", "prepare"]

# What the flow may be integrated by, by scipy's names; explicit ones are held to steps of the shortest time scale.
INTEGRATORS: dict[str, Callable[..., Any]] = {
    name: getattr(integrate, name) for name in ("BDF", "Radau", "LSODA", "RK23", "RK45", "DOP853")
}
_IMPLICIT = ("BDF", "Radau")
_HALVINGS = 30
# Free energies that differ by less than this times the tolerance, in nats, are the same.
_RESOLUTION = 1e-2
_DECREASE = 1e-4


class Descent(Minimiser):
    """Gradient rounds, x ← x - η ∂F/∂x: a round that raises F is taken back and repeated with half the step.

    On latents this is predictive coding as it is usually run; on whitened errors it is error-based predictive coding
    (ePC, Goemaere et al., arXiv 2505.20137).
    """

    def __init__(self, problem: FreeEnergy, tol: float, unit: float, step_size: float) -> None:
        start = problem.start()
        super().__init__(problem, start, tol, unit)
        self._rate = np.full((len(start), 1), step_size, start.dtype)
        self._least = step_size * 0.5**_HALVINGS

    def step(self, _round: int = 0) -> Mapping[str, float]:
        active = self._active()
        trial = np.where(active[:, None], self.point - self._rate * self.gradient, self.point)
        value, gradient = self._evaluate(trial, active)
        fell = active & (value <= self.value + self._rounding())
        self.point = np.where(fell[:, None], trial, self.point)
        self.value, self.gradient = np.where(fell, value, self.value), np.where(fell[:, None], gradient, self.gradient)
        self._rate = np.where((active & ~fell)[:, None], self._rate / 2, self._rate)
        self.stuck |= self._rate[:, 0] < self._least
        return self._arrive()


class GaussNewton(Minimiser):
    """The exact posterior of the net linearised at the present point, and again from there.

    Each sample goes along the straight line of whitened errors as far as F falls, by halving; a live forward pass
    recomputes deterministic vertices at every trial.
    """

    def __init__(self, problem: Errors, tol: float, unit: float) -> None:
        super().__init__(problem, problem.start(), tol, unit)
        self._problem, self._sweeps = problem, 0

    @property
    def pulls(self) -> int:
        return self.evaluations + self._sweeps

    @property
    def passes(self) -> int:
        """Each observed coordinate costs a pull and a push, and so do the innovation and the answer together."""
        return 2 * (self.evaluations + self._sweeps)

    def step(self, _round: int = 0) -> Mapping[str, float]:
        active = self._active()
        if not active.any():
            return self._arrive()
        direction = np.zeros_like(self.point)
        direction[self._working] = self._target(self._working) - self.point[self._working]
        waiting, rate = active.copy(), np.ones(len(active), self.point.dtype)
        slope, steepness = dot(direction, self.gradient), dot(self.gradient, self.gradient)
        for _ in range(_HALVINGS):
            trial = np.where(waiting[:, None], self.point + rate[:, None] * direction, self.point)
            value, gradient = self._evaluate(trial, waiting)
            close = (np.abs(value - self.value) <= self._rounding()) & (dot(gradient, gradient) < steepness)
            taken = waiting & (close | (value <= self.value + _DECREASE * rate * np.minimum(slope, 0)))
            self.point = np.where(taken[:, None], trial, self.point)
            self.value = np.where(taken, value, self.value)
            self.gradient = np.where(taken[:, None], gradient, self.gradient)
            waiting &= ~taken
            if not waiting.any():
                break
            rate = np.where(waiting, rate / 2, rate)
        self.stuck |= waiting
        return self._arrive()

    def _target(self, rows: Array) -> Array:
        """The whitened errors Rᵀ λ of the exact posterior at the present points.  Shape: (n, dim)."""
        from gbn.inference.exact import messages_at

        part = self._problem.part(rows)
        messages, size = messages_at(part.at(self.point[rows]))
        self._sweeps += size + 1
        whitened = {name: part.whiten(name, messages[name]) for name in part.names}
        return part.join(whitened, self.point[rows])


class Flow(Minimiser):
    """The gradient flow dv/dt = -∂F/∂v of the latents.

    The equations are stiff: rates differ as precisions do, so the default are backward differentiation formulas.  A
    round is one step of an adaptive integrator of scipy; for the implicit ones the Jacobian is block-diagonal, one
    block a sample.
    """

    def __init__(self, problem: States, tol: float, unit: float, integrator: str = "BDF") -> None:
        start = problem.start()
        super().__init__(problem, start, tol, unit)
        rows, dim = start.shape
        options: dict[str, Any] = {"rtol": 1e-3, "atol": max(tol, float(np.finfo(start.dtype).eps) * 100)}
        if integrator in _IMPLICIT and start.size:
            options["jac_sparsity"] = sparse.kron(sparse.eye(rows), np.ones((dim, dim)), format="csc")
        make = INTEGRATORS[integrator]
        first = start.reshape(-1).astype(float)
        self._stepper = make(self._rate, 0.0, first, np.inf, **options) if start.size else None

    def _rate(self, _time: float, x: Array) -> Array:
        points = x.reshape(self.point.shape).astype(self.point.dtype)
        self._count(np.ones(len(points), bool))
        return -self._objective(points, np.arange(len(points)))[1].reshape(-1).astype(float)

    def step(self, _round: int = 0) -> Mapping[str, float]:
        if self._stepper is None:
            return self._arrive()
        if self._stepper.status == "failed" or self._stepper.step() is not None:
            self.stuck |= ~self.done
        self.point = self._stepper.y.reshape(self.point.shape).astype(self.point.dtype)
        self.value, self.gradient = self._evaluate(self.point, np.ones(len(self.point), bool))
        return {**self._arrive(), "time": float(self._stepper.t)}


def _unit(problem: FreeEnergy) -> float:
    """Whitened errors have unit scale: a steeper start must not loosen what counts as arrived."""
    return max(1.0, float(problem.ends[-1]) ** 0.5)


def _lbfgs(evidence: Evidence, tol: float, step_size: float | None) -> tuple[FreeEnergy, Minimiser]:
    problem = Errors(evidence)
    return problem, LBFGS(problem, problem.start(), tol, _unit(problem), _RESOLUTION * tol)


def _gauss_newton(evidence: Evidence, tol: float, step_size: float | None) -> tuple[FreeEnergy, Minimiser]:
    problem = Errors(evidence)
    return problem, GaussNewton(problem, tol, _unit(problem))


def _errors(evidence: Evidence, tol: float, step_size: float | None) -> tuple[FreeEnergy, Minimiser]:
    problem = Errors(evidence)
    return problem, Descent(problem, tol, _unit(problem), 0.1 if step_size is None else step_size)


def _gradient(evidence: Evidence, tol: float, step_size: float | None) -> tuple[FreeEnergy, Minimiser]:
    """The default step suits the stiffest CPD: a tenth of the smallest variance."""
    problem = States(evidence)
    net = evidence.net
    if step_size is None:
        step_size = 0.1 * min((float(net.noises[n].diagonal().min()) for n in net.noises), default=1.0)
    return problem, Descent(problem, tol, np.inf, step_size)


def _ode(
    evidence: Evidence, tol: float, step_size: float | None, integrator: str = "BDF"
) -> tuple[FreeEnergy, Minimiser]:
    problem = States(evidence)
    return problem, Flow(problem, tol, np.inf, integrator)


SOLVERS: dict[str, Callable[[Evidence, float, float | None], tuple[FreeEnergy, Minimiser]]] = {
    "lbfgs": _lbfgs,
    "gauss-newton": _gauss_newton,
    "gradient": _gradient,
    "errors": _errors,
    "ode": _ode,
}
_WITH_STEP = ("gradient", "errors")


def prepare(
    name: str, evidence: Evidence, tol: float, step_size: float | None, integrator: str | None = None
) -> tuple[FreeEnergy, Minimiser]:
    """The function to minimise, and the solver of that name at its start.

    Args:
        integrator: of solver "ode": one of :data:`INTEGRATORS` (default "BDF").

    Raises:
        InferenceError: no such solver or integrator; a step size for one that finds its own; what :class:`FreeEnergy`
            refuses.
    """
    if name not in SOLVERS:
        raise InferenceError(f"solver: got {name!r}, expected one of {', '.join(map(repr, SOLVERS))}")
    if step_size is not None and name not in _WITH_STEP:
        raise InferenceError(
            f"step_size: solver {name!r} finds its own; schedules and step sizes belong to prediction='fixed', "
            "and step_size to solver='gradient' and 'errors'"
        )
    if step_size is not None and not (0 < step_size < np.inf):
        raise InferenceError(f"step_size: got {step_size}, expected a finite number above 0")
    if integrator is None:
        return SOLVERS[name](evidence, tol, step_size)
    if name != "ode" or integrator not in INTEGRATORS:
        raise InferenceError(
            f"integrator: got {integrator!r} for solver {name!r}; solver 'ode' takes one of "
            f"{', '.join(map(repr, INTEGRATORS))}"
        )
    return _ode(evidence, tol, step_size, integrator)
