"""Gaussian belief propagation between the hidden vertices, each a block of the precision K (with h = K mean).

    K_{i\\j} = K_ii + Σ_{k≠j} P_{k→i},          h_{i\\j} = h_i + Σ_{k≠j} h_{k→i}
    P_{i→j} = -K_ji K_{i\\j}⁻¹ K_ij,            h_{i→j} = -K_ji K_{i\\j}⁻¹ h_{i\\j}
    belief:  K_i = K_ii + Σ_k P_{k→i},         mean K_i⁻¹ (h_i + Σ_k h_{k→i}),  covariance K_i⁻¹

On a forest two passes, to the roots and back, are exact (Pearl 1988; Weiss & Freeman, Neural Computation 2001).  With
loops the messages are repeated; where they settle the means are exact and the covariances are not, and where a
precision stops being positive definite there is no answer.  Walk-summability (Malioutov, Johnson & Willsky, JMLR
2006), here for blocks, guarantees that they settle::

    ρ < 1,   ρ the spectral radius of the matrix of norms ‖K_ii^{-1/2} K_ij K_jj^{-1/2}‖₂, i ≠ j
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gbn.errors import ConvergenceWarning, InferenceError
from gbn.evidence import Evidence
from gbn.gaussian import LOG_2PI
from gbn.inference import predictive_coding
from gbn.inference.loop import Outcome, iterate
from gbn.inference.precision import Precision, by_pattern
from gbn.linearize import Linearization, Rule
from gbn.net import GaussianBayesNet
from gbn.posterior import Posterior

__all__ = ["solve"]

Array = np.ndarray[Any, Any]
Edge = tuple[str, str]
Message = tuple[Array, Array]
_REMEDY = "Raise damping (0.5, say) or max_rounds, or use engine='exact'."


def solve(
    net: GaussianBayesNet,
    evidence: Evidence,
    targets: Sequence[str],
    *,
    operating_point: str = "forward",
    schedule: str = "auto",
    damping: float = 0.0,
    max_rounds: int = 500,
    tol: float = 1e-10,
    callback: Callable[[int, Mapping[str, float]], Any] | None = None,
    progress: bool | None = None,
) -> Posterior:
    """Engine "bp".

    Args:
        operating_point: "forward" or "equilibrium", as for engine "exact".
        schedule: "tree" (two passes; the hidden vertices must form a forest), "residual" (always the message that
            would change most: Elidan, McGraw & Koller, UAI 2006), "parallel" (all from those of the round before), or
            "auto": "tree" where possible, else "residual".  A round sends as many messages as a parallel one.
        damping: share of the old message that is kept, at least 0 and below 1.  Not for trees.
        max_rounds: of the messages, when there are loops.
        tol: stop when no message would change by more, relative to the precisions (and potentials) of its receiver.
        callback: called with the round and its figures; returning True stops.
        progress: show a bar (None: on a terminal only).

    Raises:
        InferenceError: random parameters, evidence on a deterministic vertex, options that do not fit, or beliefs that
            are no densities.
    """
    _check(net, evidence, schedule, damping)
    linear = net.is_linear()
    point, arrived = _operating_point(evidence, operating_point, progress)
    messages = _Messages(Precision(point, targets, shared=linear), damping)
    schedule = _scheduled(messages, schedule)
    radius = None
    if schedule == "tree":
        messages.two_passes()
        outcome = Outcome([], True, "two passes over a tree arrive")
    else:
        radius = _walk_summability(messages.system, loopy=messages.order is None)
        outcome = iterate(
            messages.parallel if schedule == "parallel" else messages.by_residual,
            label="belief propagation",
            max_rounds=max_rounds,
            tol=tol,
            remedy=_REMEDY,
            measure="residual",
            callback=callback,
            progress=progress,
        )
    diagnostics = {
        "operating_point": operating_point,
        "graph": "tree" if messages.order is not None else "loopy",
        "blocks": len(messages.system.hidden),
        "edges": len(messages.edges) // 2,
        "schedule": schedule,
        "rounds": 1 if schedule == "tree" else outcome.rounds,
        "messages": messages.sent,
        "walk_summability": radius,
        "residual": outcome.history[-1]["residual"] if outcome.history else 0.0 if schedule == "tree" else np.inf,
        "stopped": outcome.reason,
        **_claims(messages.order is not None, linear, operating_point),
    }
    return Posterior(
        net,
        evidence,
        "bp",
        targets,
        _Beliefs(messages),
        converged=outcome.converged and arrived,
        history=outcome.history,
        diagnostics=diagnostics,
    )


def _check(net: GaussianBayesNet, evidence: Evidence, schedule: str, damping: float) -> None:
    uncertain = [name for name in net.parameters if net[name].random and name not in evidence.do]
    if uncertain:
        raise InferenceError(
            f"parameter {uncertain[0]!r} has a prior, which couples all samples and makes the net bilinear; engine "
            "'bp' needs plain parameters (net.set_noise({name: None})); engine='pc' takes them as they are"
        )
    if schedule not in ("auto", "tree", "residual", "parallel"):
        raise InferenceError(f"schedule: got {schedule!r}, expected 'auto', 'tree', 'residual' or 'parallel'")
    if not 0 <= damping < 1:
        raise InferenceError(f"damping: got {damping}, expected a number of at least 0 and below 1")


def _operating_point(evidence: Evidence, chosen: str, progress: bool | None) -> tuple[Linearization, bool]:
    """The net linearised there, and whether it was reached."""
    if chosen == "forward":
        return Linearization.forward(evidence), True
    if chosen == "equilibrium":
        point, outcome, _ = predictive_coding.equilibrium(evidence, progress=progress)
        return point, outcome.converged
    raise InferenceError(f"operating_point: got {chosen!r}, expected 'forward' or 'equilibrium'")


def _scheduled(messages: _Messages, schedule: str) -> str:
    if schedule == "tree" and messages.order is None:
        blocks, edges = len(messages.system.hidden), len(messages.edges) // 2
        raise InferenceError(
            f"schedule: got 'tree', but the hidden vertices have loops ({blocks} of them, {edges} edges); parents of a "
            "common child are neighbours.  Use schedule='residual', or engine='exact'"
        )
    if schedule == "auto":
        return "residual" if messages.order is None else "tree"
    return schedule


def _claims(tree: bool, linear: bool, operating_point: str) -> dict[str, str]:
    replaced = "" if linear else f"the net is replaced by its linearisation at the {operating_point} point"
    if tree:
        exact = "everything: the net is linear-Gaussian" if linear else "the posterior of the linearised net"
        return {"exact": exact, "approximate": replaced or "nothing"}
    loops = "variances, covariances and the free energy (Bethe's) count loops more than once"
    return {
        "exact": "means, where the messages converged" + ("" if linear else ", of the linearised net"),
        "approximate": loops if linear else f"{loops}; {replaced}",
    }


def _walk_summability(system: Precision, loopy: bool) -> float:
    """ρ of the matrix of block norms, the largest of all samples; warns where loops need it and it is too large."""
    hidden = system.hidden
    roots = {i: _Density(system.block(i, i), i).root for i in hidden}
    rows = max((len(block) for block in roots.values()), default=1)
    norms = np.zeros((rows, len(hidden), len(hidden)))
    for a, i in enumerate(hidden):
        for b, j in enumerate(hidden[:a]):
            if j in system.neighbours[i]:
                scaled = roots[i] @ system.block(i, j) @ np.swapaxes(roots[j], 1, 2)
                norms[:, a, b] = norms[:, b, a] = np.linalg.norm(scaled, ord=2, axis=(1, 2))
    radius = float(np.linalg.eigvalsh(norms)[:, -1].max()) if hidden else 0.0
    if radius >= 1 and loopy:
        warnings.warn(
            f"belief propagation: the hidden vertices have loops and ρ = {radius:.3g}, not below 1, so the messages "
            "may not converge; join small vertices into larger ones, or use engine='exact'",
            ConvergenceWarning,
            stacklevel=5,
        )
    return radius


def _forest(neighbours: Mapping[str, Sequence[str]]) -> list[Edge] | None:
    """(parent, child) from the roots outward; None where there is a loop."""
    order: list[Edge] = []
    seen: set[str] = set()
    for root in neighbours:
        if root in seen:
            continue
        seen.add(root)
        front = [(root, child) for child in neighbours[root]]
        while front:
            parent, child = front.pop()
            if child in seen:
                return None
            seen.add(child)
            order.append((parent, child))
            front += [(child, k) for k in neighbours[child] if k != parent]
    return order


class _Messages:
    """The state: P_{i→j} and h_{i→j} of every directed edge; those not sent yet are zero.

    order: (parent, child) from the roots outward where the graph is a forest, else None.
    """

    def __init__(self, system: Precision, damping: float) -> None:
        self.system, self.damping, self.sent = system, damping, 0
        self.edges = [(i, j) for i, others in system.neighbours.items() for j in others]
        self.order = _forest(system.neighbours)
        self.state: dict[Edge, Message] = {}
        self._pending: dict[Edge, tuple[float, Message]] = {}
        # Units in which changes are measured: the standard deviation of an entry when all others are known.
        self._unit = {i: 1 / np.sqrt(np.diagonal(system.block(i, i), axis1=1, axis2=2)) for i in system.hidden}
        largest = [np.abs(system.h[i] * self._rows(self._unit[i])).max(axis=1) for i in system.hidden]
        self._scale = np.max([np.full(len(system.pattern), np.finfo(float).tiny), *largest], axis=0)

    def _rows(self, matrix_rows: Array) -> Array:
        """One row for each sample."""
        return matrix_rows if len(matrix_rows) == 1 else matrix_rows[self.system.pattern]

    def cavity(self, i: str, without: str | None = None) -> Message:
        """K_{i\\j} and h_{i\\j}; the belief's, when nothing is left out."""
        precision, potential = self.system.block(i, i), self.system.h[i]
        for k in self.system.neighbours[i]:
            if k != without and (k, i) in self.state:
                precision, potential = precision + self.state[k, i][0], potential + self.state[k, i][1]
        return precision, potential

    def regression(self, i: str, j: str) -> Array:
        """The matrix of E[d_i | d_j] in what i's side of the edge knows: -K_{i\\j}⁻¹ K_ij."""
        return -_Density(self.cavity(i, j)[0], i).cov @ self.system.block(i, j)

    def fresh(self, edge: Edge) -> Message:
        """The message that i would send to j now."""
        i, j = edge
        with np.errstate(over="ignore", invalid="ignore"):
            gain = np.swapaxes(self.regression(i, j), 1, 2)
            precision = gain @ self.system.block(i, j)
            precision = (precision + np.swapaxes(precision, 1, 2)) / 2
            potential = by_pattern(gain, self.cavity(i, j)[1], self.system.pattern)
        if not (np.isfinite(precision).all() and np.isfinite(potential).all()):
            raise InferenceError(
                f"belief propagation: the messages from {i!r} overflowed; raise damping, or use engine='exact'"
            )
        return precision, potential

    def two_passes(self) -> None:
        """Collect at the roots, then distribute."""
        order = self.order or []
        for edge in [*((j, i) for i, j in reversed(order)), *order]:
            self._send(edge, self.fresh(edge))

    def parallel(self, _round: int) -> Mapping[str, float]:
        """All messages from those of the round before."""
        fresh = {edge: self.fresh(edge) for edge in self.edges}
        change = max((self._change(edge, message) for edge, message in fresh.items()), default=0.0)
        for edge, message in fresh.items():
            self._send(edge, message)
        return {"residual": change, "messages": self.sent}

    def by_residual(self, _round: int) -> Mapping[str, float]:
        """As many messages as there are directed edges, each time the one that changes most."""
        if not self._pending:
            self._consider(self.edges)
        for _ in self.edges:
            edge = max(self._pending, key=lambda e: self._pending[e][0])
            if self._pending[edge][0] == 0:
                break
            self._send(edge, self._pending[edge][1])
            i, j = edge
            self._consider([edge, *((j, k) for k in self.system.neighbours[j] if k != i)])
        return {"residual": max((p[0] for p in self._pending.values()), default=0.0), "messages": self.sent}

    def _consider(self, edges: Sequence[Edge]) -> None:
        for edge in edges:
            message = self.fresh(edge)
            self._pending[edge] = self._change(edge, message), message

    def _send(self, edge: Edge, message: Message) -> None:
        old = self.state.get(edge)
        if self.damping and old is not None:
            keep = self.damping
            message = (1 - keep) * message[0] + keep * old[0], (1 - keep) * message[1] + keep * old[1]
        self.state[edge] = message
        self.sent += 1

    def _change(self, edge: Edge, message: Message) -> float:
        """How far a message is from the one last sent, in units of its receiver."""
        unit, old = self._unit[edge[1]], self.state.get(edge)
        precision, potential = message if old is None else (message[0] - old[0], message[1] - old[1])
        relative = np.abs(potential * self._rows(unit)).max(axis=1, initial=0) / self._scale
        matrix = np.abs(precision * unit[:, :, None] * unit[:, None, :])
        return float(max(relative.max(initial=0), matrix.max(initial=0)))


