"""Parameters that are solved for together, and which unknowns of theirs have one matrix of normal equations.

The weights of a layer are one regression for each thing it makes, all on the same regressors.  Their unknowns form a
matrix Θ of a column each, and every family k that reads them has, with the same small V_k for all columns,

    A_k = F_k + Θᵀ V_k,

so that Σ_k V_k C_uu,k V_kᵀ, each divided by its scalar noise, serves them all: a layer at many time steps or positions
costs a system of the size of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

if TYPE_CHECKING:
    from gbn.learning.design import Coefficients
    from gbn.learning.regressions import Family

__all__ = ["Component", "Group", "parameter_groups"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Component:
    """Families of a group that hang together, and the unknowns that they read.

    families: their numbers among those of the group.
    unknowns: entries of the group's stacked parameters.
    theta: the same as Θ; None where the families do not have this form.  Shape: (rows, columns of Θ).
    factors: V_k for each family.  Shape of each: (rows, columns of A_k).
    """

    families: tuple[int, ...]
    unknowns: Array
    theta: Array | None
    factors: tuple[Array, ...]


class Group:
    """Parameters that meet in a family whose mean is linear in all of them jointly; stacked by name."""

    def __init__(self, names: set[str]) -> None:
        self.names = tuple(sorted(names))
        self._known: tuple[list[Coefficients], list[Component]] | None = None

    def components(self, coefficients: Sequence[Coefficients], columns: Sequence[Array], total: int) -> list[Component]:
        """The parts of the group's normal equations that know nothing of one another.

        Args:
            coefficients: of each family, as a function of what it reads of the group.
            columns: which stacked entries these are, for each family.
            total: number of stacked entries.
        """
        given = list(coefficients)
        # Coefficients have no equality of their own: these are the very same objects.
        if self._known is not None and self._known[0] == given:
            return self._known[1]
        designs = [_spread(c.design, where, total) for c, where in zip(coefficients, columns, strict=True)]
        read = sparse.csr_array(sparse.vstack([_touched(design) for design in designs]))
        _, label = csgraph.connected_components(sparse.block_array([[None, read], [read.T, None]]), directed=False)
        count = len(designs)
        found = []
        for one in dict.fromkeys(label[:count]):
            families = tuple(np.flatnonzero(label[:count] == one).tolist())
            unknowns = np.flatnonzero(label[count:] == one)
            sizes = [coefficients[k].fixed.shape[0] for k in families]
            aligned = _aligned([designs[k] for k in families], sizes, unknowns)
            found.append(Component(families, unknowns, *(aligned or (None, ()))))
        self._known = given, found
        return found


def parameter_groups(families: Sequence[Family]) -> list[Group]:
    """Learned parameters that are solved for together: those that meet in a family, where it is linear in both."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    conflicts: set[frozenset[str]] = set()
    for family in families:
        for name in family.learned:
            parent.setdefault(name, name)
        for name in family.learned[1:]:
            parent[root(name)] = root(family.learned[0])
        blocks = family.blocks()
        conflicts |= {
            frozenset((a, b)) for i, one in enumerate(blocks) for c in blocks[i + 1 :] for a in one for b in c
        }
    together: dict[str, list[set[str]]] = {}
    for name in parent:
        groups = together.setdefault(root(name), [])
        for group in groups:
            if not conflicts or not any(frozenset((name, other)) in conflicts for other in group):
                group.add(name)
                break
        else:
            groups.append({name})
    return [Group(group) for groups in together.values() for group in groups]


def _spread(design: sparse.csc_array, where: Array, total: int) -> sparse.csc_array:
    """A design with a column for every unknown of the group."""
    found = design.tocoo()
    return sparse.csc_array((found.data, (found.row, where[found.col])), shape=(design.shape[0], total))


def _touched(design: sparse.csc_array) -> sparse.csr_array:
    """A row that is 1 at the unknowns that are read."""
    return sparse.csr_array((np.diff(design.indptr) > 0).astype(float)[None])


def _aligned(
    designs: Sequence[sparse.csc_array], sizes: Sequence[int], unknowns: Array
) -> tuple[Array, tuple[Array, ...]] | None:
    """Θ and the V_k, where there are such."""
    size = sizes[0]
    if len(set(sizes)) > 1 or len(unknowns) % size or not len(unknowns):
        return None
    rng = np.random.default_rng(0)
    made, mark = np.full(len(unknowns), -1), np.zeros(len(unknowns))
    parts = [sparse.csc_array(design[:, unknowns]) for design in designs]
    for part in parts:
        entry = np.repeat(np.arange(len(unknowns)), np.diff(part.indptr))
        row = np.asarray(part.indices)
        made[entry] = row % size
        # Unknowns of one row of Θ are those that are read alike.
        np.add.at(mark, entry, part.data * rng.uniform(1, 2, part.shape[0] // size)[row // size])
    order = np.lexsort((np.arange(len(unknowns)), mark, made))
    if (np.bincount(made, minlength=size) * size != len(unknowns)).any():
        return None
    place = order.reshape(size, -1).T
    factors = []
    for part in parts:
        factor = part[::size, :][:, place[:, 0]].toarray().T
        expected = sparse.kron(sparse.csr_array(factor.T), sparse.eye_array(size))
        gap = abs(sparse.csc_array(part[:, place.reshape(-1)] - expected))
        if gap.nnz and gap.max() > 1e-12 * np.abs(factor).max(initial=0):
            return None
        factors.append(factor)
    return unknowns[place], tuple(factors)
