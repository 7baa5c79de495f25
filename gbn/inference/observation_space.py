"""The exact posterior of a linearised net in observation space: a system over what is observed.

Two sweeps apply S, the covariance of the observed quantities given everything else that is known::

    S u = y_observed of push(Q pull(u))          innovation = (evidence - prediction), by push of the residuals
    solve S u = innovation;   λ = pull(u);   d = push(Q λ + r);   posterior mean = v + d
    log p(evidence) = -½ (innovationᵀ S⁻¹ innovation + log |2πS|)
    Cov(v_a, v_b)   = p_aᵀ Q p_b - C_a S⁻¹ C_bᵀ,   p_a = pull(unit vectors at a),  C_a = y_observed of push(Q p_a)

Where nonlinearities were regressed, Q stands for Q + Ω throughout: what regression left over is noise of its vertex.
S is factored when few coordinates are observed, and solved by conjugate gradients when many are.  A label is a
unit-noise pseudo-observation s of Lᵀ d at its logits, with Fisher information W = L Lᵀ and score L s: the Laplace step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gbn.errors import ConvergenceWarning, InferenceError, SingularEvidenceError
from gbn.gaussian import LOG_2PI
from gbn.inference.conjugate_gradients import conjugate_gradients
from gbn.inference.coordinates import Coordinates
from gbn.inference.solution import LinearizedPosterior, per_sample
from gbn.linearize import Linearization, Rule

__all__ = ["ObservationPosterior"]

Array = np.ndarray[Any, Any]
_CHUNK_ENTRIES = 2**24
# The relative residual above which an answer by conjugate gradients is not taken for one.
_CG_ACCEPTED = 1e-6
_MOST_ROWS = 8
# Below this part of the prior, a variance or a pivot of S has lost too many digits.
_SOUND = 1e-6


class _System:
    """S and the sweeps at one linearisation.

    In a linear net S depends only on which entries are missing: ``by_pattern`` is then the system of one row for each
    pattern, and ``pattern`` says which of them stands for each sample.
    """

    def __init__(self, point: Linearization, patterns: tuple[Linearization, Array] | None = None) -> None:
        self.point, self.coordinates = point, Coordinates(point)
        self.pattern = patterns[1] if patterns else np.arange(point.evidence.samples)
        # Not itself: a system in a cycle keeps its arrays until the next collection of garbage.
        self._by_pattern = _System(patterns[0]) if patterns else None
        # Which row here stands for each sample, for messages.
        self.row_of = np.arange(point.evidence.samples)
        self.by_pattern.row_of = self.pattern
        net, evidence = point.net, point.evidence
        self.observed = [name for name, _ in self.coordinates.parts]
        noisy = {*net.latents, *point.spread} - set(evidence.do)
        self.noisy = [name for name in net.vertices if name in noisy]

    @property
    def by_pattern(self) -> _System:
        """See the class."""
        return self if self._by_pattern is None else self._by_pattern

    def pull(self, sources: Mapping[str, Array], wanted: Iterable[str]) -> dict[str, Array]:
        """λ from what some vertices send; an observed entry sends that and nothing else."""
        rules: dict[str, Rule] = {name: self._rule(name, sources.get(name)) for name in {*sources, *self.observed}}
        return self.point.pull(rules, wanted)

    def _rule(self, name: str, own: Array | None) -> Rule:
        mask = self.point.evidence.masks.get(name)
        closed = self.point.closed(name)

        def send(pulled: Array | None) -> Array | None:
            if closed or pulled is None:
                return own
            heard = pulled if mask is None else np.where(mask, pulled.dtype.type(0), pulled)
            return heard if own is None else heard + own

        return send

    def push(
        self, messages: Mapping[str, Array], wanted: Iterable[str] | None, more: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """push((Q + Ω) λ + more): reactions y and deviations d."""
        net, more = self.point.net, more or {}

        def source(name: str) -> Array | None:
            message, noise, spread = messages.get(name), net.noise(name), self.point.spread.get(name)
            parts = [more[name]] if name in more else []
            if message is not None and noise is not None:
                parts.append(noise.apply(message))
            if message is not None and spread is not None:
                parts.append(spread * message)
            return sum(parts[1:], parts[0]) if parts else None

        return self.point.push(source, wanted)

    def product(self, u: Array) -> Array:
        """S u.  Shape: (*lead, samples, size)."""
        messages = self.pull(self.coordinates.scatter(u), self.noisy)
        y, _ = self.push(messages, self.observed)
        return self.coordinates.gather(y, u.shape[:-2]) + self.coordinates.unit_noise * self.coordinates.present * u

    @cached_property
    def scale(self) -> Array:
        """Roughly the root of S's diagonal: standard deviations if noises met as independent.  Shape: (samples, size).

        Conjugate gradients work in these units: noises of very different size would hide the small in the large.
        """
        net, point = self.point.net, self.point

        def source(name: str) -> Array | None:
            noise, spread = net.noise(name) if name in self.noisy else None, point.spread.get(name)
            shape = (point.evidence.samples, *net[name].shape)
            own = None if noise is None else np.broadcast_to(noise.diagonal(), shape)
            return own if spread is None else spread if own is None else own + spread

        y, _ = point.push(source, self.observed, squared=True)
        columns = [np.ones((point.evidence.samples, 0))]
        for name, index in self.coordinates.parts:
            # The pseudo-observations of labels have unit noise.
            label, got = net[name].kind == "likelihood", y.get(name)
            rows = None if label or got is None else got.reshape(len(got), -1)[:, index]
            columns.append(np.ones((point.evidence.samples, len(index))) if rows is None else rows)
        variance = np.concatenate(columns, axis=1, dtype=np.float64)
        return np.sqrt(np.where(variance > 0, variance, 1))

    @cached_property
    def matrix(self) -> Array:
        """S, with ones on the diagonal for what a sample does not observe.  Shape: (samples, size, size)."""
        size, samples = self.coordinates.size, self.point.evidence.samples
        out = np.empty((samples, size, size))
        for chunk in _chunks(self.point, size):
            unit = np.zeros((len(chunk), samples, size))
            unit[np.arange(len(chunk)), :, chunk] = 1
            out[:, chunk] = np.moveaxis(self.product(unit), 0, 1)
        out = (out + np.swapaxes(out, 1, 2)) / 2
        diagonal = np.arange(size)
        out[:, diagonal, diagonal] += ~self.coordinates.present
        return out

    @cached_property
    def logdet(self) -> Array:
        """log |S|, over what each sample observes; raises SingularEvidenceError.  Shape: (samples,)."""
        diagonal = np.diagonal(self.matrix, axis1=1, axis2=2)
        scale = np.sqrt(np.maximum(diagonal, np.finfo(float).tiny))
        scaled = self.matrix / (scale[:, :, None] * scale[:, None, :])
        resolution = 10 * np.finfo(self.point.net.dtype).eps
        try:
            pivots = np.diagonal(np.linalg.cholesky(scaled), axis1=1, axis2=2)
        except np.linalg.LinAlgError:
            raise self.singular([p for p, one in enumerate(scaled) if not _is_definite(one, resolution)]) from None
        if (pivots**2 < resolution).any():
            raise self.singular(np.flatnonzero((pivots**2 < resolution).any(axis=1)))
        self.least_pivot = float(pivots.min(initial=1)) ** 2
        return 2 * (np.log(pivots) + np.log(scale)).sum(axis=1)

    def singular(self, bad: Sequence[int] | Array) -> SingularEvidenceError:
        """The error that names what is singular, and for which samples.

        bad: rows of this system.
        """
        net = self.point.net
        rows = np.flatnonzero(np.isin(self.row_of, bad))
        parts = np.repeat(np.arange(len(self.observed)), [len(index) for _, index in self.coordinates.parts])
        here = [self.observed[k] for k in np.unique(parts[self.coordinates.present[bad[0]]])] if len(bad) else []
        where = _rows(rows, len(self.row_of))
        certain = [name for name in here if net[name].kind != "likelihood" and net.noise(name) is None]
        certain = [name for name in certain if name not in self.point.spread]
        if certain:
            label = f"{certain[0]}.label"
            instead = f"observe its label {label!r} instead" if label in net else "observe less of it"
            return SingularEvidenceError(
                f"evidence on deterministic vertex {certain[0]!r}{where}: it is determined (or contradicted) by what "
                f"else is observed, so its density does not exist; {instead}, or give it noise with "
                f"net.set_noise({{{certain[0]!r}: cov}})"
            )
        return SingularEvidenceError(
            f"the observed vertices {here}{where} nearly determine one another: their covariance is singular in "
            f"{net.dtype}; raise their noise, observe fewer of them, or use float64"
        )

    def solve(self, right: Array, dense: bool) -> Array:
        """S⁻¹ right.  Shape: (*lead, samples, size)."""
        if not right.size:
            return right
        if not dense:
            return self._iterated(right)
        _ = self.by_pattern.logdet
        matrix = self.by_pattern.matrix
        columns = np.moveaxis(right.reshape(-1, *right.shape[-2:]), 0, -1)
        if self.by_pattern is self:
            solved = np.linalg.solve(matrix, columns)
        else:
            solved = np.empty_like(columns)
            for p, one in enumerate(matrix):
                rows = np.flatnonzero(self.pattern == p)
                stacked = np.moveaxis(columns[rows], 1, 0)
                answer = np.linalg.solve(one, stacked.reshape(len(one), -1)).reshape(stacked.shape)
                solved[rows] = np.moveaxis(answer, 0, 1)
        return np.moveaxis(solved, -1, 0).reshape(right.shape)

    def _iterated(self, right: Array) -> Array:
        """By conjugate gradients; raises SingularEvidenceError, and warns where they do not arrive."""
        scale = self.scale

        def product(u: Array) -> Array:
            return self.product(u / scale) / scale

        u, gap, flat = conjugate_gradients(product, right / scale, 10 * float(np.finfo(self.point.net.dtype).eps))
        samples = right.shape[-2]
        stuck = (flat & (gap > _CG_ACCEPTED)).reshape(-1, samples).any(axis=0)
        if stuck.any():
            raise self.singular(np.flatnonzero(stuck))
        if gap.max(initial=0) > _CG_ACCEPTED:
            rows = np.flatnonzero((gap > _CG_ACCEPTED).reshape(-1, samples).any(axis=0))
            warnings.warn(
                f"conjugate gradients stopped at a relative residual of {gap.max():.1e}"
                f"{_rows(np.flatnonzero(np.isin(self.row_of, rows)), len(self.row_of))}; raise "
                "dense_limit, or the noise of the observed vertices",
                ConvergenceWarning,
                stacklevel=2,
            )
        return u / scale


class ObservationPosterior(LinearizedPosterior):
    """The posterior at a linearisation, as a Solution: computed as far as it is asked for.

    Args:
        point: where the net is linearised.
        targets: vertices asked for.
        patterns: in a linear net, the linearisation of one row for each pattern of missing entries, and which of them
            stands for each row; None where every row has Jacobians of its own.
        dense: whether S is factored; otherwise conjugate gradients solve for what they can.
    """

    def __init__(
        self,
        point: Linearization,
        targets: Sequence[str],
        patterns: tuple[Linearization, Array] | None,
        dense: bool,
    ) -> None:
        super().__init__(point, targets)
        self.system = _System(point, patterns)
        self.coordinates, self.pattern = self.system.coordinates, self.system.pattern
        self.dense = dense
        self._least_left: dict[str, float] = {}

    def sound(self, names: Sequence[str]) -> bool:
        """Whether rounding leaves most digits of the means, and of the covariances of these vertices."""
        if not (self.dense and self.coordinates.size):
            return True
        _ = self.system.by_pattern.logdet
        for name in names:
            if name not in self._least_left and self.net[name].plated:
                self._diagonal(name)
        return min(self.system.by_pattern.least_pivot, *(self._least_left.get(n, 1.0) for n in names), 1.0) >= _SOUND

    def _note(self, name: str, prior: Array, left: Array) -> None:
        """Keep the least part of a prior variance that the evidence leaves."""
        least = np.min(left / np.where(prior > 0, prior, 1), where=prior > 0, initial=1.0)
        self._least_left[name] = min(float(least), self._least_left.get(name, 1.0))

    @cached_property
    def _residuals(self) -> dict[str, Array]:
        return {name: -error for name, error in self.point.errors.items()}

    def _innovation(self, more: Mapping[str, Array], scores: Array, lead: tuple[int, ...] = ()) -> Array:
        """Evidence minus prediction, when every vertex is moved by ``more`` first.  Shape: (*lead, samples, size)."""
        y, _ = self.system.push({}, self.system.observed, more)
        return scores - self.coordinates.gather(y, lead)

    @cached_property
    def innovation(self) -> Array:
        return self._innovation(self._residuals, self.coordinates.whitened_scores())

    @cached_property
    def multiplier(self) -> Array:
        """u: the solution of S u = innovation.  Shape: (samples, size)."""
        return self.system.solve(self.innovation, self.dense)

    @cached_property
    def deviations(self) -> Mapping[str, Array]:  # type: ignore[override]
        messages = self.system.pull(self.coordinates.scatter(self.multiplier), self.system.noisy)
        return self.system.push(messages, self.relevant, self._residuals)[1]

    @cached_property
    def all_messages(self) -> Mapping[str, Array]:  # type: ignore[override]
        return self.point.everywhere(self.system.pull(self.coordinates.scatter(self.multiplier), self.net.vertices))

    def variance(self, name: str) -> Array:
        vertex = self.gaussian(name)
        if not vertex.plated:
            return np.zeros(vertex.shape, self.net.dtype)
        by_pattern = self._diagonal(name)
        return per_sample(by_pattern.reshape(len(by_pattern), *vertex.shape), self.system.pattern)

    def covariance_by_pattern(self, a: str, b: str) -> Array:
        prior, cross = self._sensitivity(a, np.arange(self.net[a].size), b)
        if a == b:
            other = cross
        else:
            other = self._sensitivity(b, np.arange(self.net[b].size), b)[1]
        solved = self.system.by_pattern.solve(cross, self.dense)
        found = np.moveaxis(prior, 0, 1) - np.moveaxis(solved, 0, 1) @ np.moveaxis(other, 0, -1)
        if a == b:
            self._note(a, np.einsum("ibi->bi", prior), np.einsum("bii->bi", found))
        return found

    def _diagonal(self, name: str) -> Array:
        """Posterior variances.  Shape: (patterns, size)."""
        system = self.system.by_pattern
        size = self.net[name].size
        out = np.empty((system.point.evidence.samples, size))
        for index in _chunks(system.point, size):
            prior, cross = self._sensitivity(name, index, name)
            explained = (cross * system.solve(cross, self.dense)).sum(axis=-1)
            before = prior[np.arange(len(index)), :, index]
            out[:, index] = (before - explained).T
            self._note(name, before, before - explained)
        return np.maximum(out, 0).astype(self.net.dtype)

    def _sensitivity(self, name: str, index: Array, other: str) -> tuple[Array, Array]:
        """Prior covariance of some entries of a vertex with another vertex, and with the observed quantities.

        Shapes: (entries, patterns, size of other), (entries, patterns, coordinates).
        """
        system = self.system.by_pattern
        evidence, vertex = system.point.evidence, self.net[name]
        rows, lead = evidence.samples, (len(index),)
        unit = np.zeros((*lead, rows, vertex.size), self.net.dtype)
        unit[np.arange(len(index)), :, index] = 1
        unit = unit.reshape(*lead, rows, *vertex.shape)
        if name in evidence.masks:
            unit[:, evidence.masks[name]] = 0
        if system.point.closed(name) or name in evidence.do:
            y: dict[str, Array] = {}
            d: dict[str, Array] = {}
        else:
            messages = system.pull({name: unit}, system.noisy)
            y, d = system.push(messages, [other, *system.observed])
        size = self.net[other].size
        prior = d[other].reshape(*lead, rows, size) if other in d else np.zeros((*lead, rows, size))
        return prior.astype(np.float64), system.coordinates.gather(y, lead)

    def draws(self, n: int, rng: np.random.Generator) -> Mapping[str, Array]:
        """Draws of the prior, each corrected by the response to its own innovation."""
        samples, dtype, lead = self.evidence.samples, self.net.dtype, (n,)
        more: dict[str, Array] = {name: np.broadcast_to(r, (*lead, *r.shape)) for name, r in self._residuals.items()}

        def white(name: str) -> Array:
            return np.asarray(rng.standard_normal((*lead, samples, *self.net[name].shape)), dtype)

        for name in self.system.noisy:
            noise, spread = self.net.noise(name), self.point.spread.get(name)
            parts = [noise.root(white(name))] if noise is not None else []
            parts += [np.sqrt(spread) * white(name)] if spread is not None else []
            more[name] = sum(parts, more.get(name, dtype.type(0)))
        unit = self.coordinates.unit_noise * rng.standard_normal((*lead, samples, self.coordinates.size))
        innovation = self._innovation(more, self.coordinates.whitened_scores() - unit * self.coordinates.present, lead)
        u = self.system.solve(innovation, self.dense)
        messages = self.system.pull(self.coordinates.scatter(u), self.system.noisy)
        return self.system.push(messages, self.relevant, more)[1]

    def log_evidence(self) -> Array:
        if not self.dense:
            raise InferenceError(
                f"the log-evidence needs the determinant of a {self.coordinates.size}-dimensional covariance, which "
                f"conjugate gradients do not form; use solver='observations' with dense_limit={self.coordinates.size}"
            )
        gaussian = self.coordinates.present & (self.coordinates.unit_noise == 0)
        square = np.where(gaussian, self.innovation * self.multiplier, 0.0).sum(axis=1)
        logdet = self.system.by_pattern.logdet[self.system.pattern]
        total = -0.5 * (square + logdet + gaussian.sum(axis=1) * LOG_2PI)
        for name in self.net.labels:
            if name in self.evidence.values:
                total = total + self._label_evidence(name)
        return total.astype(self.net.dtype)

    def _label_evidence(self, name: str) -> Array:
        """A label's share of ½ s² - ½ innovationᵀ S⁻¹ innovation + log p(label at the operating point).

        The whitened score s is huge where a confident net is wrong, and its square would drown the rest.  With y₀ and d
        the logits' deviations before and after the evidence, the share is ½ (score (y₀ + d) - Lᵀy₀ Lᵀd) + log p: no s.
        """
        logits_name, target = self.net.vertices[name].parents[0], self.evidence.values[name]
        likelihood, logits = self.net.label_of(name), self.point.values[logits_name]
        present = (~np.isnan(target)).astype(self.net.dtype)
        zero = np.zeros_like(logits)
        before = self.system.push({}, [name], self._residuals)[1].get(logits_name, zero)
        after = self.deviations.get(logits_name, zero)
        spread = [likelihood.root_adjoint(logits, d, present) for d in (before, after)]
        gain = likelihood.score(logits, target) * (before + after) - spread[0] * spread[1]
        share = np.where(present > 0, gain, 0).reshape(len(gain), -1).sum(axis=1)
        return np.asarray(likelihood.log_prob(logits, target) + 0.5 * share, dtype=np.float64)


def _chunks(point: Linearization, size: int) -> Iterator[Array]:
    """Coordinates in groups small enough that one unit vector each fits in memory at every vertex."""
    entries = point.evidence.samples * sum(vertex.size for vertex in point.net.vertices.values() if vertex.plated)
    width = max(1, _CHUNK_ENTRIES // max(1, entries))
    return (np.arange(start, min(start + width, size)) for start in range(0, size, width))


def _is_definite(matrix: Array, resolution: float) -> bool:
    try:
        return bool((np.diagonal(np.linalg.cholesky(matrix)) ** 2 >= resolution).all())
    except np.linalg.LinAlgError:
        return False


def _rows(rows: Array, samples: int) -> str:
    """A clause that names some rows; nothing where it is all of them."""
    if len(rows) == samples:
        return ""
    listed = ", ".join(map(str, rows[:_MOST_ROWS])) + (f" and {len(rows) - _MOST_ROWS} more" * (len(rows) > _MOST_ROWS))
    return f" (row{'s' * (len(rows) > 1)} {listed})"
