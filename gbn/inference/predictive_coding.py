"""Predictive coding: point estimates of the latents by local messages.

The free energy is F(v) = ½ Σ_i (ε_iᵀ Λ_i ε_i + log |2πQ_i|), its local descent direction

    -∂F/∂v_i = -λ_i + Σ_{c ∈ ch(i)} J_{c←i}ᵀ λ_c,        λ_i = Λ_i ε_i.

``prediction="fixed"`` holds predictions and Jacobians at the forward pass (:mod:`gbn.inference.fixed_prediction`); its
fixed point is backprop's recursion, for any hidden noise.  ``prediction="live"`` minimises F itself
(:mod:`gbn.inference.live_prediction`, :mod:`gbn.inference.live_solvers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gbn.errors import InferenceError
from gbn.evidence import Evidence
from gbn.inference.fixed_prediction import SCHEDULES, Channel, LossyChannel, Rounds
from gbn.inference.live_solvers import prepare
from gbn.inference.loop import Outcome, iterate
from gbn.inference.point_estimate import FixedPoint, LivePoint, PointEstimate, sweep
from gbn.linearize import Linearization
from gbn.net import GaussianBayesNet
from gbn.posterior import Posterior

__all__ = ["equilibrium", "gradient", "solve"]

Array = np.ndarray[Any, Any]
_KINK = 1e-3
_ROUNDS = 1000


def solve(
    net: GaussianBayesNet,
    evidence: Evidence,
    targets: Sequence[str],
    *,
    prediction: str = "fixed",
    schedule: str | None = None,
    solver: str | None = None,
    integrator: str | None = None,
    step_size: float | None = None,
    drop: float | None = None,
    delay: int | None = None,
    rng: np.random.Generator | int | None = None,
    max_rounds: int | None = None,
    tol: float | None = None,
    callback: Callable[[int, Mapping[str, float]], Any] | None = None,
    progress: bool | None = None,
) -> Posterior:
    """Engine "pc".

    Args:
        prediction: "fixed" or "live".
        schedule: of fixed prediction, the order in which vertices move in a round: "sweep" (default; reverse
            topological), "parallel" (all at once from the messages of the round before), "random" (a new order in each
            round), "forward" (topological), or "asynchronous" (random, and messages are lost and late).
        solver: of live prediction: "lbfgs" (default), "gauss-newton" (for small noise), "gradient" (rounds on the
            latents, v ← v + η (-λ + pull)), "errors" (rounds on whitened errors), "ode" (the flow dv/dt = -λ + pull).
        integrator: of solver "ode", by scipy's name: "BDF" (default), "Radau", "LSODA"; "RK23", "RK45", "DOP853" are
            explicit, and slow where precisions differ much.
        step_size: η; default 1 for fixed prediction, 0.1 in parallel; for solver "gradient" a tenth of the smallest
            variance, for "errors" 0.1 (both halve it where the free energy would rise).
        drop: probability that a message is lost, the last one heard then stands (asynchronous; default 0.1).
        delay: the most rounds a message may be late (asynchronous; default 1).
        rng: a Generator, or a seed (random and asynchronous).
        max_rounds: default 1000.  A sweep at η = 1 has arrived after the first.
        tol: stop at this relative gap between λ and its fixed-point equation (fixed; default 1e-8 unless ``max_rounds``
            is given, which are then all made), or this gradient relative to the start (live, default 1e-6).
        callback: called with the round and its figures; returning True stops.
        progress: show a bar (None: on a terminal only).

    Raises:
        InferenceError: options that do not fit; evidence on a deterministic vertex; live prediction with random
            parameters, which couple the samples.
    """
    limits: dict[str, Any] = {"max_rounds": max_rounds, "tol": tol, "callback": callback, "progress": progress}
    fixed_only = {"schedule": schedule, "drop": drop, "delay": delay, "rng": rng}
    if prediction == "live":
        foreign = [name for name, value in fixed_only.items() if value is not None]
        if foreign:
            raise InferenceError(
                f"{' and '.join(foreign)} belong to prediction='fixed'; live prediction takes solver and step_size"
            )
        limits = {name: value for name, value in limits.items() if value is not None}
        answer, outcome, figures = _live(evidence, solver or "lbfgs", step_size, integrator, limits)
    elif prediction == "fixed":
        for option, value in {"solver": solver, "integrator": integrator}.items():
            if value is not None:
                raise InferenceError(f"{option}: got {value!r}, but it belongs to prediction='live'; use schedule")
        answer, outcome, figures = _fixed(evidence, schedule or "sweep", step_size, drop, delay, rng, limits)
    else:
        raise InferenceError(f"prediction: got {prediction!r}, expected 'fixed' or 'live'")
    return Posterior(
        net,
        evidence,
        "pc",
        targets,
        answer,
        converged=outcome.converged,
        history=outcome.history,
        diagnostics={"prediction": prediction, **figures, "stopped": outcome.reason},
    )


def gradient(
    net: GaussianBayesNet, evidence: Evidence | Mapping[str, Any], names: Iterable[str] | None = None
) -> dict[str, Array]:
    """∂F/∂θ of parameters by one forward pass and one sweep of local messages: what backprop gives.

    Args:
        evidence: inputs and targets, as for a query.
        names: parameters (default: the trainable ones).

    Returns:
        parameter -> array of its shape; F is the free energy summed over samples.

    Raises:
        EvidenceError, ShapeError, UnknownNameError: unusable evidence.
    """
    if not isinstance(evidence, Evidence):
        evidence = Evidence.read(net, evidence)
    if names is None:
        names = [n for n in net.parameters if net[n].trainable]
    names = [names] if isinstance(names, str) else list(names)
    messages = sweep(Linearization.forward(evidence), names, sign=-1)
    return {n: messages[n] if n in messages else np.zeros(net[n].shape, net.dtype) for n in names}


def _fixed(
    evidence: Evidence,
    schedule: str,
    step_size: float | None,
    drop: float | None,
    delay: int | None,
    rng: np.random.Generator | int | None,
    limits: Mapping[str, Any],
) -> tuple[PointEstimate, Outcome, dict[str, Any]]:
    """Rounds of fixed prediction, to their end."""
    if schedule not in SCHEDULES:
        raise InferenceError(f"schedule: got {schedule!r}, expected one of {', '.join(map(repr, SCHEDULES))}")
    chosen = SCHEDULES[schedule]
    eta = chosen.step_size if step_size is None else float(step_size)
    if not 0 < eta <= 1:
        raise InferenceError(f"step_size: got {eta}, expected a number above 0 and at most 1")
    if rng is not None and not chosen.random:
        raise InferenceError(f"rng: schedule {schedule!r} draws nothing; use schedule='random' or 'asynchronous'")
    generator = np.random.default_rng(rng)
    channel = _channel(schedule, drop, delay, generator)
    single = schedule == "sweep" and eta == 1.0
    net, point = evidence.net, Linearization.forward(evidence)
    rounds = Rounds(point, chosen, eta, channel, generator, wanted=net.vertices if single else None)
    tol, given = limits["tol"], limits["max_rounds"]
    outcome = iterate(
        rounds.step,
        label="predictive coding",
        max_rounds=_ROUNDS if given is None else given,
        tol=None if single else 1e-8 if tol is None and given is None else tol,
        stalled=lambda: "one sweep at step 1 arrives" if single else None,
        remedy=chosen.remedy,
        callback=limits["callback"],
        progress=limits["progress"],
    )
    # A single sweep has passed every vertex; after other rounds one more pass reads the state out.
    messages = channel.spoken if single and outcome.rounds else rounds.messages(net.vertices)
    figures = {
        "schedule": schedule,
        "step_size": eta,
        "rounds": outcome.rounds,
        "passes": rounds.passes,
        "messages": channel.sent,
        "dropped": channel.dropped,
        "exact": "messages equal backprop's" if single else "messages approach backprop's as the rounds go on",
        "approximate": "means are one linearised step from the forward pass; there are no variances",
    }
    return FixedPoint(point, messages), outcome, figures


def _channel(schedule: str, drop: float | None, delay: int | None, rng: np.random.Generator) -> Channel:
    if not SCHEDULES[schedule].lossy:
        if drop is not None or delay is not None:
            raise InferenceError(f"drop and delay belong to schedule='asynchronous'; got schedule={schedule!r}")
        return Channel()
    return LossyChannel(0.1 if drop is None else drop, 1 if delay is None else delay, rng)


def _live(
    evidence: Evidence, solver: str, step_size: float | None, integrator: str | None, limits: Mapping[str, Any]
) -> tuple[PointEstimate, Outcome, dict[str, Any]]:
    point, outcome, figures = equilibrium(evidence, solver=solver, step_size=step_size, integrator=integrator, **limits)
    figures = {
        "solver": solver,
        "rounds": outcome.rounds,
        **figures,
        "exact": "the point where the free energy is stationary, to the tolerance",
        "approximate": "a point estimate; there are no variances",
    }
    return LivePoint(point), outcome, figures


def equilibrium(
    evidence: Evidence,
    *,
    solver: str = "lbfgs",
    step_size: float | None = None,
    integrator: str | None = None,
    max_rounds: int = _ROUNDS,
    tol: float = 1e-6,
    callback: Callable[[int, Mapping[str, float]], Any] | None = None,
    progress: bool | None = None,
) -> tuple[Linearization, Outcome, dict[str, Any]]:
    """The point that minimises F given evidence, from the forward pass.

    Args:
        solver: one of :data:`gbn.inference.live_solvers.SOLVERS`.
        integrator: of solver "ode", one of :data:`gbn.inference.live_solvers.INTEGRATORS`.

    Returns:
        the net linearised there, how the iteration ended, and its figures: evaluations of F and its gradient (and the
        median over samples), passes (forward and reverse ones counted), messages sent, samples at kinks.

    Raises:
        InferenceError: random parameters, which couple the samples; options that do not fit.
    """
    problem, solving = prepare(solver, evidence, tol, step_size, integrator)
    lines = problem.lines

    def effort() -> dict[str, int]:
        return {"passes": solving.passes, "messages": solving.pulls * lines}

    def stalled() -> str | None:
        finished = solving.done | solving.stuck
        return "the free energy cannot decrease further" if finished.all() else None

    def step(number: int) -> dict[str, float]:
        figures = dict(solving.step(number))
        return figures | {"free_energy": figures["free_energy"] + problem.constant} | effort()

    outcome = iterate(
        step,
        label="equilibrium",
        max_rounds=max_rounds,
        tol=tol,
        stalled=stalled,
        remedy="Raise max_rounds or tol, or raise the noise of the hidden vertices.",
        callback=callback,
        progress=progress,
    )
    figures = {
        "evaluations": solving.evaluations,
        "evaluations_median": float(np.median(solving.calls)),
        **effort(),
        "relative_gradient": float(solving.relative_gradient.max(initial=0)),
        # A small gradient that cannot be made smaller is rounding, a large one a kink.
        "kinks": int((solving.stuck & (solving.relative_gradient > _KINK)).sum()),
    }
    return problem.at(solving.point), outcome, figures