class _Density:
    """A precision K of positive definite rows: ``root`` R with Rᵀ R = K⁻¹, and log |K|.

    Raises:
        InferenceError: naming the vertex, where it is not positive definite.
    """

    def __init__(self, precision: Array, name: str) -> None:
        try:
            factor = np.linalg.cholesky(precision)
        except np.linalg.LinAlgError:
            # Precisions fall from round to round, so what is lost here no later round and no damping brings back.
            raise InferenceError(
                f"belief propagation: the precision of {name!r} is not positive definite: loops count the same "
                "information too often (or the net is nearly singular in float64), so there is no answer; join "
                "vertices on loops into larger ones, or use engine='exact'"
            ) from None
        self.root = np.linalg.inv(factor)
        self.logdet = 2 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)

    @cached_property
    def cov(self) -> Array:
        """K⁻¹."""
        return np.swapaxes(self.root, 1, 2) @ self.root


class _Beliefs:
    """The posterior from messages, as a Solution: computed as far as it is asked for."""

    def __init__(self, messages: _Messages) -> None:
        self.state, self.system, self.point = messages, messages.system, messages.system.point
        self.net, self.evidence, self.pattern = self.point.net, self.point.evidence, self.system.pattern
        self.tree = messages.order is not None
        self._belief: dict[str, _Density] = {}
        self._mean: dict[str, Array] = {}
        for name in self.system.hidden:
            precision, potential = messages.cavity(name)
            self._belief[name] = _Density(precision, name)
            self._mean[name] = by_pattern(self._belief[name].cov, potential, self.pattern)

    def mean(self, name: str) -> Array:
        vertex = self.net[name]
        if vertex.kind == "likelihood":
            return self._label(name, self.net.label_of(name).mean(self.mean(vertex.parents[0])))
        return self._at(name, self._mean)

    def _at(self, name: str, d: Mapping[str, Array], lead: tuple[int, ...] = ()) -> Array:
        """The value of a vertex where the hidden ones deviate by d.  Shape: (*lead, samples, *event)."""
        value = self.point.values[name]
        value = np.broadcast_to(value, (*lead, *value.shape))
        if not self.system.dependence(name):
            return value
        return value + self.system.deviation(name, d).reshape(value.shape).astype(self.net.dtype)

    def _label(self, name: str, guess: Array) -> Array:
        """What is known of a label, and the guess elsewhere."""
        known = self.evidence.values.get(name)
        return guess if known is None else np.where(np.isnan(known), guess, known)

    def variance(self, name: str) -> Array:
        vertex = self._gaussian(name)
        if not vertex.plated:
            return np.zeros(vertex.shape, self.net.dtype)
        diagonal = np.diagonal(self._covariance(name, name), axis1=1, axis2=2)
        return self._per_sample(np.maximum(diagonal, 0).reshape(-1, *vertex.shape))

    def covariance(self, a: str, b: str) -> Array:
        self._gaussian(a), self._gaussian(b)
        cov = self._covariance(a, b)
        return self._per_sample((cov + np.swapaxes(cov, 1, 2)) / 2 if a == b else cov)

    def _covariance(self, a: str, b: str) -> Array:
        """Σ_jk T_aj C_jk T_bkᵀ over the hidden vertices that the two depend on.  Shape: (1 or patterns, |a|, |b|)."""
        total = np.zeros((1, self.net[a].size, self.net[b].size))
        for j, left in self.system.dependence(a).items():
            for k, right in self.system.dependence(b).items():
                total = total + left @ self._joint(j, k, a, b) @ np.swapaxes(right, 1, 2)
        return total

    def _joint(self, j: str, k: str, a: str, b: str) -> Array:
        """C_jk of two hidden vertices: regressions along the path from one to the other.  a, b: for the message."""
        cov, path = self._belief[k].cov, self._path(j, k)
        if path is None:
            return np.zeros((1, self.net[j].size, self.net[k].size))
        if not self.tree and len(path) > 2:
            raise InferenceError(
                f"the covariance of {a!r} and {b!r} needs that of {j!r} and {k!r}, which are not neighbours in a graph "
                "with loops; belief propagation has it only within a vertex and between neighbours.  "
                "Use engine='exact'"
            )
        for near, far in zip(path[-2::-1], path[:0:-1], strict=True):
            cov = self.state.regression(near, far) @ cov
        return cov

    def _path(self, j: str, k: str) -> list[str] | None:
        """A shortest path; None between components."""
        paths, seen = [[j]], {j}
        for path in paths:
            if path[-1] == k:
                return path
            further = [n for n in self.system.neighbours[path[-1]] if n not in seen]
            seen.update(further)
            paths += [[*path, n] for n in further]
        return None

    def _gaussian(self, name: str) -> Any:
        vertex = self.net[name]
        if vertex.kind == "likelihood":
            raise InferenceError(f"{name!r} is a label: ask for the covariance of its logits {vertex.parents[0]!r}")
        return vertex

    def _per_sample(self, rows: Array) -> Array:
        """From one row a pattern to one row a sample; a broadcast where there is one row."""
        rows = rows.astype(self.net.dtype)
        if len(rows) == 1:
            return np.broadcast_to(rows, (len(self.pattern), *rows.shape[1:]))
        return rows[self.pattern]

    def sample(self, n: int, rng: np.random.Generator, names: Sequence[str]) -> dict[str, Array]:
        """Draws from the roots outward, each vertex given the one before it."""
        if self.state.order is None:
            raise _refusal("there are no samples", "use engine='exact'")
        before = {child: parent for parent, child in self.state.order}
        d: dict[str, Array] = {}
        for name in [*(i for i in self.system.hidden if i not in before), *before]:
            parent = before.get(name)
            precision, potential = self.state.cavity(name, parent)
            density = _Density(precision, name)
            draw = rng.standard_normal((n, *potential.shape))
            draw = by_pattern(np.swapaxes(density.root, 1, 2), draw, self.pattern)
            d[name] = draw + by_pattern(density.cov, potential, self.pattern)
            if parent is not None:
                d[name] += by_pattern(self.state.regression(name, parent), d[parent], self.pattern)
        return {name: self._draw(name, d, n, rng) for name in names}

    def _draw(self, name: str, d: Mapping[str, Array], n: int, rng: np.random.Generator) -> Array:
        vertex = self.net[name]
        if vertex.kind != "likelihood":
            return self._at(name, d, (n,))
        logits = self._at(vertex.parents[0], d, (n,))
        flat = self.net.label_of(name).sample(logits.reshape(-1, *vertex.shape), rng)
        return self._label(name, flat.reshape(logits.shape))

    @cached_property
    def _messages(self) -> Mapping[str, Array]:
        """λ by pull: what is observed answers for its error at the posterior mean."""
        net, evidence = self.net, self.evidence
        rules: dict[str, Rule] = {name: self._rule(name) for name in evidence.values}
        return self.point.everywhere(self.point.pull(rules, net.vertices))

    def _rule(self, name: str) -> Rule:
        point, vertex = self.point, self.net[name]
        shift = self.system.shift(name, self._mean).reshape(-1, *vertex.shape)
        if vertex.kind == "likelihood":
            label, target = self.net.label_of(name), self.evidence.values[name]
            logits, present = point.values[vertex.parents[0]], (~np.isnan(target)).astype(np.float64)
            explained = label.root(logits, label.root_adjoint(logits, shift, present), present)
            score = (label.score(logits, target) - explained).astype(self.net.dtype)
            return lambda _: score
        moved = self.system.deviation(name, self._mean).reshape(shift.shape)
        error = (point.errors[name] + moved - shift).astype(self.net.dtype)
        if point.closed(name):
            message = self.net.noises[str(vertex.noise)].solve(error)
            return lambda _: message
        conditional = self.evidence.conditionals[name]
        return lambda pulled: conditional.messages(error, np.zeros_like(error) if pulled is None else pulled)

    def messages(self) -> Mapping[str, Array]:
        return self._messages

    def surprise(self, name: str) -> Array:
        vertex, noise = self.net[name], self.net.noise(name)
        nothing = np.zeros(self.evidence.samples, self.net.dtype)
        if vertex.kind == "likelihood":
            known = self.evidence.values.get(name)
            return nothing if known is None else -self.net.label_of(name).log_prob(self.mean(vertex.parents[0]), known)
        if name in self.evidence.do or noise is None:
            return nothing
        # The posterior mean of the noise is Q λ, so its energy is λᵀ Q λ.
        return 0.5 * (noise.quadratic(self._messages[name]) + noise.logdet + vertex.size * LOG_2PI)

    def free_energy(self) -> Array:
        """Bethe's: -Σ_i (1 - degree) log Z_i - Σ_edges log Z_ij, which is -log p(evidence) on a forest."""
        state, total = self.state, self.system.energy - 0.5 * LOG_2PI * self.system.free
        place = {name: number for number, name in enumerate(self.system.hidden)}
        for name, others in self.system.neighbours.items():
            _, potential = state.cavity(name)
            total = total - (1 - len(others)) * self._log_z(self._belief[name], potential)
        for i, j in state.edges:
            if place[i] > place[j]:
                continue
            (precision, potential), message = state.cavity(j, i), state.fresh((i, j))
            side, known = state.cavity(i, j)
            total = total - self._log_z(_Density(side, i), known)
            total = total - self._log_z(_Density(precision + message[0], j), potential + message[1])
        return total.astype(self.net.dtype)

    def _log_z(self, density: _Density, potential: Array) -> Array:
        """½ hᵀ K⁻¹ h - ½ log |K|.  Shape: (samples,)."""
        whitened = by_pattern(density.root, potential, self.pattern)
        logdet = density.logdet if len(density.logdet) == 1 else density.logdet[self.pattern]
        return 0.5 * ((whitened * whitened).sum(axis=1) - logdet)

    def log_evidence(self) -> Array:
        if not self.tree:
            raise _refusal(
                "there is no log-evidence",
                "post.free_energy is Bethe's approximation of -log p(evidence); for the exact one use engine='exact'",
            )
        return -self.free_energy()


def _refusal(what: str, remedy: str) -> InferenceError:
    return InferenceError(f"belief propagation: the hidden vertices have loops, so {what}; {remedy}")
