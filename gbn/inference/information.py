"""The exact posterior of a linearised net in information form: a sparse system over what is hidden.

Over the free entries d of the noisy vertices, deterministic ones substituted, and with labels as unit-noise rows::

    F(v + d) = ½ Σ_i (ε_i + A_i d)ᵀ Λ_i (ε_i + A_i d) + ½ Σ_i log |2πQ_i|        A_i = I at i, minus total Jacobians
    K = Σ_i A_iᵀ Λ_i A_i,   h = -Σ_i A_iᵀ Λ_i ε_i;   posterior N(K⁻¹ h, K⁻¹)
    log p(evidence) = -F(v + K⁻¹ h) - ½ log |K / 2π|

K is factored by block elimination: linear in the number of vertices where the net is a chain of layers.  Entries that
a row observes stay in the system as identity rows, so that all patterns of missing entries are one batch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gbn.gaussian import LOG_2PI
from gbn.inference.elimination import Factorization, Plan, make_plan
from gbn.inference.jacobians import Totals, dense, reach, times
from gbn.inference.solution import LinearizedPosterior, per_sample
from gbn.linearize import Linearization, Rule

__all__ = ["InformationPosterior", "Structure"]

Array = np.ndarray[Any, Any]


class Structure:
    """The hidden variables of a query, which of them meet in a factor, and the plan of their elimination.

    hidden: noisy vertex with free entries -> its number.
    determined: deterministic vertices, in topological order.
    factors: vertices that give a term of F: noisy ones, and observed labels.
    seconds: what the plan took; next to nothing where it was known.
    """

    def __init__(self, point: Linearization, relevant: set[str]) -> None:
        start = time.perf_counter()
        net, evidence = point.net, point.evidence
        self.point = point
        self.vertices = [name for name in net.vertices if name in relevant]
        noisy = [n for n in self.vertices if net.vertices[n].random and net.vertices[n].plated]
        noisy = [n for n in noisy if n not in evidence.do]
        ops = [n for n in self.vertices if net.vertices[n].kind == "op"]
        self.determined = [n for n in ops if not net.vertices[n].random and not point.closed(n)]
        self.hidden = {name: k for k, name in enumerate(n for n in noisy if not point.closed(n))}
        labels = [n for n in net.labels if n in evidence.values]
        self.factors = [*noisy, *labels]
        arriving = reach(point, self.hidden, relevant)
        variables = [
            tuple(sorted(arriving[n] | {self.hidden[n]} if n in self.hidden else arriving[n])) for n in self.factors
        ]
        self.sizes = tuple(net.vertices[n].size for n in self.hidden)
        known = make_plan.cache_info().hits
        self.plan: Plan = make_plan(self.sizes, tuple(variables))
        self.cached = make_plan.cache_info().hits > known
        self.seconds = time.perf_counter() - start


class _Slots:
    """Rows of samples arranged for the batch: groups of rows that share a system stand side by side as columns.

    A group larger than the average is split, so that padding at most doubles the work.
    """

    def __init__(self, pattern: Array, patterns: int) -> None:
        width = -(-len(pattern) // patterns)
        order = np.argsort(pattern, kind="stable")
        counts = np.bincount(pattern, minlength=patterns)
        rank = np.empty(len(pattern), int)
        rank[order] = np.arange(len(pattern)) - np.repeat(np.cumsum(counts) - counts, counts)
        slots = -(-counts // width)
        first = np.cumsum(slots) - slots
        self.slot, self.column = first[pattern] + rank // width, rank % width
        self.which = np.repeat(np.arange(patterns), slots)
        self.rows = np.zeros((len(self.which), width), int)
        self.rows[self.slot, self.column] = np.arange(len(pattern))
        self.plain = patterns == 1

    def gather(self, x: Array) -> Array:
        """(lead, samples, size) -> (slots, columns, size)."""
        if self.plain:
            return x.reshape(1, x.shape[0] * x.shape[1], x.shape[2])
        return x[:, self.rows].swapaxes(0, 1).reshape(len(self.which), x.shape[0] * self.rows.shape[1], x.shape[2])

    def scatter(self, y: Array, lead: int) -> Array:
        """(slots, columns, size) -> (lead, samples, size)."""
        if self.plain:
            return y.reshape(lead, y.shape[1] // lead, y.shape[2])
        split = y.reshape(len(y), lead, self.rows.shape[1], y.shape[2])
        return split[self.slot, :, self.column].swapaxes(0, 1)


class InformationPosterior(LinearizedPosterior):
    """The posterior at a linearisation, as a Solution: computed as far as it is asked for.

    Args:
        point: where the net is linearised.
        targets: vertices asked for.
        patterns: as in :class:`~gbn.inference.observation_space.ObservationPosterior`.
        structure: of this query.
    """

    def __init__(
        self,
        point: Linearization,
        targets: Sequence[str],
        patterns: tuple[Linearization, Array] | None,
        structure: Structure,
    ) -> None:
        super().__init__(point, targets)
        self.structure, self.plan = structure, structure.plan
        self.by_pattern, pattern = patterns or (point, np.arange(self.evidence.samples))
        self.pattern = pattern
        self.totals = Totals(self.by_pattern, structure.hidden)
        self.slots = _Slots(pattern, self.by_pattern.evidence.samples)
        names = list(structure.hidden)
        self.in_order = [names[v] for v in self.plan.order]

    @cached_property
    def factorization(self) -> Factorization:
        """K, factored; raises IllConditionedError."""
        elements = [self._element(k, name) for k, name in enumerate(self.structure.factors)]
        return Factorization(self.plan, elements, list(self.structure.hidden))

    def _element(self, number: int, name: str) -> Array | None:
        """A_iᵀ Λ_i A_i over the factor's variables, in the plan's order.  Shape: (batch or 1, f, f)."""
        variables = self.plan.elements[number]
        if not variables:
            return None
        arriving, label = self.totals.through(name), self._is_label(name)
        rows = self._whitened_label(name, arriving) if label else {v: -block for v, block in arriving.items()}
        size, own = self.net.vertices[name].size, self.structure.hidden.get(name)
        a = self._side_by_side(rows, [v for v in variables if v != own], size)
        white = a if label else self._whitened(name, a)
        if own is None:
            return white.swapaxes(1, 2) @ white
        # The vertex's own columns are the identity, on the entries that are free: no product is needed for them.
        free, noise = self.totals.free(name), self.net.noises[str(self.net.vertices[name].noise)]
        f, start = size + a.shape[2], sum(self.structure.sizes[v] for v in variables[: variables.index(own)])
        entries = np.arange(f)
        mine, others = slice(start, start + size), np.delete(entries, slice(start, start + size))
        rest = slice(0, start) if start + size == f else slice(size, f) if not start else None
        element = np.zeros((max(len(white), len(free)), f, f))
        square = (slice(None), others[:, None], others) if rest is None else (slice(None), rest, rest)
        element[square] = white.swapaxes(1, 2) @ white
        if noise.form == "full" and free.all():
            element[:, mine, mine] = noise.precision
            cross = noise.inverse_root.T @ white
        elif noise.form == "full":
            root = noise.inverse_root * free[:, None, :]
            element[:, mine, mine] = root.swapaxes(1, 2) @ root
            cross = root.swapaxes(1, 2) @ white
            np.einsum("bii->bi", element[:, mine, mine])[...] += 1 - free
        else:
            precision = 1 / np.broadcast_to(noise.value, noise.event).reshape(-1)
            cross = (free * np.sqrt(precision))[:, :, None] * white
            np.einsum("bii->bi", element[:, mine, mine])[...] = free * precision + (1 - free)
        where = others if rest is None else rest
        element[:, mine, where] = cross
        element[:, where, mine] = cross.swapaxes(1, 2)
        return element

    def _side_by_side(self, blocks: Mapping[int, Array], variables: Sequence[int], size: int) -> Array:
        """[blocks of these variables], zero where there is none.  Shape: (batch, size, entries of the variables)."""
        if len(variables) == 1 and variables[0] in blocks and blocks[variables[0]].ndim == 3:
            return blocks[variables[0]]
        batch = max((len(block) for block in blocks.values()), default=1)
        out = np.zeros((batch, size, sum(self.structure.sizes[v] for v in variables)))
        start = 0
        for variable in variables:
            part = out[:, :, start : start + self.structure.sizes[variable]]
            start += self.structure.sizes[variable]
            block = blocks.get(variable)
            if block is not None and block.ndim == 2:
                np.einsum("bii->bi", part)[...] = block
            elif block is not None:
                part[...] = block
        return out

    def _whitened(self, name: str, a: Array) -> Array:
        """R⁻¹ a with R Rᵀ = Q, for matrices whose rows are entries of the vertex."""
        noise = self.net.noises[str(self.net.vertices[name].noise)]
        if noise.form == "full":
            return np.asarray(noise.inverse_root @ a)
        return np.asarray(a / np.sqrt(noise.value.reshape(-1, 1)))

    def _whitened_label(self, name: str, blocks: Mapping[int, Array]) -> dict[int, Array]:
        """Lᵀ J of a label: its rows of the system, of unit noise."""
        point, vertex = self.by_pattern, self.net.vertices[name]
        samples = point.evidence.samples
        out = {}
        for variable, block in blocks.items():
            full = dense(block)
            columns = np.broadcast_to(np.moveaxis(full, 2, 0), (full.shape[2], samples, vertex.size))
            rows = self._label(point, name, columns.reshape(-1, samples, *vertex.shape), "root_adjoint")
            out[variable] = np.moveaxis(rows.reshape(columns.shape), 0, 2)
        return out

    def _label(self, point: Linearization, name: str, v: Array, factor: str) -> Array:
        """L v or Lᵀ v of a label.  Shape: (lead, samples, *event)."""
        net, logits = point.net, point.values[point.net.vertices[name].parents[0]]
        present = (~np.isnan(point.evidence.values[name])).astype(net.dtype)
        return np.asarray(getattr(net.label_of(name), factor)(logits, v, present))

    def _is_label(self, name: str) -> bool:
        return self.net.vertices[name].kind == "likelihood"

    def _score(self, name: str) -> Array:
        return self.net.label_of(name).score(
            self.point.values[self.net.vertices[name].parents[0]], self.evidence.values[name]
        )

    def _right(self, own: Mapping[str, Array], lead: tuple[int, ...] = ()) -> Array:
        """h from what each factor says at the operating point, -Λ ε (a label: its score).

        Shape: (prod(lead), samples, size), entries in the order of elimination.
        """
        heard: dict[str, Array] = {}

        def rule(name: str) -> Rule:
            latent, source = name in self.structure.hidden, own.get(name)
            if self._is_label(name):
                return lambda pulled: source

            def send(pulled: Array | None) -> Array | None:
                # Through the sign of A: a factor pulls its own vertex, and pushes its ancestors the other way.
                if latent and (pulled is not None or source is not None):
                    heard[name] = np.asarray(0 if pulled is None else pulled) + (0 if source is None else source)
                return None if source is None else -source

            return send

        rules: dict[str, Rule] = {name: rule(name) for name in self.structure.factors}
        self.point.pull(rules, self.structure.hidden)
        samples, count = self.evidence.samples, int(np.prod(lead, dtype=int))
        right = np.zeros((count, samples, self.plan.size))
        start = 0
        for name in self.in_order:
            size = self.net.vertices[name].size
            if name in heard:
                part = np.broadcast_to(heard[name].reshape(-1, samples, size), (count, samples, size))
                mask = self.evidence.masks.get(name)
                right[:, :, start : start + size] = part if mask is None else part * ~mask.reshape(samples, size)
            start += size
        return right

    def _solved(self, own: Mapping[str, Array], lead: tuple[int, ...] = ()) -> dict[str, Array]:
        """Deviations of the hidden vertices, K⁻¹ h.  Shape: (*lead, samples, *event)."""
        right = self._right(own, lead)
        which = None if self.slots.plain or self.factorization.batch == 1 else self.slots.which
        solved = self.slots.scatter(self.factorization.solve(self.slots.gather(right), which), len(right))
        out, start = {}, 0
        for name in self.in_order:
            vertex = self.net.vertices[name]
            part = solved[:, :, start : start + vertex.size]
            out[name] = part.reshape(*lead, self.evidence.samples, *vertex.shape)
            start += vertex.size
        return out

    def _spread(self, hidden: Mapping[str, Array]) -> dict[str, Array]:
        """Deviations of all relevant vertices from those of the hidden ones."""
        deviations = dict(hidden)
        for name in self.structure.determined:
            total = self._arriving(name, deviations)
            if total is not None:
                deviations[name] = total
        return deviations

    def _arriving(self, name: str, deviations: Mapping[str, Array]) -> Array | None:
        """Σ_p J_p d_p; None where no parent moves."""
        total = None
        for position, parent in enumerate(self.point.parents(name)):
            map_ = self.point.map(name, position) if parent in deviations else None
            if map_ is not None:
                part = map_.push(deviations[parent])
                total = part if total is None else total + part
        return total

    @cached_property
    def _sources(self) -> dict[str, Array]:
        """-Λ ε of the noisy vertices and the scores of the labels, at the operating point."""
        out = {}
        for name in self.structure.factors:
            if self._is_label(name):
                out[name] = self._score(name).astype(np.float64)
            elif name in self.point.errors:
                error = self.point.errors[name].astype(np.float64)
                out[name] = -self.net.noise(name).solve(error)  # type: ignore[union-attr]
        return out

    @cached_property
    def _mean(self) -> dict[str, Array]:
        return self._spread(self._solved(self._sources))

    @cached_property
    def deviations(self) -> Mapping[str, Array]:  # type: ignore[override]
        return {name: d.astype(self.net.dtype, copy=False) for name, d in self._mean.items()}

    @cached_property
    def _errors(self) -> dict[str, Array]:
        """ε of the noisy vertices at the posterior mean."""
        deviations = self._mean
        out = {}
        for name in self.structure.factors:
            vertex = self.net.vertices[name]
            if self._is_label(name):
                continue
            error = np.zeros((self.evidence.samples, *vertex.shape))
            if name in self.point.errors:
                error = error + self.point.errors[name]
            if name in deviations:
                error = error + deviations[name]
            arriving = self._arriving(name, deviations)
            out[name] = error if arriving is None else error - arriving
        return out

    @cached_property
    def all_messages(self) -> Mapping[str, Array]:  # type: ignore[override]
        rules = {name: self._message_rule(name) for name in self.evidence.values}
        heard = self.point.pull(rules, self.net.vertices)
        return self.point.everywhere({n: m.astype(self.net.dtype, copy=False) for n, m in heard.items()})

    def _message_rule(self, name: str) -> Rule:
        """What an observed vertex sends at the posterior mean: Λ ε, a label its score there; hidden entries pass on."""
        if self._is_label(name):
            gap = self._arriving(name, self._mean)
            score = self._sources[name]
            if gap is not None:
                inner = self._label(self.point, name, gap, "root_adjoint")
                score = score - self._label(self.point, name, inner, "root")
            return lambda pulled: score
        error = self._errors[name]
        if name not in self.evidence.masks:
            own = self.net.noise(name).solve(error)  # type: ignore[union-attr]
            return lambda pulled: own
        conditional = self.evidence.conditionals[name]
        return lambda pulled: conditional.messages(error, np.zeros_like(error) if pulled is None else pulled)

    def variance(self, name: str) -> Array:
        vertex = self.gaussian(name)
        if not vertex.plated:
            return np.zeros(vertex.shape, self.net.dtype)
        totals = self.totals.of(name)
        if len(totals) == 1 and next(iter(totals.values())).ndim == 2:
            ((variable, scale),) = totals.items()
            inner = self.factorization.covariance(variable, variable)
            found = scale * scale * np.einsum("bii->bi", inner)
        else:
            found = np.einsum("bii->bi", self._covariance(name, name))
        found = np.maximum(found, 0).astype(self.net.dtype)
        return per_sample(found.reshape(len(found), *vertex.shape), self._rows_of(found))

    def covariance(self, a: str, b: str) -> Array:
        self.gaussian(a)
        self.gaussian(b)
        found = self._covariance(a, b)
        found = (found + found.swapaxes(1, 2)) / 2 if a == b else found
        return per_sample(found.astype(self.net.dtype), self._rows_of(found))

    def _rows_of(self, found: Array) -> Array:
        return self.pattern if len(found) > 1 else np.zeros(len(self.pattern), int)

    def _covariance(self, a: str, b: str) -> Array:
        """Shape: (patterns or 1, size of a, size of b)."""
        left, right = self.totals.of(a), self.totals.of(b)
        sizes = self.net.vertices[a].size, self.net.vertices[b].size
        if not all(self.factorization.together(k, j) for k in left for j in right):
            return self._by_solving(left, right, sizes[0])
        if self.totals.whole(a) and self.totals.whole(b):
            return self.factorization.covariance(next(iter(left)), next(iter(right)))
        out = np.zeros((1, *sizes))
        for j, outer in right.items():
            for k, block in left.items():
                part = times(block, self.factorization.covariance(k, j))
                out = out + times(outer, part.swapaxes(1, 2)).swapaxes(1, 2)
        return out

    def _by_solving(self, left: Mapping[int, Array], right: Mapping[int, Array], size: int) -> Array:
        """The covariance of vertices that meet in no front: one solve against the unit vectors of the first."""
        batch = max(self.factorization.batch, *(len(block) for block in left.values()))
        columns = np.zeros((batch, size, self.plan.size))
        own = self.plan.spans
        for k, block in left.items():
            columns[:, :, own[k]] = dense(block)
        solved = self.factorization.solve(columns)
        return np.asarray(sum(solved[:, :, own[j]] @ dense(block).swapaxes(1, 2) for j, block in right.items()))

    def draws(self, n: int, rng: np.random.Generator) -> Mapping[str, Array]:
        """K⁻¹ (h + Σ A_iᵀ Λ_i^½ z_i), z white: the perturbed terms have the covariance K (Papandreou & Yuille 2010)."""
        sources: dict[str, Array] = {}
        for name in self.structure.factors:
            vertex, lead = self.net.vertices[name], (n, self.evidence.samples)
            z = rng.standard_normal((*lead, *vertex.shape))
            if self._is_label(name):
                kick = self._label(self.point, name, z, "root")
            else:
                noise = self.net.noise(name)
                kick = noise.solve(noise.root(z))  # type: ignore[union-attr]
            sources[name] = kick + self._sources[name] if name in self._sources else kick
        deviations = self._spread(self._solved(sources, (n,)))
        return {name: d.astype(self.net.dtype, copy=False) for name, d in deviations.items()}

    def log_evidence(self) -> Array:
        rows = np.zeros(self.evidence.samples)
        free, total = rows.copy(), rows.copy()
        for name, error in self._errors.items():
            noise = self.net.noise(name)
            total -= 0.5 * (error * noise.solve(error)).reshape(len(rows), -1).sum(axis=1)  # type: ignore[union-attr]
            total -= 0.5 * (noise.logdet + noise.size * LOG_2PI)  # type: ignore[union-attr]
            if name in self.structure.hidden:
                mask = self.evidence.masks.get(name)
                free += noise.size if mask is None else (~mask).reshape(len(rows), -1).sum(axis=1)  # type: ignore[union-attr]
        for name in self.structure.factors:
            if self._is_label(name):
                total += self._label_evidence(name)
        logdet = per_sample(self.factorization.logdet, self._rows_of(self.factorization.logdet))
        found = total - 0.5 * (logdet - free * LOG_2PI)
        return np.where(self._anything, found, 0.0).astype(self.net.dtype)

    @property
    def _anything(self) -> Array:
        """Whether a row observes anything: otherwise its terms cancel, but for rounding.  Shape: (samples,)."""
        out = np.zeros(self.evidence.samples, bool)
        for name, value in self.evidence.values.items():
            label = self._is_label(name)
            known = ~np.isnan(value) if label else self.evidence.masks.get(name, np.ones_like(value, bool))
            out |= known.reshape(len(out), -1).any(axis=1)
        return out

    def _label_evidence(self, name: str) -> Array:
        """The quadratic that stands for log p(label), at the posterior mean of its logits."""
        logits = self.point.values[self.net.vertices[name].parents[0]]
        out = self.net.label_of(name).log_prob(logits, self.evidence.values[name]).astype(np.float64)
        gap = self._arriving(name, self._mean)
        if gap is None:
            return out
        root = self._label(self.point, name, gap, "root_adjoint")
        term = self._sources[name] * gap - 0.5 * root * root
        return np.asarray(out + term.reshape(len(out), -1).sum(axis=1))
