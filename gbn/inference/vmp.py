"""Variational message passing with a factorised Gaussian q = Π_i N(m_i, C_i) over hidden vertices, weights included.

Each vertex in turn takes the q_i that minimises F_q = E_q[F] - H[q] given the others'::

    C_i⁻¹ = Λ_i + Σ_c E[J_{c←i}ᵀ Λ_c J_{c←i}]
    m_i   = C_i (Λ_i E f_i + Σ_c E[J_{c←i}ᵀ Λ_c (m_c - f_c without i)])      (Winn & Bishop, JMLR 6, 2005)

taken as the Newton step m_i ← m_i - C_i ∂F_q/∂m_i, which is the same where f is linear in v_i.  In a linear-Gaussian
net with hidden precision K the means are exact, and F_q + log p(evidence) = KL = ½ (Σ_i log |K_ii| - log |K|).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gbn import ops
from gbn.errors import InferenceError
from gbn.evidence import Evidence
from gbn.inference.loop import Outcome, iterate
from gbn.inference.meanfield import View
from gbn.inference.structure import Belief, Structure, times
from gbn.net import GaussianBayesNet
from gbn.posterior import Posterior

__all__ = ["solve"]

Array = np.ndarray[Any, Any]
_GAP_LIMIT = 2048
_BLOW_UP = 1e6
# The part of what is estimated to come that counts as the gap; and moves that are none but rounding.
_FAR = 1e-3
_NO_MOVE = 1e-12


def solve(
    net: GaussianBayesNet,
    evidence: Evidence,
    targets: Sequence[str],
    *,
    covariance: str = "block",
    schedule: str = "sequential",
    damping: float | None = None,
    moments: str = "taylor",
    max_rounds: int = 1000,
    tol: float | None = 1e-6,
    callback: Callable[[int, Mapping[str, float]], Any] | None = None,
    progress: bool | None = None,
) -> Posterior:
    """Engine "vmp".

    Args:
        covariance: "block" (one full C_i within each vertex) or "diagonal" (independent entries; the means of a vertex
            still move together).
        schedule: "sequential" (one vertex after the other, by which F_q never increases where the net is linear in each
            hidden vertex) or "parallel" (all from the same point, which can diverge).
        damping: share of the old mean that stays, in [0, 1); default 0 in sequence and 0.5 in parallel.
        moments: "taylor" (nonlinearities are linearised at the present means, every time these move) or "moment" (E f,
            E f' and Var f under q, where an entry-wise nonlinearity has a hidden vertex as its parent: statistical
            linearisation.  The remainder Var f - (E f')² C_jj counts in the free energy, entries taken as uncorrelated
            in it, and is held fixed while q moves).
        max_rounds: most rounds; a round visits every hidden vertex.
        tol: stop when no mean moves by more than this many posterior standard deviations and no variance by more than
            this part, nor are a thousand times that still to come at the rate at which moves shrink (None: make all
            rounds).
        callback: called with the round and its figures "gap" and "free_energy"; returning True stops.
        progress: show a bar (None: on a terminal only).

    Raises:
        InferenceError: options that do not fit; evidence on a deterministic vertex; uncertain weights used otherwise
            than in products and sums.
    """
    _check(covariance, schedule, moments, damping)
    if damping is None:
        damping = 0.0 if schedule == "sequential" else 0.5
    structure = Structure(evidence, moments == "moment")
    rounds = _Rounds(structure, covariance == "diagonal", schedule == "parallel", damping)
    if structure.hidden:
        outcome = iterate(
            rounds.step,
            label="variational message passing",
            max_rounds=max_rounds,
            tol=tol,
            diverged=rounds.trouble,
            remedy=_remedy(schedule, structure.linear),
            callback=callback,
            progress=progress,
        )
    else:
        outcome = Outcome([], True, "nothing is hidden")
    return Posterior(
        net,
        evidence,
        "vmp",
        targets,
        _MeanField(rounds.view),
        converged=outcome.converged,
        history=outcome.history,
        diagnostics={
            "covariance": covariance,
            "schedule": schedule,
            "damping": damping,
            "moments": moments,
            "rounds": outcome.rounds,
            "stopped": outcome.reason,
            "kl_gap": _kl_gap(rounds.view),
            **_statement(rounds.view),
        },
    )


def _check(covariance: str, schedule: str, moments: str, damping: float | None) -> None:
    choices = {
        "covariance": (covariance, ("block", "diagonal")),
        "schedule": (schedule, ("sequential", "parallel")),
        "moments": (moments, ("taylor", "moment")),
    }
    for option, (got, expected) in choices.items():
        if got not in expected:
            raise InferenceError(f"{option}: got {got!r}, expected {expected[0]!r} or {expected[1]!r}")
    if damping is not None and not 0 <= damping < 1:
        raise InferenceError(f"damping: got {damping}, expected a number of at least 0 and below 1")


def _remedy(schedule: str, linear: bool) -> str:
    if schedule == "parallel":
        return "Raise damping or max_rounds, or use schedule='sequential'."
    return "Raise max_rounds." if linear else "Raise max_rounds, or give damping=0.5."


def _statement(view: View) -> dict[str, str]:
    """What is exact, what is not."""
    structure = view.structure
    if structure.linear and not structure.shared:
        exact = "means and, by kl_gap, the log-evidence: -free_energy is a lower bound"
        return {"exact": exact, "approximate": "covariances: q has none between vertices, and is too narrow within"}
    if structure.net.labels or any(not _multilinear(structure.net, n) for n in structure.net):
        how = "integrated where they act on a hidden vertex, else " if structure.use_moments else ""
        return {
            "exact": "nothing: the free energy is that of the net as linearised, no strict bound",
            "approximate": f"nonlinearities are {how}linearised at the means; q has no covariance between vertices",
        }
    return {
        "exact": "-free_energy is a lower bound of the log-evidence: products are averaged over both factors",
        "approximate": "q has no covariance between vertices",
    }


def _multilinear(net: GaussianBayesNet, name: str) -> bool:
    """Whether an op is linear in what varies by sample, weights being given."""
    vertex = net[name]
    return vertex.kind != "op" or ops.get(str(vertex.op)).linear([net[p].plated for p in vertex.parents])


class _Rounds:
    """The state of the iteration: q, and the net seen from it."""

    def __init__(self, structure: Structure, diagonal: bool, parallel: bool, damping: float) -> None:
        self.structure, self.diagonal, self.parallel, self.damping = structure, diagonal, parallel, damping
        self.beliefs = structure.beliefs()
        self.view = View(structure, self.beliefs)
        self._least, self._before = np.inf, _NO_MOVE
        # A move over the one before it.
        self._share = 1.0
        self._gap = 0.0

    def step(self, _round: int) -> Mapping[str, float]:
        """One round; the figures are the largest move (or a part of what is to come), and the free energy in all."""
        view, self._gap = self.view, 0.0
        moved: dict[str, Belief] = {}
        for name in reversed(self.structure.hidden):
            moved[name] = self._moved(view, name)
            if not self.parallel:
                self.beliefs = self.beliefs | moved
                view = View(self.structure, self.beliefs, view.kept)
        if self.parallel:
            self.beliefs = moved
            view = View(self.structure, self.beliefs, view.kept)
        self.view = view
        self._least = min(self._least, self._gap)
        gap = max(self._gap, _FAR * self._still_to_go())
        return {"gap": gap, "free_energy": float(view.free_energy().sum())}

    def _still_to_go(self) -> float:
        """What the moves add up to, if they shrink as in the last two rounds: short ones may have far to go."""
        shares = [self._gap / self._before, self._share]
        self._before, self._share = max(self._gap, _NO_MOVE), shares[0]
        if self._gap <= _NO_MOVE:
            return self._gap
        return self._gap / max(1 - max(shares), _NO_MOVE)

    def trouble(self) -> str | None:
        """Whether the means run away."""
        if np.isfinite(self._gap) and self._gap <= _BLOW_UP * max(self._least, 1.0):
            return None
        return f"the means move by {self._gap:.3g} standard deviations a round and run away"

    def _moved(self, view: View, name: str) -> Belief:
        belief = self.beliefs[name]
        inverse = belief.restricted_inverse(view.precision(name))
        gradient = view.gradient(name)
        step = -times(inverse, belief.pattern, gradient)
        cov = self._diagonal_of(view.precision(name), belief) if self.diagonal else inverse
        self._measure(belief, step, cov)
        mean = belief.mean + (1 - self.damping) * step.reshape(belief.mean.shape)
        return Belief(mean, cov, belief.hidden, belief.pattern)

    @staticmethod
    def _diagonal_of(precision: Array, belief: Belief) -> Array:
        """Independent entries: C_jj = 1 / K_jj."""
        variance = belief.hidden / np.diagonal(precision, axis1=1, axis2=2)
        return variance[:, :, None] * np.eye(variance.shape[1])

    def _measure(self, belief: Belief, step: Array, cov: Array) -> None:
        new = np.diagonal(cov, axis1=1, axis2=2)[belief.hidden]
        old = np.diagonal(belief.cov, axis1=1, axis2=2)[belief.hidden]
        std = np.sqrt(np.where(belief.hidden, np.diagonal(cov, axis1=1, axis2=2), np.inf))[belief.pattern]
        self._gap = max(self._gap, float(np.abs(step / std).max(initial=0)))
        self._gap = max(self._gap, float(np.abs(np.log(new / old)).max(initial=0)))


def _kl_gap(view: View) -> Array | None:
    """KL(q ‖ posterior) = ½ (-Σ_i log |C_i| - log |K|) of a linear net; None where it is not linear, or too large.

    Shape: (samples,).
    """
    structure = view.structure
    sizes = [view.net[name].size for name in structure.plated]
    if not structure.linear or structure.shared or sum(sizes) > _GAP_LIMIT:
        return None
    ends = np.cumsum([0, *sizes])
    where = {n: slice(a, b) for n, a, b in zip(structure.plated, ends[:-1], ends[1:], strict=True)}
    joint = np.zeros((ends[-1], ends[-1]))
    for factor in structure.factors:
        total = np.zeros((view.net[factor].size, ends[-1]))
        for parent, block in view.blocks(factor).items():
            if parent in where:
                total[:, where[parent]] -= block[0]
        if factor in where:
            total[:, where[factor]] += np.eye(len(total))
        joint += total.T @ view.weigh(factor, total[None])[0]
    gap = np.zeros(view.evidence.samples)
    for belief in view.beliefs.values():
        gap -= 0.5 * belief.logdet()[belief.pattern]
    rows, pattern = view.evidence.patterns()
    for number, first in enumerate(rows):
        flags = [b.hidden[b.pattern[first]] for b in view.beliefs.values()]
        hidden = np.flatnonzero(np.concatenate([*flags, np.zeros(0, bool)]))
        gap[pattern == number] -= 0.5 * np.linalg.slogdet(joint[np.ix_(hidden, hidden)])[1]
    return gap


class _MeanField:
    """q as a Solution.

    Covariances between hidden vertices are 0 by the factorisation; deterministic vertices have those that the hidden
    vertices behind them give, to first order (uncertain weights exactly, nonlinearities as in the rounds).
    """

    def __init__(self, view: View) -> None:
        self.view, self.net, self.evidence = view, view.net, view.evidence

    def _out(self, array: Array) -> Array:
        return np.asarray(array, self.net.dtype)

    def mean(self, name: str) -> Array:
        """m_i; elsewhere the forward pass of the means (or moments).  Shape: (samples, *event)."""
        if self.net[name].kind != "likelihood":
            return self._out(self.view.point.values[name])
        probabilities = self.net.label_of(name).mean(self.view.point.values[self.net[name].parents[0]])
        known = self.evidence.values.get(name)
        return self._out(probabilities if known is None else np.where(np.isnan(known), probabilities, known))

    def variance(self, name: str) -> Array:
        """The diagonal of :meth:`covariance`.  Shape: (samples, *event)."""
        vertex = self.net[name]
        diagonal = np.diagonal(self.covariance(name, name), axis1=1, axis2=2)
        return diagonal.reshape(*((len(diagonal),) if vertex.plated else ()), *vertex.shape).copy()

    def covariance(self, a: str, b: str) -> Array:
        """Cov_q.  Shape: (samples, size of a, size of b); one row between parameters.

        Zeros between hidden vertices, by the factorisation.

        Raises:
            InferenceError: labels; two vertices behind the same uncertain weight.
        """
        for name in (a, b):
            if self.net[name].kind == "likelihood":
                raise InferenceError(f"{name!r} is a label: it has probabilities, no covariance; ask for its logits")
        if not self.net[a].plated or not self.net[b].plated:
            return self._out(self._parameter_covariance(a, b))
        beliefs = self.view.beliefs
        if a == b and a in beliefs:
            # Samples of one pattern of missing entries share one matrix.
            cov = self._out(beliefs[a].cov)
            rows = (self.evidence.samples, *cov.shape[1:])
            return np.broadcast_to(cov, rows) if len(cov) == 1 else cov[beliefs[a].pattern]
        total = self.view.value_covariance(a, b)
        if self._open(a) and self._open(b):
            if a == b:
                return self._out(total + self.view.weight_covariance(a))
            if self._weights(a) & self._weights(b):
                weight = sorted(self._weights(a) & self._weights(b))[0]
                raise InferenceError(
                    f"{a!r} and {b!r} share the uncertain parameter {weight!r}: their covariance is not computed; "
                    "estimate it from post.sample(n)"
                )
        return self._out(total)

    def _open(self, name: str) -> bool:
        """Whether the vertex is a function of hidden ones."""
        return not self.net[name].random and name not in self.evidence.do

    def _weights(self, name: str) -> set[str]:
        structure = self.view.structure
        behind = structure.through[name] | {name}
        weights = {p.weight for p in structure.products if p.vertex in behind}
        return weights | {s.parameter for s in structure.shifts if s.vertex in behind}

    def _parameter_covariance(self, a: str, b: str) -> Array:
        sizes = (self.net[a].size, self.net[b].size)
        if a == b:
            return self.view.beliefs[a].cov if a in self.view.beliefs else np.zeros((1, *sizes))
        weight, other = (b, a) if self.net[a].plated else (a, b)
        if self._open(other) and weight in self._weights(other):
            raise InferenceError(
                f"the covariance of {a!r} and {b!r} is not computed: one is a function of the other; "
                "estimate it from post.sample(n)"
            )
        return np.zeros((self.evidence.samples if self.net[other].plated else 1, *sizes))

    def sample(self, n: int, rng: np.random.Generator, names: Sequence[str]) -> dict[str, Array]:
        """Draws of q; deterministic vertices by their ops.  Shape of each: (n, samples, *event)."""
        draws: dict[str, list[Array]] = {name: [] for name in names}
        for _ in range(n):
            hidden = {name: self._draw(name, rng) for name in self.view.beliefs}
            rules = {name: _constant(value) for name, value in (dict(self.evidence.values) | hidden).items()}
            values, _maps = self.net.evaluate(self.evidence.do, self.evidence.samples, rules)
            for name in names:
                draws[name].append(
                    self._out(self._label(name, values, rng) if name in self.net.labels else values[name])
                )
        lead = {name: (n, self.evidence.samples) if self.net[name].plated else (n,) for name in names}
        return {name: np.reshape(rows, (*lead[name], *self.net[name].shape)) for name, rows in draws.items()}

    @cached_property
    def _roots(self) -> dict[str, Array]:
        """R_i with R_i R_iᵀ = C_i, zero at observed entries."""
        roots = {}
        for name, belief in self.view.beliefs.items():
            ones = ~belief.hidden[:, :, None] * np.eye(belief.hidden.shape[1])
            roots[name] = np.linalg.cholesky(belief.cov + ones) - ones
        return roots

    def _draw(self, name: str, rng: np.random.Generator) -> Array:
        belief = self.view.beliefs[name]
        noise = rng.standard_normal((len(belief.pattern), belief.cov.shape[1]))
        return belief.mean + times(self._roots[name], belief.pattern, noise).reshape(belief.mean.shape)

    def _label(self, name: str, values: Mapping[str, Array], rng: np.random.Generator) -> Array:
        drawn = self.net.label_of(name).sample(values[self.net[name].parents[0]], rng)
        known = self.evidence.values.get(name)
        return drawn if known is None else np.where(np.isnan(known), drawn, known)

    def messages(self) -> Mapping[str, Array]:
        """λ_i = Λ_i E ε_i of random vertices, what they hear of all others.

        At a plain parameter it is -∂F/∂θ of the energy at the means, without the share of the spread of q.
        """
        view = self.view
        rules = {name: _constant(view.message(name)) for name in view.structure.factors}
        found = view.point.everywhere(view.point.pull(rules, self.net.vertices))
        return {name: self._out(message) for name, message in found.items()}

    def log_evidence(self) -> Array:
        raise InferenceError(
            "vmp gives no log-evidence, but a bound of it: -post.free_energy; use engine='exact' where it applies"
        )

    def surprise(self, name: str) -> Array:
        if name in self.view.structure.factors:
            return self._out(self.view.energy(name))
        return np.zeros(self.evidence.samples if self.net[name].plated else (), self.net.dtype)

    def free_energy(self) -> Array:
        """F_q.  Shape: (samples,); () where uncertain weights couple the samples."""
        return self._out(self.view.free_energy())


def _constant(value: Array) -> Callable[[Any], Array]:
    return lambda _: value
