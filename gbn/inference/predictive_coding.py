"""Predictive coding: point estimates of the latents by local messages.

The free energy is F(v) = ½ Σ_i (ε_iᵀ Λ_i ε_i + log |2πQ_i|), its local descent direction

    -∂F/∂v_i = -λ_i + Σ_{c ∈ ch(i)} J_{c←i}ᵀ λ_c,        λ_i = Λ_i ε_i.

``prediction="fixed"`` holds predictions and Jacobians at the forward pass (Millidge, Tschantz & Buckley,
arXiv 2006.04182).  With errors ε as state and v_i ← v_i + η Q_i (-λ_i + pull_i), the covariance cancels and the state
is λ itself: λ_i ← λ_i + η (pull_i - λ_i).  Its fixed point is backprop's recursion, for any hidden noise.

``prediction="live"`` minimises F itself, over whitened errors z (v_i = f_i(v_pa) + R_i z_i, gradient z - Rᵀ pull).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gbn.errors import InferenceError
from gbn.evidence import Evidence
from gbn.gaussian import LOG_2PI
from gbn.inference.lbfgs import LBFGS
from gbn.inference.loop import Outcome, iterate
from gbn.linearize import Linearization, Rule
from gbn.net import GaussianBayesNet
from gbn.posterior import Posterior

__all__ = ["equilibrium", "gradient", "solve"]

Array = np.ndarray[Any, Any]
# Free energies that differ by less than this times the tolerance, in nats, are the same.
_RESOLUTION = 1e-2
_KINK = 1e-3


def solve(
    net: GaussianBayesNet,
    evidence: Evidence,
    targets: Sequence[str],
    *,
    prediction: str = "fixed",
    schedule: str = "sweep",
    step_size: float | None = None,
    max_rounds: int | None = None,
    tol: float | None = None,
    callback: Callable[[int, Mapping[str, float]], Any] | None = None,
    progress: bool | None = None,
) -> Posterior:
    """Engine "pc".

    Args:
        prediction: "fixed" or "live".
        schedule: of fixed prediction: "sweep" (one vertex after the other, in reverse topological order) or "parallel"
            (all at once from the messages of the round before).
        step_size: η of fixed prediction; default 1 for a sweep, 0.1 in parallel.
        max_rounds: default 1 for a sweep at η = 1, which has then arrived; 1000 otherwise.
        tol: stop at this relative gap between λ and its fixed-point equation (fixed; None: make all rounds), or this
            gradient relative to the start (live, default 1e-6).
        callback: called with the round and its figures; returning True stops.
        progress: show a bar (None: on a terminal only).

    Raises:
        InferenceError: options that do not fit; evidence on a deterministic vertex.
    """
    options: dict[str, Any] = {"callback": callback, "progress": progress}
    if prediction == "live":
        if schedule != "sweep" or step_size is not None:
            raise InferenceError("schedule and step_size belong to prediction='fixed'; live prediction uses L-BFGS")
        limit = 1000 if max_rounds is None else max_rounds
        return _live(net, evidence, targets, limit, 1e-6 if tol is None else tol, options)
    if prediction != "fixed":
        raise InferenceError(f"prediction: got {prediction!r}, expected 'fixed' or 'live'")
    if schedule not in ("sweep", "parallel"):
        raise InferenceError(f"schedule: got {schedule!r}, expected 'sweep' or 'parallel'")
    eta = (1.0 if schedule == "sweep" else 0.1) if step_size is None else float(step_size)
    if not 0 < eta <= 1:
        raise InferenceError(f"step_size: got {eta}, expected a number above 0 and at most 1")
    single = schedule == "sweep" and eta == 1.0
    given = max_rounds is not None
    if tol is None and not given and not single:
        tol = 1e-8
    rounds = _Rounds(Linearization.forward(evidence), eta, in_place=schedule == "sweep")
    if single:
        messages, outcome = rounds.sweep(net.vertices), Outcome([], True, "one sweep at step 1 arrives")
    else:
        outcome = iterate(
            rounds.step,
            label="predictive coding",
            max_rounds=1000 if max_rounds is None else max_rounds,
            tol=tol,
            remedy="Raise max_rounds or step_size, or use schedule='sweep'.",
            **options,
        )
        messages = rounds.messages(net.vertices)
    return _posterior(
        net,
        evidence,
        targets,
        _Fixed(rounds.point, messages),
        outcome,
        {
            "prediction": "fixed",
            "schedule": schedule,
            "step_size": eta,
            "rounds": 1 if single else outcome.rounds,
            "passes": rounds.passes,
            "exact": "messages equal backprop's" if single else "messages approach backprop's as the rounds go on",
            "approximate": "means are one linearised step from the forward pass; there are no variances",
        },
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
    names = [n for n in net.parameters if net[n].trainable] if names is None else list(names)
    # Messages are linear in what is clamped, so the sign is turned there, where arrays are small.
    messages = _Rounds(Linearization.forward(evidence), sign=-1).sweep(names)
    return {n: messages[n] if n in messages else np.zeros(net[n].shape, net.dtype) for n in names}


class _Rounds:
    """Rounds of fixed prediction; the state is λ at the random vertices that are not wholly observed.

    In place (a sweep), a latent moves as it is passed and sends its new message on; else it sends that of the round
    before.  The first sweep at η = 1 is backprop's recursion.
    """

    def __init__(self, point: Linearization, eta: float = 1.0, in_place: bool = True, sign: int = 1) -> None:
        self.point, self.eta, self.in_place, self._sign = point, eta, in_place, sign
        self.passes = 1
        net, evidence = point.net, point.evidence
        self.latents = {n for n, v in net.vertices.items() if v.random and n not in evidence.do and not point.closed(n)}
        self.clamped = {name: sign * message for name, message in _clamped_messages(point).items()}
        self._state: dict[str, Array] = {}
        self._gap = self._scale = 0.0

    def step(self, _round: int) -> Mapping[str, float]:
        """One round, and how far λ was from its fixed point, relative to the largest message."""
        self._gap = self._scale = 0.0
        old = dict(self._state)
        moved: dict[str, Array] = {}

        def rule(name: str) -> Rule:
            def move(pulled: Array | None) -> Array | None:
                if pulled is not None:
                    moved[name] = self._relaxed(name, pulled, old.get(name))
                return (moved if self.in_place else old).get(name)

            return move

        self._pull({name: rule(name) for name in self.latents}, self.latents)
        self._state = old | moved
        return {"gap": self._gap / self._scale if self._scale > 0 else 0.0, "passes": self.passes}

    def _relaxed(self, name: str, pulled: Array, old: Array | None) -> Array:
        """λ + η (pull - λ)."""
        mask = self.point.evidence.masks.get(name)
        if mask is not None:
            pulled = np.where(mask, pulled.dtype.type(0), pulled)
        change = pulled if old is None else pulled - old
        self._gap = max(self._gap, float(np.abs(change).max(initial=0)))
        self._scale = max(self._scale, float(np.abs(pulled).max(initial=0)))
        return self.eta * change if old is None else old + self.eta * change

    def messages(self, wanted: Iterable[str]) -> dict[str, Array]:
        """λ from the present state: latents keep it, all others hear them at once."""
        return self._pull({name: _always(self._state.get(name)) for name in self.latents}, wanted)

    def sweep(self, wanted: Iterable[str]) -> dict[str, Array]:
        """λ of one sweep at η = 1, which is its fixed point: every latent takes over what it hears."""
        return self._pull({}, wanted)

    def _pull(self, rules: Mapping[str, Rule], wanted: Iterable[str]) -> dict[str, Array]:
        """One reverse pass; beside the rules of latents stand those of observed entries."""
        self.passes += 1
        partly = {name: self._partly(name, rules.get(name)) for name in self.point.evidence.conditionals}
        clamped = {name: _always(message) for name, message in self.clamped.items()}
        return self.point.pull({**rules, **clamped, **partly}, wanted)

    def _partly(self, name: str, latent: Rule | None) -> Rule:
        """The rule of a partly observed vertex, given that of its latent entries."""
        error = self._sign * self.point.errors[name]
        conditional = self.point.evidence.conditionals[name]

        def send(pulled: Array | None) -> Array | None:
            message = pulled if latent is None else latent(pulled)
            return conditional.messages(error, np.zeros_like(error) if message is None else message)

        return send


def _always(message: Array | None) -> Rule:
    return lambda _: message


def _clamped_messages(point: Linearization) -> dict[str, Array]:
    """λ of wholly observed vertices, constant under fixed prediction: Λ ε, or the score of a label."""
    net, clamped = point.net, {}
    for name, value in point.evidence.values.items():
        vertex = net[name]
        if vertex.kind == "likelihood":
            clamped[name] = net.label_of(name).score(point.values[vertex.parents[0]], value)
            continue
        noise = net.noise(name)
        if noise is None:
            raise InferenceError(
                f"evidence on {name!r}, a deterministic vertex: predictive coding would need infinite precision; "
                f"give it noise with net.set_noise({{{name!r}: cov}}), or use engine='exact'"
            )
        if point.closed(name):
            clamped[name] = noise.solve(point.errors[name])
    return clamped


def _energies(point: Linearization, errors: Mapping[str, Array], name: str) -> Array:
    """A vertex's share of F: ½ (εᵀ Λ ε + log |2πQ|), or -log p of a label.  Shape: (samples,); () when shared."""
    net, evidence = point.net, point.evidence
    vertex = net[name]
    if vertex.kind == "likelihood":
        if name not in evidence.values:
            return np.zeros(evidence.samples, net.dtype)
        return -net.label_of(name).log_prob(point.values[vertex.parents[0]], evidence.values[name])
    noise = net.noise(name)
    lead = (evidence.samples,) if vertex.plated else ()
    if noise is None or name in evidence.do:
        return np.zeros(lead, net.dtype)
    constant = 0.5 * (noise.logdet + vertex.size * LOG_2PI)
    if name not in errors:
        return np.full(lead, constant, net.dtype)
    error = errors[name]
    return 0.5 * (error * noise.solve(error)).reshape(*lead, -1).sum(axis=-1) + constant


