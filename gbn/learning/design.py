"""The mean of a CPD as a regression: which regressors it has, and how its coefficients depend on parameters.

Between a noisy vertex x and its regressors u (vertices with a value per sample that no learned parameter enters) lie
deterministic ops.  Their result must be affine in u, and in the parameters θ of one block, all others given::

    E x = A(θ) [u; 1],    vec A(θ) = vec F + T θ

T is read off the ops' own maps: the derivative by θ at the rows of a basis of u.  Where every coefficient is a multiple
of at most one entry of a parameter, as in every product of u with a weight, three tangents tell which one it is.

Where the mean does the same thing at many positions, as a convolution does, x is what is made at one of them, u what is
read there, and A is small (:mod:`gbn.learning.rows`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from gbn import ops
from gbn.errors import LearningError
from gbn.learning.rows import Rows, gather
from gbn.ops.positions import positions

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = ["Coefficients", "Design", "Mean"]

Array = np.ndarray[Any, Any]
Values = Mapping[str, Array]
# Coefficients times parameter entries that may be tried out one by one.
_MOST_TRIALS = 2**28
_CHUNK = 2**22


@dataclass(frozen=True)
class Mean:
    """The deterministic ops between a noisy vertex and its regressors.

    through: vertices whose ops are run, in topological order; the last one is the noisy vertex.
    regressors: vertices with a value per sample, in the order of their first use.
    shared: parameters and constants that are read.
    learned: those of them that are to be learned, in the order of their first use.
    rows: what is one row of the regression, where that is not a whole vertex and all that it reads.
    """

    net: GaussianBayesNet
    through: tuple[str, ...]
    regressors: tuple[str, ...]
    shared: tuple[str, ...]
    learned: tuple[str, ...]
    rows: Rows | None = None

    @classmethod
    def of(cls, net: GaussianBayesNet, name: str, learned: Collection[str], order: Mapping[str, int]) -> Mean:
        """Read the mean of a noisy op off the net.

        Args:
            learned: parameters to be learned.
            order: vertex -> its place in the net.
        """
        moved: dict[str, bool] = {}

        def depends(vertex: str) -> bool:
            """Whether a learned parameter enters a vertex, with no noise between."""
            stack = [vertex]
            while stack:
                one = net.vertices[stack[-1]]
                inside = one.kind == "op" and not one.random
                waiting = [p for p in one.parents if p not in moved] if inside else []
                if waiting:
                    stack += waiting
                    continue
                moved[one.name] = any(moved[p] for p in one.parents) if inside else one.name in learned
                stack.pop()
            return moved[vertex]

        through: set[str] = set()
        todo = [name]
        while todo:
            top = todo.pop()
            if top in through:
                continue
            through.add(top)
            for parent in net.vertices[top].parents:
                one = net.vertices[parent]
                inside = one.kind == "op" and not one.random and (depends(parent) or not one.plated)
                if inside:
                    todo.append(parent)
        path = sorted(through, key=order.__getitem__)
        seen = [p for vertex in path for p in net.vertices[vertex].parents if p not in through]
        seen = list(dict.fromkeys(seen))
        regressors = tuple(p for p in seen if net.vertices[p].plated)
        shared = tuple(p for p in seen if not net.vertices[p].plated)
        return cls(net, tuple(path), regressors, shared, tuple(p for p in shared if p in learned))

    @property
    def name(self) -> str:
        """The noisy vertex."""
        return self.through[-1]

    def key(self) -> tuple[Any, ...]:
        """Equal for vertices whose means are the same function of other regressors."""
        names = {vertex: f"\0{k}" for k, vertex in enumerate((*self.regressors, *self.through))}
        vertices = self.net.vertices
        lines = [
            (v.op, repr(v.attributes) if v.attributes else "", v.shape, tuple(names.get(p, p) for p in v.parents))
            for v in (vertices[t] for t in self.through)
        ]
        return tuple(lines), tuple(vertices[r].shape for r in self.regressors), self.shared

    def faults(self) -> list[str]:
        """What keeps the mean from being a regression, a sentence each."""
        out = [
            f"{self.name!r}: its mean is not linear in {self._shown()}, because of {at!r} "
            f"({self.net.vertices[at].op}); give the result before it noise (net.set_noise), or freeze the parameters"
            for at in self._nonlinear(self.regressors)
        ]
        for parameter in () if out else self.learned:
            out += [
                f"{self.name!r}: its mean is not linear in the parameter {parameter!r}, because of {at!r} "
                f"({self.net.vertices[at].op}); freeze={[parameter]}"
                for at in self._nonlinear([parameter])
            ]
        return out

    def _shown(self) -> str:
        return ", ".join(map(repr, self.regressors)) or "nothing"

    def _nonlinear(self, varying: Iterable[str]) -> list[str]:
        """The first op that is not affine in these vertices jointly, if there is one."""
        moving = set(varying)
        for name in self.through:
            vertex = self.net.vertices[name]
            flags = [parent in moving for parent in vertex.parents]
            if any(flags):
                if not ops.get(str(vertex.op)).linear(flags):
                    return [name]
                moving.add(name)
        return []

    def blocks(self) -> list[tuple[str, ...]]:
        """The learned parameters in groups in which the mean is jointly linear."""
        out: list[list[str]] = []
        for parameter in self.learned:
            for block in out:
                if not self._nonlinear([*block, parameter]):
                    block.append(parameter)
                    break
            else:
                out.append([parameter])
        return [tuple(block) for block in out]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Entries of each regressor in a row."""
        if self.rows is not None:
            return tuple(read.shape[1] for read in self.rows.reads)
        return tuple(self.net.vertices[r].size for r in self.regressors)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of A: entries of x, entries of all regressors and the constant."""
        size = self.net.vertices[self.name].size if self.rows is None else self.rows.place.shape[1]
        return size, sum(self.sizes) + 1

    def by_positions(self, values: Values) -> list[Mean]:
        """The mean, or where it does the same thing at many positions its parts, one for each group of them.

        What an op says of positions need not hold of a whole mean (a constant of their own, another order): it is
        tried out at random numbers, where a wrong claim shows.
        """
        parts = [replace(self, rows=rows) for rows in self._claimed()]
        if len(parts) < 2 and all(part.rows.count < 2 for part in parts if part.rows is not None):
            return [self]
        rng = np.random.default_rng(0)
        trial = {**values, **{p: rng.uniform(0.5, 1.5, self.net.vertices[p].shape) for p in self.learned}}
        u = {r: rng.uniform(0.5, 1.5, (1, *self.net.vertices[r].shape)) for r in self.regressors}
        found = self._run(trial, u)[0][self.name].reshape(-1)
        for part in parts:
            rows, a = part.rows, part.coefficients(trial)
            if rows is None:
                return [self]
            read = [gather(u[r].reshape(1, -1), index) for r, index in zip(self.regressors, rows.reads, strict=True)]
            expected = np.concatenate([*read, np.ones((rows.count, 1))], axis=1) @ a.T
            if np.abs(expected - found[rows.place]).max(initial=0) > 1e-9 * np.abs(found).max(initial=0):
                return [self]
        return parts

    def _claimed(self) -> list[Rows]:
        """The positions of the ops that read the regressors, where these agree; else nothing."""
        places: list[Array] = []
        reads: dict[str, list[Array]] = {}
        for name in self.through:
            vertex = self.net.vertices[name]
            read = [p for p in vertex.parents if p in self.regressors]
            if not read:
                continue
            shapes = [(1, *v.shape) if v.plated else v.shape for v in (self.net.vertices[p] for p in vertex.parents)]
            groups = positions(str(vertex.op), shapes, vertex.attributes)
            here = [group.place for group in groups]
            agree = not places or (len(here) == len(places) and all(map(np.array_equal, here, places)))
            if not groups or not agree or read != [vertex.parents[0]] or read[0] in reads:
                return []
            places, reads[read[0]] = here, [group.reads for group in groups]
        return [Rows(place, tuple(reads[r][k] for r in self.regressors)) for k, place in enumerate(places)]

    def _basis(self) -> dict[str, Array]:
        """The unit vectors of all regressors together, then zero: one row each."""
        columns, start, out = self.shape[1], 0, {}
        for k, (name, size) in enumerate(zip(self.regressors, self.sizes, strict=True)):
            vertex, number = self.net.vertices[name], np.arange(size)
            block = np.zeros((columns, vertex.size))
            at = number if self.rows is None else self.rows.reads[k][self.rows.shown[start : start + size], number]
            block[start + number[at >= 0], at[at >= 0]] = 1
            out[name] = block.reshape(columns, *vertex.shape)
            start += size
        return out

    def _run(self, values: Values, regressors: Values) -> tuple[dict[str, Array], dict[str, ops.Maps]]:
        """Values of all vertices on the way at some rows of the regressors, and their map-makers."""
        known: dict[str, Array] = dict(regressors)
        known |= {name: np.asarray(values[name], np.float64) for name in self.shared}
        maps: dict[str, ops.Maps] = {}
        for name in self.through:
            vertex = self.net.vertices[name]
            function = ops.get(str(vertex.op)).function
            known[name], maps[name] = function(*[known[p] for p in vertex.parents], **vertex.attributes)
        return known, maps

    def coefficients(self, values: Values) -> Array:
        """A.  Shape: (size, columns)."""
        return self._columns(self._run(values, self._basis())[0][self.name][None])[0]

    def _columns(self, rows: Array) -> Array:
        """A from results at the rows of the basis.  Shape: (lead, rows or 1, *event) -> (lead, size, columns)."""
        size, columns = self.shape
        flat = rows.reshape(len(rows), -1, self.net.vertices[self.name].size)
        # Where all parents are shared there is one result, not one a row.
        flat = np.broadcast_to(flat, (len(flat), columns, flat.shape[2])) if flat.shape[1] != columns else flat
        out = np.empty((len(rows), size, columns))
        if self.rows is None:
            out[:, :, -1] = flat[:, -1]
            out[:, :, :-1] = (flat[:, :-1] - flat[:, -1:]).swapaxes(1, 2)
            return out
        place = self.rows.place[self.rows.shown].T
        out[:, :, -1] = flat[:, -1, self.rows.place[0]]
        out[:, :, :-1] = flat[:, np.arange(columns - 1), place] - flat[:, -1, place]
        return out

    def tangents(self, values: Values, directions: Mapping[str, Array]) -> Array:
        """How A moves when parameters move.

        Args:
            directions: parameter -> shape (lead, *its shape).

        Returns:
            shape (lead, size, columns).
        """
        known, maps = self._run(values, self._basis())
        moved: dict[str, Array] = dict(directions)
        lead = len(next(iter(directions.values())))
        for name in self.through:
            total: Array | None = None
            for parent, make in zip(self.net.vertices[name].parents, maps[name], strict=True):
                if parent in moved and make is not None:
                    part = make().push(moved[parent])
                    total = part if total is None else total + part
            if total is not None:
                moved[name] = total
        event = known[self.name].shape
        reached = moved.get(self.name)
        return self._columns(np.zeros((lead, *event)) if reached is None else reached)


@dataclass(frozen=True, eq=False)
class Coefficients:
    """vec A(θ) = vec F + T θ for one block of parameters; vec puts the columns of A one after the other.

    fixed: F, what A is at θ = 0.  Shape: (size, columns).
    design: T, sparse.  Shape: (size · columns, entries of θ).
    """

    fixed: Array
    design: sparse.csc_array

    def at(self, theta: Array) -> Array:
        """A(θ)."""
        size, columns = self.fixed.shape
        return np.asarray(self.fixed + (self.design @ theta).reshape(columns, size).T)

    @cached_property
    def whole_columns(self) -> tuple[Array, Array, Array] | None:
        """Where θ is, up to factors, a number of whole columns of A: these columns, and for each of their entries the
        entry of θ and its factor, shapes (columns,), (size, columns), (size, columns).  None where it is not.
        """
        size, columns = self.fixed.shape
        t, entries = self.design, self.design.shape[1]
        if t.nnz != entries or (np.diff(t.indptr) != 1).any() or not entries:
            return None
        place = np.asarray(t.indices)
        chosen = np.unique(place // size)
        if len(np.unique(place)) != entries or len(chosen) * size != entries:
            return None
        entry, factor = np.full(size * columns, -1), np.zeros(size * columns)
        entry[place], factor[place] = np.arange(entries), t.data
        return chosen, entry.reshape(columns, size)[chosen].T, factor.reshape(columns, size)[chosen].T


class Design:
    """A mean and one block of its parameters, whose entries are stacked in the block's order.

    Raises:
        LearningError: too many coefficients to try out.
    """

    def __init__(self, mean: Mean, block: Sequence[str]) -> None:
        self.mean, self.block = mean, tuple(block)

    def coefficients(self, values: Values) -> Coefficients:
        """F and T, given the values of all other parameters."""
        zero = {p: np.zeros(self.mean.net.vertices[p].shape) for p in self.block}
        fixed = self.mean.coefficients({**values, **zero})
        parts = [self._design(values, p) for p in self.block]
        return Coefficients(fixed, sparse.csc_array(sparse.hstack(parts)))

    def _flat(self, values: Values, parameter: str, theta: Array) -> Array:
        """T θ for some θ of one parameter.  Shape: (lead, entries) -> (lead, size · columns)."""
        direction = theta.reshape(len(theta), *self.mean.net.vertices[parameter].shape)
        moved = self.mean.tangents(values, {parameter: direction})
        return moved.swapaxes(1, 2).reshape(len(theta), -1)

    def _design(self, values: Values, parameter: str) -> sparse.csc_array:
        """The columns of T that belong to one parameter."""
        total = self.mean.net.vertices[parameter].size
        rows = int(np.prod(self.mean.shape))
        number = np.arange(1.0, total + 1)
        check = np.random.default_rng(0).uniform(1, 2, total)
        factor, scaled, answer = self._flat(values, parameter, np.stack([np.ones(total), number, check]))
        place = np.flatnonzero(scaled)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.nan_to_num(scaled[place] / factor[place])
        entry = np.rint(np.clip(ratio, -1, total + 1)).astype(int) - 1
        if len(place) and ((entry < 0) | (entry >= total)).any():
            return self._tried(values, parameter, rows, total)
        found = sparse.csc_array((factor[place], (place, entry)), shape=(rows, total))
        gap = np.abs(found @ check - answer).max(initial=0)
        if gap > 1e-9 * np.abs(answer).max(initial=0):
            return self._tried(values, parameter, rows, total)
        return found

    def _tried(self, values: Values, parameter: str, rows: int, total: int) -> sparse.csc_array:
        """T column by column, where coefficients mix parameter entries."""
        if rows * total > _MOST_TRIALS:
            raise LearningError(
                f"{self.mean.name!r}: its {rows} coefficients are sums of {total} entries of {parameter!r}, too "
                "many to solve for; freeze it"
            )
        width = max(1, _CHUNK // rows)
        parts = []
        for start in range(0, total, width):
            unit = np.eye(min(width, total - start), total, start)
            parts.append(sparse.csc_array(self._flat(values, parameter, unit).T))
        return sparse.csc_array(sparse.hstack(parts))
