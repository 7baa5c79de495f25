"""The factorised Gaussian q = Π_i N(m_i, C_i) over hidden vertices, and the free energy F_q = E_q[F] - H[q].

Deterministic vertices are eliminated: a factor c, N(v_c; f_c, Q_c), sees a hidden vertex through the composite Jacobian
J_{c←i}.  For a product d = u W of an uncertain input and an uncertain weight, expectations are of the product::

    E[JᵀΛJ] at W:   Σ_n E[u uᵀ] ⊗ Λ_d,                   E[u uᵀ] = ū ūᵀ + C_u
    E[JᵀΛJ] at p:   J_pᵀ Λ J_p + J_{u←p}ᵀ Ψ J_{u←p},      Ψ = E[(W - W̄) Λ_d (W - W̄)ᵀ]

with Λ_d = Σ_c J_{c←d}ᵀ Λ_c J_{c←d} the precision that d's children put on it.  All blocks carry rows first: one row for
each sample, or a single one where all samples share it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gbn.gaussian import LOG_2PI
from gbn.inference.structure import Belief, Product, Shift, Structure
from gbn.linearize import Linearization, Rule
from gbn.maps import Diagonal
from gbn.moments import has_moments, moments

__all__ = ["View"]

Array = np.ndarray[Any, Any]


class View:
    """The net at the present beliefs: errors of the means, Jacobian blocks and curvatures, made when asked for.

    kept: blocks and curvatures that later views may take over (of a linear net).
    """

    def __init__(self, structure: Structure, beliefs: dict[str, Belief], kept: dict[Any, Any] | None = None) -> None:
        self.structure, self.beliefs, self.net = structure, beliefs, structure.net
        self.evidence = structure.evidence
        self._kept: dict[Any, Any] = {} if kept is None or not structure.linear else kept
        self.residuals: dict[str, Array] = {}
        errors: dict[str, Array] = {}
        slopes: dict[str, Array] = {}

        def place(name: str, mean: Array) -> Array:
            mean = self._integrated(name, mean, slopes)
            value = beliefs[name].mean if name in beliefs else self.evidence.values.get(name)
            if value is None:
                return mean
            errors[name] = value - mean
            return value

        chosen = {*structure.factors, *(n for n in self.net if self._parent_of_moment(n))} - set(self.net.labels)
        rules = {name: partial(place, name) for name in chosen}
        values, maps = self.net.evaluate(self.evidence.do, self.evidence.samples, rules)
        for name, slope in slopes.items():
            maps[name] = (partial(Diagonal, slope, slope.shape, slope.shape),)
        self.point = Linearization(self.evidence, values, errors, maps)
        self.errors = errors

    @property
    def kept(self) -> dict[Any, Any]:
        """What the next view may take over."""
        return self._kept

    def _parent_of_moment(self, name: str) -> str | None:
        """The hidden vertex whose distribution a nonlinearity is integrated over."""
        vertex = self.net[name]
        wanted = self.structure.use_moments and vertex.kind == "op" and name not in self.evidence.do
        if not wanted or not has_moments(vertex.op) or vertex.parents[0] not in self.structure.plated:
            return None
        return vertex.parents[0]

    def _integrated(self, name: str, mean: Array, slopes: dict[str, Array]) -> Array:
        """E f in place of f(m), with E f' as its slope and Var f - (E f')² v left over."""
        parent = self._parent_of_moment(name)
        if parent is None:
            return mean
        belief, vertex = self.beliefs[parent], self.net[name]
        variance = np.diagonal(belief.cov, axis1=1, axis2=2)[belief.pattern].reshape(mean.shape)
        value, slopes[name], spread = moments(str(vertex.op), belief.mean, variance, vertex.attributes)
        self.residuals[name] = np.maximum(spread - slopes[name] ** 2 * variance, 0).reshape(len(mean), -1)
        return value

    def blocks(self, name: str) -> dict[str, Array]:
        """Jacobians of a vertex's mean by hidden vertices, and by deterministic vertices on the way.

        Returns:
            vertex -> J, shape (1 or samples, size of name, size of vertex).
        """
        if name not in self._kept:
            linear, structure = self.structure.linear, self.structure
            point = Linearization.forward(self.evidence.rows(np.zeros(1, int))) if linear else self.point
            vertex, rows = self.net[name], point.evidence.samples
            unit = np.eye(vertex.size).reshape(vertex.size, 1, *vertex.shape)
            unit = np.broadcast_to(unit, (vertex.size, rows, *vertex.shape))
            found: dict[str, Array] = {}

            def keep(other: str, message: Array | None) -> Array | None:
                if message is not None:
                    found[other] = np.moveaxis(message.reshape(vertex.size, rows, -1), 0, 1)
                return message if other in structure.through[name] else None

            wanted = {p for p in structure.sources[name] if self.net[p].plated} | structure.through[name]
            rules: dict[str, Rule] = {other: partial(keep, other) for other in wanted}
            point.pull({**rules, name: lambda _: unit}, wanted)
            self._kept[name] = found
        return self._kept[name]  # type: ignore[no-any-return]

    def _value_blocks(self, name: str) -> dict[str, Array]:
        """As :meth:`blocks`, for the value: the identity where the vertex is itself hidden, nothing where it is set."""
        if name in self.structure.hidden:
            return {name: np.eye(self.net[name].size)[None]}
        if self.net[name].random or not self.structure.sources[name]:
            return {}
        return self._mean_blocks(name)

    def _mean_blocks(self, name: str) -> dict[str, Array]:
        own = {name: np.eye(self.net[name].size)[None]} if name not in self.structure.hidden else {}
        return self.blocks(name) | own

    def weigh(self, factor: str, block: Array) -> Array:
        """Λ_c J; the Fisher information of a label in place of Λ.  Shape: (rows, size, k) -> the same."""
        vertex, noise = self.net[factor], self.net.noise(factor)
        columns = np.moveaxis(block, 2, 0).reshape(block.shape[2], len(block), *vertex.shape)
        if noise is not None:
            weighed = noise.solve(columns)
        else:
            likelihood, logits = self.net.label_of(factor), self.point.values[vertex.parents[0]]
            present = ~np.isnan(self.evidence.values[factor])
            weighed = likelihood.root(logits, likelihood.root_adjoint(logits, columns, present), present)
        return np.moveaxis(weighed.reshape(block.shape[2], len(block), block.shape[1]), 0, 2)

    def precision_on(self, vertex: str) -> Array:
        """Λ_d, the precision on the mean of an op.  Shape: (rows, size, size)."""
        size = self.net[vertex].size
        if self.net[vertex].random:
            return self.weigh(vertex, np.eye(size)[None])
        return self._curvature_below(vertex, np.zeros((1, size, size)))

    def _curvature_below(self, name: str, start: Array) -> Array:
        """start + Σ_c J_cᵀ Λ_c J_c."""
        for factor in self.structure.reach[name]:
            block = self.blocks(factor).get(name)
            if block is not None:
                start = start + np.matmul(block.swapaxes(1, 2), self.weigh(factor, block))
        return start

    def curvature(self, name: str) -> Array:
        """Λ_i + Σ_c J̄_cᵀ Λ_c J̄_c of a vertex with a value per sample, at mean weights.  Shape: (rows, size, size)."""
        key = ("curvature", name)
        if key not in self._kept:
            own = self.weigh(name, np.eye(self.net[name].size)[None])
            self._kept[key] = self._curvature_below(name, own)
        return self._kept[key]  # type: ignore[no-any-return]

    def precision(self, name: str) -> Array:
        """C_i⁻¹ = Λ_i + Σ_c E[J_cᵀ Λ_c J_c].  Shape: (rows, size, size), one row for parameters."""
        if not self.net[name].plated:
            return self._parameter_precision(name)
        total = self.curvature(name)
        for product in self.structure.products:
            if name in self.structure.inputs(product.input):
                block = self._value_blocks(product.input)[name]
                total = total + block.swapaxes(1, 2) @ self._weight_uncertainty(product) @ block
        return total

    def _weight_uncertainty(self, product: Product) -> Array:
        """Ψ = E[(W - W̄) Λ_d (W - W̄)ᵀ] over the entries of u.  Shape: (rows, size of u, size of u)."""
        weight, size = self.net[product.weight], self.net[product.input].size
        cov = product.weight_cov(self.beliefs[product.weight].cov, weight.shape)
        inner, outer = cov.shape[:2]
        on = self.precision_on(product.vertex).reshape(-1, size // inner, outer, size // inner, outer)
        return np.einsum("ntksl,ikjl->ntisj", on, cov, optimize=True).reshape(len(on), size, size)

    def _input_mean(self, product: Product) -> Array:
        return self.point.values[product.input].reshape(self.evidence.samples, -1)

    def _input_square(self, product: Product) -> Array:
        """E[u uᵀ].  Shape: (samples, size of u, size of u)."""
        u = self._input_mean(product)
        return u[:, :, None] * u[:, None, :] + self.value_covariance(product.input, product.input)

    def _parameter_precision(self, name: str) -> Array:
        vertex, samples = self.net[name], self.evidence.samples
        unit = np.eye(vertex.size).reshape(-1, *vertex.shape)
        total = self.net.noise(name).solve(unit).reshape(vertex.size, vertex.size)  # type: ignore[union-attr]
        for product in self.structure.products:
            if product.weight == name:
                total = total + self._product_precision(product)
        for shift in self.structure.shifts:
            if shift.parameter == name:
                on = self.precision_on(shift.vertex)
                block = self._shift_block(shift)
                total = total + block.T @ on.sum(axis=0) @ block * (samples / len(on))
        return total[None]

    def _product_precision(self, product: Product) -> Array:
        """Σ_n E[u uᵀ] ⊗ Λ_d, in the order in which the weight is stored."""
        shape = self.net[product.weight].shape
        inner, outer = shape[::-1] if product.transposed else shape
        square, on = self._input_square(product), self.precision_on(product.vertex)
        if len(on) == 1:
            square = square.sum(axis=0, keepdims=True)
        positions = square.shape[1] // inner
        square = square.reshape(-1, positions, inner, positions, inner)
        on = np.broadcast_to(on, (len(square), *on.shape[1:])).reshape(-1, positions, outer, positions, outer)
        form = "ntisj,ntksl->kilj" if product.transposed else "ntisj,ntksl->ikjl"
        size = inner * outer
        return product.scale**2 * np.einsum(form, square, on, optimize=True).reshape(size, size)

    def _shift_block(self, shift: Shift) -> Array:
        """∂d/∂b, the same for all samples.  Shape: (size of d, size of b)."""
        shape = self.net[shift.parameter].shape
        size = self.net[shift.parameter].size
        map_ = self.point.map(shift.vertex, shift.position)
        if map_ is None:
            return np.zeros((self.net[shift.vertex].size, size))
        return map_.push(np.eye(size).reshape(size, *shape))[:, 0].reshape(size, -1).T

    def gradient(self, name: str) -> Array:
        """∂F_q/∂m_i.  Shape: (samples, size); (1, size) for parameters."""
        lead = self.evidence.samples if self.net[name].plated else 1
        heard: list[Array] = []

        def listen(message: Array | None) -> None:
            if message is not None:
                heard.append(message)

        affected = {c for d in self._uses(name) for c in self.structure.affected(d)}
        rules: dict[str, Rule] = {c: partial(_say, self.message(c) if c in affected else None) for c in self._speakers}
        self.point.pull({**rules, name: listen}, [name])
        total = self.net.noise(name).solve(self.errors[name]) - sum(heard)  # type: ignore[union-attr]
        return total.reshape(lead, -1) + self._spread_gradient(name)

    def _uses(self, name: str) -> list[str]:
        if self.net[name].plated:
            return self.structure.reach[name]
        structure = self.structure
        uses = [p.vertex for p in structure.products if p.weight == name]
        return uses + [s.vertex for s in structure.shifts if s.parameter == name]

    @property
    def _speakers(self) -> list[str]:
        return [n for n, v in self.net.vertices.items() if v.random or v.kind == "likelihood"]

    def message(self, factor: str) -> Array:
        """λ_c = Λ_c E ε_c, or the score of a label."""
        noise = self.net.noise(factor)
        if noise is not None:
            return noise.solve(self.errors[factor])
        logits = self.point.values[self.net[factor].parents[0]]
        return self.net.label_of(factor).score(logits, self.evidence.values[factor])

    def _spread_gradient(self, name: str) -> Array | float:
        """What the means change in E ½ tr(Λ_c Cov f_c): only products of two uncertain factors have such a share."""
        total: Array | float = 0.0
        for product in self.structure.products:
            if name == product.weight:
                total = total + self._weight_spread_gradient(product)
            elif name in self.structure.inputs(product.input):
                block = self._value_blocks(product.input)[name]
                push = np.matmul(self._weight_uncertainty(product), self._input_mean(product)[:, :, None])
                total = total + np.matmul(block.swapaxes(1, 2), push)[:, :, 0]
        return total

    def _weight_spread_gradient(self, product: Product) -> Array:
        """Σ_n Σ_c of J_{c←d}ᵀ Λ_c Cov(f_c, u), summed over the positions where d meets u."""
        shape = self.net[product.weight].shape
        inner, outer = shape[::-1] if product.transposed else shape
        total = np.zeros((inner, outer))
        for factor in self.structure.affected(product.vertex):
            left, right = self._mean_blocks(factor), self._value_blocks(product.input)
            if not left.keys() & right.keys():
                continue
            cross = self.weigh(factor, self._covariance(left, right))
            if factor != product.vertex:
                cross = np.matmul(self.blocks(factor)[product.vertex].swapaxes(1, 2), cross)
            positions = cross.shape[1] // outer
            total += np.einsum("ntkti->ik", cross.reshape(-1, positions, outer, positions, inner))
        return product.scale * (total.T if product.transposed else total).reshape(1, -1)

    def _covariance(self, left: dict[str, Array], right: dict[str, Array]) -> Array:
        """Σ_p J_p C_p K_pᵀ over hidden vertices, and the same over what integration left over.

        Shape: (samples, size of left, size of right).
        """
        size, other = next(iter(left.values())).shape[1], next(iter(right.values())).shape[1]
        total = np.zeros((self.evidence.samples, size, other))
        for name in left.keys() & right.keys():
            a, b = left[name], right[name]
            if name in self.beliefs:
                belief = self.beliefs[name]
                cov = belief.cov if len(belief.cov) == 1 else belief.cov[belief.pattern]
                total += a @ cov @ b.swapaxes(1, 2)
            elif name in self.residuals:
                total += (a * self.residuals[name][:, None, :]) @ b.swapaxes(1, 2)
        return total

    def value_covariance(self, a: str, b: str) -> Array:
        """Cov_q(v_a, v_b), uncertain weights apart.  Shape: (samples, size of a, size of b)."""
        left, right = self._value_blocks(a), self._value_blocks(b)
        if left.keys() & right.keys():
            return self._covariance(left, right)
        return np.zeros((self.evidence.samples, self.net[a].size, self.net[b].size))

    def weight_covariance(self, name: str) -> Array | float:
        """What uncertain weights add to Cov_q of a deterministic vertex.  Shape: (samples, size, size)."""
        total: Array | float = 0.0
        for product in self.structure.products:
            block = self._value_blocks(name).get(product.vertex)
            if block is not None:
                weight = self.net[product.weight]
                cov = product.weight_cov(self.beliefs[product.weight].cov, weight.shape)
                inner, outer = cov.shape[:2]
                positions = self.net[product.input].size // inner
                square = self._input_square(product).reshape(-1, positions, inner, positions, inner)
                spread = np.einsum("ntisj,ikjl->ntksl", square, cov, optimize=True)
                total = total + block @ spread.reshape(len(square), positions * outer, -1) @ block.swapaxes(1, 2)
        for shift in self.structure.shifts:
            block = self._value_blocks(name).get(shift.vertex)
            if block is not None:
                inner_block = block @ self._shift_block(shift)
                total = total + inner_block @ self.beliefs[shift.parameter].cov @ inner_block.swapaxes(1, 2)
        return total

    def energy(self, name: str) -> Array:
        """½ (εᵀ Λ ε + log |2πQ|) at the means, or -log p of a label.  Shape: (samples,); () for parameters."""
        vertex, noise = self.net[name], self.net.noise(name)
        if noise is None:
            logits = self.point.values[vertex.parents[0]]
            return -self.net.label_of(name).log_prob(logits, self.evidence.values[name])
        error = self.errors[name]
        lead = error.shape[: int(vertex.plated)]
        square = (error * noise.solve(error)).reshape(*lead, -1).sum(axis=-1)
        return 0.5 * (square + noise.logdet + vertex.size * LOG_2PI)

    def free_energy(self) -> Array:
        """F_q = E_q[F] - H[q], in nats.  Shape: (samples,); () where uncertain weights couple the samples."""
        total = np.zeros(self.evidence.samples)
        common = np.zeros(())
        for name in self.structure.factors:
            if self.net[name].plated:
                total = total + self.energy(name)
            else:
                common = common + self.energy(name)
        for name, belief in self.beliefs.items():
            plated = self.net[name].plated
            curvature = self.curvature(name) if plated else self.precision(name)
            trace = (curvature * belief.cov).sum(axis=(1, 2))
            share = 0.5 * (trace - belief.logdet() - belief.hidden.sum(axis=1) * (LOG_2PI + 1))
            total, common = (total + share[belief.pattern], common) if plated else (total, common + share[0])
        for name, spread in self.residuals.items():
            on = np.diagonal(self.precision_on(name), axis1=1, axis2=2)
            total = total + 0.5 * (on * spread).sum(axis=1)
        return total.sum() + common if self.structure.shared else total


def _say(message: Array | None, _heard: Array | None) -> Array | None:
    return message