class _Point:
    """Point estimates as a Solution: means, messages and energies, no variances."""

    point: Linearization
    errors: Mapping[str, Array]

    def mean(self, name: str) -> Array:
        raise NotImplementedError

    def messages(self) -> Mapping[str, Array]:
        raise NotImplementedError

    def _refuse(self, what: str) -> InferenceError:
        return InferenceError(
            f"predictive coding gives point estimates, no {what}; "
            "use engine='exact' (with operating_point='equilibrium' for the Laplace approximation at this point)"
        )

    def variance(self, name: str) -> Array:
        raise self._refuse("variances")

    def covariance(self, a: str, b: str) -> Array:
        raise self._refuse("covariances")

    def sample(self, n: int, rng: np.random.Generator, names: Sequence[str]) -> dict[str, Array]:
        raise self._refuse("samples")

    def log_evidence(self) -> Array:
        raise self._refuse("log-evidence")

    def surprise(self, name: str) -> Array:
        return _energies(self.point, self.errors, name)

    def free_energy(self) -> Array:
        net = self.point.net
        noisy = [name for name, vertex in net.vertices.items() if vertex.random or vertex.kind == "likelihood"]
        parts = [self.surprise(name) for name in noisy]
        plated = sum((part for part in parts if part.ndim), np.zeros(self.point.evidence.samples, net.dtype))
        shared = [part for part in parts if not part.ndim]
        return plated.sum() + sum(shared) if shared else plated


