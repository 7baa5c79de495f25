"""The factors of a query at an operating point: what each noisy vertex and each observed label says of what is hidden.

With deviations d from the operating point v, deterministic vertices substituted, observed entries fixed::

    noisy vertex  error ε + A d,  A = [I at it, minus total Jacobians]     energy ½ (ε + A d)ᵀ Λ (ε + A d) + ½ log |2πQ|
    label         score s, Fisher information W = L Lᵀ at the logits       energy -log p - sᵀ T d + ½ dᵀ Tᵀ W T d

    K = Σ_i A_iᵀ Λ_i A_i + Σ Tᵀ W T,      h = -Σ_i A_iᵀ Λ_i ε_i + Σ Tᵀ s

Each factor gives K one small matrix over its own variables, its *element*.  Entries that a row observes stay in the
system as identity rows, so that all patterns of missing entries are one batch.  h is pulled, as messages are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gbn.gaussian import Covariance
from gbn.inference.hidden import Structure
from gbn.inference.jacobians import Totals, dense
from gbn.linearize import Linearization

__all__ = ["Factors", "one_row_a_pattern"]

Array = np.ndarray[Any, Any]
# Factors are stacked, for one call on many, up to this many entries of their matrices.
_LARGEST_STACKED = 4096
_ALL = np.ones((1, 1, 1))


class Factors:
    """What the factors of a query give at a linearisation, in float64.

    Args:
        point: where the net is linearised.
        patterns: in a linear net, the linearisation of one row for each pattern of missing entries, and which of them
            stands for each row; None where every row has Jacobians of its own.
        structure: of this query.
    """

    def __init__(
        self, point: Linearization, patterns: tuple[Linearization, Array] | None, structure: Structure
    ) -> None:
        self.point, self.net, self.evidence = point, point.net, point.evidence
        self.structure = structure
        self.by_pattern: Linearization
        self.pattern: Array
        self.by_pattern, self.pattern = patterns or (point, np.arange(self.evidence.samples))
        self.totals = Totals(self.by_pattern, structure.hidden)

    def is_label(self, name: str) -> bool:
        """Whether the factor is a label."""
        return name in self.structure.labels

    def noise(self, name: str) -> Covariance:
        """Q of a noisy vertex."""
        return self.net.noises[self.net.vertices[name].noise]  # type: ignore[index]

    def elements(self, variables: Sequence[Sequence[int]]) -> list[Array | None]:
        """A_iᵀ Λ_i A_i of every factor; None where nothing hidden is in it.

        Args:
            variables: of each factor, in the order of its rows and columns.

        Returns:
            arrays of shape (batch or 1, f, f).
        """
        out: list[Array | None] = [None] * len(variables)
        alike: dict[Any, list[tuple[int, dict[int, Array]]]] = defaultdict(list)
        shapes = self._shapes(variables)
        for number, (name, chosen) in enumerate(zip(self.structure.factors, variables, strict=True)):
            if chosen:
                blocks, shape = self._rows(name), shapes[number]
                large = shape[0] * sum(shape[2:]) > _LARGEST_STACKED  # type: ignore[operator, arg-type]
                alike[number if large else (shape, self._form(name, blocks, chosen))].append((number, blocks))
        for members in alike.values():
            numbers = [number for number, _ in members]
            names = [self.structure.factors[number] for number in numbers]
            rows = [[blocks.get(v) for v in variables[number]] for number, blocks in members]
            for number, element in zip(numbers, self._stack(names, variables[numbers[0]], rows), strict=True):
                out[number] = element
        return out

    def _rows(self, name: str) -> dict[int, Array]:
        """Variable above the factor -> the Jacobian of its mean; of a label, whitened: Lᵀ J."""
        arriving = self.totals.through(name, self.structure.lines.get(name, ()))
        return self._whitened_label(name, arriving) if self.is_label(name) else arriving

    def _shapes(self, variables: Sequence[Sequence[int]]) -> list[tuple[int | None, ...]]:
        """Of each factor its entries, where its own variable stands, and the entries of all; kept for a plan."""
        known = self.structure.notes.get("shapes", (None, []))
        if known[0] is not variables:
            hidden, sizes, vertices = self.structure.hidden, self.structure.sizes, self.net.vertices
            shapes = [
                (
                    vertices[name].size,
                    chosen.index(hidden[name]) if name in hidden else None,
                    *(sizes[v] for v in chosen),
                )
                for name, chosen in zip(self.structure.factors, variables, strict=True)
            ]
            known = self.structure.notes["shapes"] = variables, shapes
        shapes = known[1]
        return shapes

    def _form(self, name: str, blocks: Mapping[int, Array], variables: Sequence[int]) -> Any:
        """What else stacked factors have in common: the form of their noise, batches, and shapes of blocks."""
        noise, mask = self.net.vertices[name].noise, self.by_pattern.evidence.masks.get(name)
        return (
            None if noise is None else self.net.noises[noise].form,
            None if mask is None else len(mask),
            *[blocks[v].shape if v in blocks else None for v in variables],
        )

    def _stack(self, names: Sequence[str], variables: Sequence[int], rows: Sequence[Sequence[Array | None]]) -> Array:
        """Elements of factors of one kind.  Shape: (factors, batch or 1, f, f)."""
        sizes = [self.structure.sizes[v] for v in variables]
        size, own = self.net.vertices[names[0]].size, self.structure.hidden.get(names[0])
        slot = len(sizes) if own is None else variables.index(own)
        columns = [[blocks[k] for blocks in rows] for k in range(len(sizes)) if k != slot]
        a = _side_by_side(columns, [s for k, s in enumerate(sizes) if k != slot], size)
        if self.is_label(names[0]):
            return np.asarray(a.swapaxes(2, 3) @ a)
        noises = [self.noise(name) for name in names]
        full = noises[0].form == "full"
        if full:
            root = _stacked([q.inverse_root for q in noises])[:, None]
            white = root @ a
        else:
            precision = _stacked([q.precisions for q in noises])[:, None]
            roots = np.sqrt(precision)
            white = roots[..., None] * a
        if own is None:
            return np.asarray(white.swapaxes(2, 3) @ white)
        # The vertex's own columns are the identity, on the entries that are free: no product is needed for them.
        partly = names[0] in self.by_pattern.evidence.masks
        free = _stacked([self.totals.free(name) for name in names]) if partly else _ALL
        f, start = size + a.shape[3], sum(sizes[:slot])
        mine = slice(start, start + size)
        rest: Any = slice(0, start) if start + size == f else slice(size, f) if not start else _others(f, mine)
        element = np.zeros((len(names), max(a.shape[1], free.shape[1]), f, f))
        own_block, diagonal = element[..., mine, mine], np.einsum("gbii->gbi", element)[..., mine]
        if not full:
            cross = (roots * -free)[..., None] * white
            diagonal[...] = free * precision + (1 - free) if partly else precision
        elif not partly:
            cross = -root.swapaxes(2, 3) @ white
            own_block[...] = _stacked([q.precision for q in noises])[:, None]
        else:
            masked = root * free[:, :, None, :]
            cross = -masked.swapaxes(2, 3) @ white
            own_block[...] = masked.swapaxes(2, 3) @ masked
            diagonal += 1 - free
        if f > size:
            element[(..., *_square(rest))] = white.swapaxes(2, 3) @ white
            element[..., mine, rest] = cross
            element[..., rest, mine] = cross.swapaxes(2, 3)
        return element

    def _whitened_label(self, name: str, blocks: Mapping[int, Array]) -> dict[int, Array]:
        """Lᵀ J of a label: its rows of the system, of unit noise."""
        point, vertex = self.by_pattern, self.net.vertices[name]
        samples, out = point.evidence.samples, {}
        for variable, block in blocks.items():
            full = dense(block)
            columns = np.broadcast_to(np.moveaxis(full, 2, 0), (full.shape[2], samples, vertex.size))
            rows = self._label(point, name, columns.reshape(-1, samples, *vertex.shape), "root_adjoint")
            out[variable] = np.moveaxis(rows.reshape(columns.shape), 0, 2)
        return out

    def _label(self, point: Linearization, name: str, v: Array, factor: str) -> Array:
        net, logits = point.net, point.values[point.net.vertices[name].parents[0]]
        present = (~np.isnan(point.evidence.values[name])).astype(net.dtype)
        return np.asarray(getattr(net.label_of(name), factor)(logits, v, present))

    def root(self, name: str, v: Array) -> Array:
        """L v of a label.  Shape: (*lead, samples, *event)."""
        return self._label(self.point, name, v, "root")

    def root_adjoint(self, name: str, v: Array) -> Array:
        """Lᵀ v of a label."""
        return self._label(self.point, name, v, "root_adjoint")

    @cached_property
    def sources(self) -> dict[str, Array]:
        """-Λ ε of the noisy vertices and the scores of the labels, at the operating point."""
        errors = {name: self.point.errors[name] for name in self.structure.factors if name in self.point.errors}
        out = {name: -solved for name, solved in self._by_noise(Covariance.solve, errors).items()}
        for name in self.structure.labels:
            logits = self.point.values[self.net.vertices[name].parents[0]]
            out[name] = self.net.label_of(name).score(logits, self.evidence.values[name]).astype(np.float64)
        return out

    def _by_noise(self, apply: Callable[[Covariance, Array], Array], arrays: Mapping[str, Array]) -> dict[str, Array]:
        """``apply(noise, array)`` of each vertex in float64, in one call for the vertices that share a noise."""
        sharing: dict[Any, list[str]] = defaultdict(list)
        for name, array in arrays.items():
            sharing[self.net.vertices[name].noise if array.size <= _LARGEST_STACKED else (name,)].append(name)
        out: dict[str, Array] = {}
        for names in sharing.values():
            together = np.stack([arrays[name] for name in names]) if len(names) > 1 else arrays[names[0]][None]
            out.update(zip(names, apply(self.noise(names[0]), together.astype(np.float64, copy=False)), strict=True))
        return out

    def potentials(self, sources: Mapping[str, Array]) -> dict[str, Array]:
        """h, from what each factor says: -Λ ε, of a label its score.

        Args:
            sources: factor -> shape (*lead, samples, *event); left out: nothing.

        Returns:
            hidden vertex -> its part of h, of that shape; left out: zero.
        """
        point, structure, masks = self.point, self.structure, self.evidence.masks
        incoming: dict[str, Array] = {}
        out: dict[str, Array] = {}
        for name in reversed(structure.vertices):
            # Through the sign of A a factor speaks to its ancestors the other way than to its own vertex.
            source, message = sources.get(name), incoming.pop(name, None)
            if name in structure.hidden:
                if source is not None or message is not None:
                    heard = message if source is None else source if message is None else message + source
                    out[name] = np.where(masks[name], 0.0, np.asarray(heard)) if name in masks else np.asarray(heard)
                message = None
            sent = message if source is None else source if self.is_label(name) else -source
            if sent is None:
                continue
            for position, parent in structure.lines.get(name, ()):
                map_ = point.map(name, position)
                if map_ is not None:
                    part = map_.pull(sent)
                    incoming[parent] = incoming[parent] + part if parent in incoming else part
        return out


def one_row_a_pattern(point: Linearization) -> tuple[Linearization, Array]:
    """The linearisation of one row for each pattern of missing entries, and which pattern each row has.

    For linear nets: the other rows of a pattern have the same Jacobians.
    """
    evidence = point.evidence
    rows, pattern = evidence.patterns()
    if len(rows) == evidence.samples:
        return point, np.arange(evidence.samples)
    return Linearization.forward(evidence.rows(rows)), pattern


def _side_by_side(columns: Sequence[Sequence[Array | None]], sizes: Sequence[int], size: int) -> Array:
    """[blocks of the first column, of the second, ...] of each factor; None and vectors as the matrices they are.

    Shape: (factors, batch, size, entries of the columns).
    """
    if len(columns) == 1 and columns[0][0] is not None and columns[0][0].ndim == 3:
        return _stacked(columns[0])  # type: ignore[arg-type]
    first = [blocks[0] for blocks in columns]
    batch = max((len(block) for block in first if block is not None), default=1)
    out = np.zeros((max(map(len, columns), default=1), batch, size, sum(sizes)))
    start = 0
    for blocks, width in zip(columns, sizes, strict=True):
        part = out[..., start : start + width]
        start += width
        if blocks[0] is not None:
            stack = _stacked(blocks)  # type: ignore[arg-type]
            if stack.ndim == 3:
                np.einsum("gbii->gbi", part)[...] = stack
            else:
                part[...] = stack
    return out


def _stacked(arrays: Sequence[Array]) -> Array:
    """np.stack, but a single array, or one that all share, is not copied (and not repeated)."""
    first = arrays[0]
    if len(arrays) == 1 or all(array is first for array in arrays):
        return first[None]
    return np.concatenate(arrays).reshape(len(arrays), *first.shape)


def _others(size: int, left_out: slice) -> Array:
    return np.delete(np.arange(size), left_out)


def _square(index: slice | Array) -> tuple[Any, Any]:
    return (index, index) if isinstance(index, slice) else (index[:, None], index)
