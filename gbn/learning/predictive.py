"""Predictions with uncertain weights: Student-t in closed form where there is one, else averages over drawn weights.

Of a regression whose priors scale with the noise, y | u has 2a degrees of freedom and squared scale (b/a) (1 + uᵀ V u)
(Bishop, *Pattern Recognition and Machine Learning*, 2006, exercise 3.13; of a full noise ν - d + 1 degrees of freedom).
Everything else is a mixture: nets with weights and noises drawn from the posterior answer, and count alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg, special

from gbn.errors import LearningError, UnknownNameError
from gbn.evidence import Evidence
from gbn.gaussian import LOG_2PI
from gbn.graph import uncertain_given
from gbn.learning.assumed import posterior_net
from gbn.learning.design import Design, Mean
from gbn.learning.numbers import parameters_of, with_noise
from gbn.learning.precisions import Gamma, Known, Precision, Wishart, student_log_density, student_quantile
from gbn.learning.weights_posterior import spread_of
from gbn.linearize import Linearization

if TYPE_CHECKING:
    from gbn.learning.weights_posterior import WeightPosterior
    from gbn.net import GaussianBayesNet

__all__ = ["Predictive", "draws", "log_predictive", "predict"]

Array = np.ndarray[Any, Any]
_BISECTIONS = 60
_KINDS = ("dof", "centre", "scale")


@dataclass(frozen=True, eq=False, repr=False)
class Predictive:
    """What is to be expected of vertices.

    Attributes:
        exact: vertices whose distribution is a Student-t in closed form; the others are mixtures of Gaussians.
        dof, centre, scale: of each vertex, the components: degrees of freedom (∞: Gaussian), means and scales.
            Shape: (components, samples, *event).
    """

    exact: frozenset[str]
    dof: Mapping[str, Array]
    centre: Mapping[str, Array]
    scale: Mapping[str, Array]

    def __repr__(self) -> str:
        return f"Predictive({', '.join(map(repr, self.centre))})"

    @property
    def mean(self) -> Mapping[str, Array]:
        """Shape of each: (samples, *event)."""
        return {name: centre.mean(axis=0) for name, centre in self.centre.items()}

    @property
    def var(self) -> Mapping[str, Array]:
        """∞ where there is none.  Shape of each: (samples, *event)."""
        out = {}
        for name, centre in self.centre.items():
            dof, square = self.dof[name], self.scale[name] ** 2
            with np.errstate(divide="ignore", invalid="ignore"):
                wider = np.where(np.isinf(dof), 1.0, np.where(dof > 2, dof / (dof - 2), np.inf))
            out[name] = (square * wider).mean(axis=0) + centre.var(axis=0)
        return out

    @property
    def std(self) -> Mapping[str, Array]:
        """Shape of each: (samples, *event)."""
        return {name: np.sqrt(value) for name, value in self.var.items()}

    def interval(self, name: str, level: float = 0.9) -> tuple[Array, Array]:
        """The central interval of each entry that holds it with this probability.  Shape of each: (samples, *event)."""
        if name not in self.centre:
            raise UnknownNameError("predicted vertex", name, self.centre)
        if not 0 < level < 1:
            raise LearningError(f"level: got {level}, expected a probability above 0 and below 1")
        return self._quantile(name, (1 - level) / 2), self._quantile(name, (1 + level) / 2)

    def _quantile(self, name: str, chance: float) -> Array:
        dof, centre, scale = self.dof[name], self.centre[name], self.scale[name]
        each = centre + scale * student_quantile(dof, chance)
        low, high = each.min(axis=0), each.max(axis=0)
        if len(centre) == 1:
            return np.asarray(low)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            with np.errstate(divide="ignore", invalid="ignore"):
                below = special.ndtr((middle - centre) / scale).mean(axis=0) < chance
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray((low + high) / 2)


def draws(post: WeightPosterior, n: int, rng: np.random.Generator) -> Iterator[GaussianBayesNet]:
    """Nets with weights and noises drawn from the posterior, jointly."""
    if n < 1:
        raise LearningError(f"draws: got {n}, expected a number of at least 1")
    blocks = post.blocks
    roots: list[Array] = [np.linalg.cholesky(matrix) for matrix in blocks.stacked(post.precision)]
    for _ in range(n):
        noises = {key: _drawn(noise, rng) for key, noise in post.noises.items()}
        unit = np.empty(blocks.entries)
        for (_, index, _), root in zip(blocks.stacks, roots, strict=True):
            white = np.asarray(rng.standard_normal(index.shape))
            unit[index] = np.asarray(np.linalg.solve(root.swapaxes(1, 2), white[..., None]))[..., 0]
        for number, key in enumerate(post.keys):
            mine = (post.owner == number)[blocks.label]
            if noises[key].form != "full":
                unit[mine] /= np.sqrt(noises[key].diagonal[post.row[blocks.label[mine]]])
            elif mine.any():
                # With Λ = L Lᵀ, L⁻ᵀ times white rows has the covariance Λ⁻¹ over the rows.
                factor = np.linalg.cholesky(noises[key].mean)
                for entry in post.matrices(number):
                    unit[entry] = linalg.solve_triangular(factor, unit[entry], lower=True, trans="T")
        yield posterior_net(_fixed_noises(post.net, noises), post.filled(post.theta + unit), {})


def _drawn(noise: Precision, rng: np.random.Generator) -> Known:
    if isinstance(noise, Known):
        return noise
    if isinstance(noise, Gamma):
        value = rng.standard_gamma(noise.shape) / noise.rate
        value = np.maximum(value, np.finfo(float).tiny * 1e8)
        return Known(noise.form, np.broadcast_to(value, (noise.size,)))
    return Known("full", noise.draw(rng))


def _fixed_noises(net: GaussianBayesNet, noises: Mapping[str, Known]) -> GaussianBayesNet:
    found = {}
    for key, noise in noises.items():
        form = net.noises[key].form
        value = np.linalg.inv(noise.precision) if form == "full" else 1 / noise.precision
        found[key] = value[0] if form == "scalar" else (value + value.T) / 2 if form == "full" else value
    return with_noise(net, found)


def predict(
    post: WeightPosterior, evidence: Any, targets: str | Sequence[str] | None, do: Any, n: int, rng: np.random.Generator
) -> Predictive:
    """What is to be expected of some vertices given others, with weights and noises uncertain.

    Args:
        evidence, do: as for a query.
        targets: vertices; None: the outputs that are not given.
        n: nets drawn, where there is no closed form.

    Raises:
        UnknownNameError, EvidenceError, ShapeError: naming the vertex.
    """
    given = Evidence.read(post.net, evidence, do)
    if targets is None:
        targets = [name for name in post.net.outputs if name not in given.values and name not in given.do]
    names = [targets] if isinstance(targets, str) else list(targets)
    for name in names:
        if name not in post.net or not post.net[name].plated or post.net[name].kind == "likelihood":
            plated = [v for v in post.net if post.net[v].plated and post.net[v].kind != "likelihood"]
            raise UnknownNameError("vertex to predict", name, plated)
    closed: dict[str, _Closed] = {}
    for name in names:
        found = _closed(post, given, name) if _nothing_below(given, name) else None
        if found is not None:
            closed[name] = found
    dof, centre, scale = (
        {n: part for n, c in closed.items() for part in (getattr(c, kind)()[None],)} for kind in _KINDS
    )
    left = [name for name in names if name not in closed]
    if left:
        found_means, found_stds = {name: list[Array]() for name in left}, {name: list[Array]() for name in left}
        for net in draws(post, n, rng):
            answer = net.query(left, evidence, do)
            for name in left:
                found_means[name].append(np.asarray(answer.mean[name], np.float64))
                found_stds[name].append(np.asarray(answer.std[name], np.float64))
        for name in left:
            centre[name], scale[name] = np.stack(found_means[name]), np.stack(found_stds[name])
            dof[name] = np.full_like(scale[name], np.inf)
    return Predictive(frozenset(closed), *({n: parts[n] for n in names} for parts in (dof, centre, scale)))


@dataclass(frozen=True, eq=False)
class _Closed:
    """A vertex as Student-t variables.

    values: A u, and widths: 1 + uᵀ V u.  Shape: (samples, size).
    """

    noise: Precision
    event: tuple[int, ...]
    values: Array
    widths: Array

    def _events(self, array: Array) -> Array:
        return np.broadcast_to(array, self.values.shape).reshape(len(self.values), *self.event)

    def dof(self) -> Array:
        return self._events(self._spread[0])

    def centre(self) -> Array:
        return self._events(self.values)

    def scale(self) -> Array:
        return self._events(np.sqrt(self._spread[1] * self.widths))

    @property
    def _spread(self) -> tuple[Array, Array]:
        return spread_of(self.noise)

    def log_density(self, at: Array, seen: Array) -> Array:
        """Of the entries that were seen.  Shapes: (samples, size) -> (samples,)."""
        error, noise = at - self.values, self.noise
        if isinstance(noise, Gamma) and len(noise.shape) < noise.size:
            count = seen.sum(axis=1)
            square = (np.where(seen, error, 0.0) ** 2 / self.widths).sum(axis=1)
            a, b = noise.shape[0], noise.rate[0]
            logs = special.gammaln(a + count / 2) - special.gammaln(a) - 0.5 * count * np.log(2 * np.pi * b)
            logs -= 0.5 * np.where(seen, np.log(self.widths), 0.0).sum(axis=1)
            return np.asarray(logs - (a + count / 2) * np.log1p(square / (2 * b)))
        if noise.form != "full":
            dof, square = self._spread
            each = student_log_density(error, dof, square * self.widths)
            return np.asarray(np.where(seen, each, 0.0).sum(axis=1))
        dof, width = self._spread[0][0], self.widths[:, 0]
        shape = noise.scatter / dof if isinstance(noise, Wishart) else np.linalg.inv(noise.mean)
        white = linalg.solve_triangular(np.linalg.cholesky(shape), error.T, lower=True).T / np.sqrt(width)[:, None]
        whole = seen.all(axis=1)
        logdet = 0.5 * np.linalg.slogdet(shape)[1] + 0.5 * noise.size * np.log(width)
        if np.isinf(dof):
            logs = -0.5 * (white**2).sum(axis=1) - 0.5 * noise.size * LOG_2PI
            return np.where(whole, logs - logdet, 0.0)
        d = noise.size
        logs = special.gammaln((dof + d) / 2) - special.gammaln(dof / 2) - 0.5 * d * np.log(dof * np.pi) - logdet
        return np.where(whole, logs - 0.5 * (dof + d) * np.log1p((white**2).sum(axis=1) / dof), 0.0)


def _closed(post: WeightPosterior, given: Evidence, name: str) -> _Closed | None:
    """A vertex of which all regressors are known and all weights in units of its own noise; None elsewhere."""
    net, vertex = post.net, post.net[name]
    if vertex.noise is None or vertex.noise not in post.noises or vertex.kind != "op":
        return None
    order = {v: k for k, v in enumerate(net.vertices)}
    learned = {p for p in post.where if net[p].kind == "parameter"}
    mean = Mean.of(net, name, learned, order)
    moving = uncertain_given(given)
    if mean.faults() or len(mean.blocks()) > 1 or any(r in moving for r in mean.regressors):
        return None
    point = Linearization.forward(given)
    u = [np.asarray(point.values[r], np.float64).reshape(given.samples, -1) for r in mean.regressors]
    rows = np.concatenate([*u, np.ones((given.samples, 1))], axis=1)
    values = {n: np.asarray(v.value, np.float64) for n, v in net.vertices.items() if v.value is not None}
    values |= {n: np.asarray(v, np.float64) for n, v in post.values.items()}
    centre, widths = rows @ mean.coefficients(values).T, np.ones((given.samples, vertex.size))
    noise = post.noises[vertex.noise]
    if mean.learned:
        found = _widths(post, mean, values, rows, vertex.noise)
        if found is None:
            return None
        widths = widths + found
    return _Closed(noise, vertex.shape, np.broadcast_to(centre, widths.shape), widths)


def _widths(post: WeightPosterior, mean: Mean, values: Mapping[str, Array], rows: Array, key: str) -> Array | None:
    """uᵀ V u of each row of A, in units of the noise.  Shape: (samples, size)."""
    blocks, noise, size = post.blocks, post.noises[key], mean.shape[0]
    numbers = np.concatenate([post.where[p] for p in mean.learned])
    t = Design(mean, mean.learned).coefficients(values).design.tocsr()
    number = post.keys.index(key)
    out = np.zeros((len(rows), size))
    touched: dict[int, int] = {}
    for i in range(size):
        # The rows of T that belong to A_i.
        part = t[np.arange(i, t.shape[0], size)]
        chosen = np.unique(part.indices)
        chosen = chosen[numbers[chosen] >= 0]
        entries = numbers[chosen]
        for label in np.unique(blocks.label[entries]):
            scaled = post.owner[label] == number and (noise.form == "scalar" or post.row[label] == i)
            free = post.owner[label] < 0 and isinstance(noise, Known)
            # A block in two rows makes these depend on one another.
            if not (scaled or free) or touched.setdefault(int(label), i) != i:
                return None
            mine = blocks.label[entries] == label
            along = rows @ np.asarray(part[:, chosen[mine]].toarray())
            e = entries[mine]
            square = post.covariance[blocks.place(e[:, None], e[None, :])]
            found = np.einsum("ne,ef,nf->n", along, square, along)
            out[:, i] += found * (noise.diagonal[i] if free and noise.form != "full" else 1.0)
            if free and noise.form == "full":
                return None
    return out


def _nothing_below(given: Evidence, name: str) -> bool:
    """Whether a vertex is not observed, nor anything that depends on it."""
    below = {name}
    for vertex in given.net.vertices.values():
        if not below.isdisjoint(vertex.parents) and vertex.name not in given.do:
            below.add(vertex.name)
    return below.isdisjoint(given.values) and name not in given.do


def log_predictive(post: WeightPosterior, data: Any, n: int, rng: np.random.Generator) -> Array:
    """Log-density of each row of new data, averaged over weights and noises, in nats.  Shape: (samples,).

    Exact where every vertex that was observed has a closed form; elsewhere the log of the mean density under ``n``
    drawn nets, which lies somewhat too low where they are few.

    Args:
        data: as for a fit.
    """
    given = Evidence.read(post.net, data)
    exact = _log_closed(post, given)
    if exact is not None:
        return exact
    found = [np.asarray(net.query([], data).log_evidence, np.float64) for net in draws(post, n, rng)]
    return np.asarray(special.logsumexp(found, axis=0) - np.log(len(found)))


def _log_closed(post: WeightPosterior, given: Evidence) -> Array | None:
    total, used = np.zeros(given.samples), set[str]()
    net = post.net
    random = [n for n in net.latents if n not in given.do]
    for name in random:
        below = _nothing_below(given, name)
        if below:
            continue
        if name not in given.values or net[name].noise in used:
            return None
        at = np.asarray(given.values[name], np.float64).reshape(given.samples, -1)
        seen = given.masks[name].reshape(at.shape) if name in given.masks else np.ones(at.shape, bool)
        partly = (seen.any(axis=1) & ~seen.all(axis=1)).any()
        without = replace(given, values={n: v for n, v in given.values.items() if n != name})
        coupled = partly and net.noises[str(net[name].noise)].form == "full"
        if coupled or (name in given.masks and not _nothing_below(without, name)):
            return None
        closed = _closed(post, given, name)
        if closed is None:
            return None
        used.add(str(net[name].noise))
        total += closed.log_density(at, seen)
    if any(net[name].kind == "likelihood" for name in given.values) or not used:
        return None
    parameters = [p for name in random for p in _learned_in(post, name)]
    return total if len(parameters) == len(set(parameters)) else None


def _learned_in(post: WeightPosterior, name: str) -> list[str]:
    return sorted(p for p in parameters_of(post.net, name) if p in post.where)