class _Fixed(_Point):
    """Fixed prediction: v_i = f_i + Q_i λ_i at random vertices, the forward pass elsewhere."""

    def __init__(self, point: Linearization, messages: Mapping[str, Array]) -> None:
        self.point, self._messages = point, point.everywhere(messages)
        net, evidence = self.point.net, self.point.evidence
        self.errors = {
            name: self.point.errors[name] if self.point.closed(name) else net.noise(name).apply(self._messages[name])  # type: ignore[union-attr]
            for name, vertex in net.vertices.items()
            if vertex.random and name not in evidence.do
        }

    def messages(self) -> Mapping[str, Array]:
        return self._messages

    def mean(self, name: str) -> Array:
        point = self.point
        if point.net[name].kind == "likelihood":
            return _label_mean(point, name)
        if name not in self.errors or point.closed(name):
            return point.values[name]
        moved = point.values[name] - point.errors.get(name, 0) + self.errors[name]
        mask = point.evidence.masks.get(name)
        return moved if mask is None else np.where(mask, point.evidence.values[name], moved)


class _Live(_Point):
    """The point that minimises F."""

    def __init__(self, point: Linearization) -> None:
        self.point, self.errors = point, point.errors
        self._messages: Mapping[str, Array] | None = None

    def messages(self) -> Mapping[str, Array]:
        if self._messages is None:
            self._messages = self.point.everywhere(_Rounds(self.point).sweep(self.point.net.vertices))
        return self._messages

    def mean(self, name: str) -> Array:
        return _label_mean(self.point, name) if self.point.net[name].kind == "likelihood" else self.point.values[name]


def _label_mean(point: Linearization, name: str) -> Array:
    net = point.net
    probabilities = net.label_of(name).mean(point.values[net[name].parents[0]])
    known = point.evidence.values.get(name)
    return probabilities if known is None else np.where(np.isnan(known), probabilities, known)


def equilibrium(
    evidence: Evidence,
    *,
    max_rounds: int = 1000,
    tol: float = 1e-6,
    callback: Callable[[int, Mapping[str, float]], Any] | None = None,
    progress: bool | None = None,
) -> tuple[Linearization, Outcome, dict[str, Any]]:
    """The point that minimises F given evidence, from the forward pass, by L-BFGS on whitened errors.

    Returns:
        the net linearised there, how the iteration ended, and its figures (evaluations, samples at kinks).

    Raises:
        InferenceError: random parameters, which couple the samples.
    """
    problem = _Whitened(evidence)
    start = problem.start()
    # Whitened errors have unit scale: a steeper start must not loosen what counts as arrived.
    solver = LBFGS(problem, start, tol, unit=max(1.0, start.shape[1] ** 0.5), resolution=_RESOLUTION * tol)

    def stalled() -> str | None:
        finished = solver.done | solver.stuck
        return "the free energy cannot decrease further" if finished.all() else None

    def step(number: int) -> dict[str, float]:
        figures = dict(solver.step(number))
        return figures | {"free_energy": figures["free_energy"] + problem.constant}

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
        "evaluations": solver.evaluations,
        "relative_gradient": float(solver.relative_gradient.max(initial=0)),
        # A small gradient that cannot be made smaller is rounding, a large one a kink.
        "kinks": int((solver.stuck & (solver.relative_gradient > _KINK)).sum()),
    }
    return problem.at(solver.point), outcome, figures


class _Whitened:
    """F as a function of whitened errors, all latents of a sample in one row.  Values: (N,); gradients: (N, dim).

    ``constant``: what F has beyond these values, ½ log |2πQ| of the latents; kept apart, for it would cost digits.
    """

    def __init__(self, evidence: Evidence) -> None:
        net = evidence.net
        coupled = [name for name in net.parameters if net[name].random and name not in evidence.do]
        if coupled:
            raise InferenceError(f"parameter {coupled[0]!r} is random and couples the samples; use prediction='fixed'")
        self.evidence, self.net = evidence, net
        closed = {name for name in evidence.values if name not in evidence.masks}
        self.names = [n for n in net.latents if n not in closed and n not in evidence.do]
        self.ends = np.cumsum([0, *(net[n].size for n in self.names)])
        self._kept: tuple[Array, _Whitened] | None = None
        logdets = sum(net.noises[str(net[n].noise)].logdet for n in self.names)
        self.constant = 0.5 * (LOG_2PI * int(self.ends[-1]) + logdets)

    def start(self) -> Array:
        """The forward pass."""
        return np.zeros((self.evidence.samples, self.ends[-1]), self.net.dtype)

    def at(self, z: Array) -> Linearization:
        """The net at these errors."""
        return Linearization.forward(self.evidence, self._split(z))

    def _part(self, rows: Array) -> _Whitened:
        """The problem of some of the samples; the last part is kept, as it is asked for many times."""
        if len(rows) == self.evidence.samples:
            return self
        if self._kept is None or not np.array_equal(self._kept[0], rows):
            self._kept = rows, _Whitened(self.evidence.rows(rows))
        return self._kept[1]

    def _split(self, z: Array) -> dict[str, Array]:
        bounds = zip(self.names, self.ends[:-1], self.ends[1:], strict=True)
        return {n: z[:, a:b].reshape(len(z), *self.net[n].shape) for n, a, b in bounds}

    def __call__(self, z: Array, rows: Array) -> tuple[Array, Array]:
        """F and its gradient for some of the samples."""
        return self._part(rows).energy(z)

    def energy(self, z: Array) -> tuple[Array, Array]:
        """F and its gradient."""
        point = self.at(z)
        innovations = self._split(z)
        gradient: dict[str, Array] = {}
        energy = 0.5 * (z * z).sum(axis=1)
        for name in self.evidence.values:
            energy = energy + self._observed_energy(point, name)

        def rule(name: str) -> Rule:
            def move(pulled: Array | None) -> Array | None:
                message, gradient[name] = self._latent(point, name, innovations[name], pulled)
                return message

            return move

        clamped = {name: _always(message) for name, message in _clamped_messages(point).items()}
        point.pull({name: rule(name) for name in self.names} | clamped, self.names)
        parts = [gradient.get(n, innovations[n]).reshape(len(z), -1) for n in self.names]
        return energy, np.concatenate([*parts, z[:, :0]], axis=1)

    def _latent(self, point: Linearization, name: str, z: Array, pulled: Array | None) -> tuple[Array | None, Array]:
        """The pulled message goes on to the parents: at a live prediction they answer for what they cause below."""
        conditional = self.evidence.conditionals.get(name)
        if conditional is None:
            noise = self.net.noise(name)
            return pulled, z if pulled is None or noise is None else z - noise.root_adjoint(pulled)
        pulled = np.zeros_like(z) if pulled is None else pulled
        hidden = np.where(conditional.observed, z.dtype.type(0), z - conditional.root_adjoint(pulled))
        return conditional.messages(
            point.errors[name], np.where(conditional.observed, 0, pulled).astype(z.dtype)
        ), hidden

    def _observed_energy(self, point: Linearization, name: str) -> Array:
        if name in self.evidence.conditionals:
            return 0.5 * self.evidence.conditionals[name].energy(point.errors[name])
        return _energies(point, point.errors, name)


def _live(
    net: GaussianBayesNet,
    evidence: Evidence,
    targets: Sequence[str],
    max_rounds: int,
    tol: float,
    options: Mapping[str, Any],
) -> Posterior:
    point, outcome, figures = equilibrium(evidence, max_rounds=max_rounds, tol=tol, **options)
    return _posterior(
        net,
        evidence,
        targets,
        _Live(point),
        outcome,
        {
            "prediction": "live",
            "rounds": outcome.rounds,
            **figures,
            "exact": "the point where the free energy is stationary, to the tolerance",
            "approximate": "a point estimate; there are no variances",
        },
    )


def _posterior(
    net: GaussianBayesNet,
    evidence: Evidence,
    targets: Sequence[str],
    solution: _Point,
    outcome: Outcome,
    diagnostics: dict[str, Any],
) -> Posterior:
    return Posterior(
        net,
        evidence,
        "pc",
        targets,
        solution,
        converged=outcome.converged,
        history=outcome.history,
        diagnostics={**diagnostics, "stopped": outcome.reason},
    )
