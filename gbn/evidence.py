"""What is observed: arrays with NaN for missing entries, labels, and interventions."""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.arrays import detached
from gbn.errors import EvidenceError, ShapeError, UnknownNameError
from gbn.gaussian import Conditional

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet, Vertex

__all__ = ["Evidence", "columns", "named_arrays", "offered"]

Array = np.ndarray[Any, Any]
_ENTRY = re.compile(r"(?P<name>.*)\[(?P<index>\d+(\s*,\s*\d+)*)\]", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence in one form: every array has a sample axis and the net's dtype, and is a read-only copy.

    samples: number of rows.
    values: observed vertex -> (samples, *event); missing entries are 0 in Gaussian vertices, NaN in labels.
    masks: vertex -> True where observed, for the Gaussian vertices with missing entries only.
    do: vertices set from outside, their CPDs cut: interventions, and inputs without noise.
    """

    net: GaussianBayesNet
    samples: int
    values: Mapping[str, Array]
    masks: Mapping[str, Array]
    do: Mapping[str, Array]

    @classmethod
    def read(
        cls,
        net: GaussianBayesNet,
        values: Any = None,
        do: Any = None,
        samples: int | None = None,
    ) -> Evidence:
        """Check and normalise what a person gives.

        Args:
            values: name -> array of shape (samples, *event), NaN where missing; one row may come without its sample
                axis.  Labels: see :mod:`gbn.likelihoods`.  A pandas DataFrame, or a Series for one row, serves too:
                see :func:`named_arrays`.
            do: name -> array, or a table; complete.
            samples: number of rows, where no array says it (default 1).

        Raises:
            UnknownNameError: with near matches.
            ShapeError, EvidenceError: naming the vertex, what was got and what was expected.
        """
        values, do = named_arrays(net, values), named_arrays(net, do, "do")
        if do and not do.keys().isdisjoint(values):
            both = min(do.keys() & values.keys())
            raise EvidenceError(f"{both!r} is given both as evidence and in do=, which cuts it off; choose one")
        arrays = {name: _read(net, name, value, name in do) for name, value in (values | do).items()}
        count = _count(net, arrays, samples)
        if not count:
            raise EvidenceError("evidence has no rows; expected at least one sample")
        observed: dict[str, Array] = {}
        masks: dict[str, Array] = {}
        fixed: dict[str, Array] = {}
        with np.errstate(over="ignore", invalid="ignore"):
            gaps = {name: _missing(name, array) for name, array in arrays.items()}
        for name, array in arrays.items():
            vertex, missing = net.vertices[name], gaps[name]
            if vertex.plated and len(array) != count:
                array = np.broadcast_to(array, (count, *array.shape[1:]))
                missing = None if missing is None else np.broadcast_to(missing, array.shape)
            if name in do and vertex.kind == "likelihood":
                raise EvidenceError(f"{name!r} is a label, which nothing depends on: give it as evidence, not in do=")
            if name in do or (vertex.kind == "input" and not vertex.random):
                _demand_complete(name, missing, intervention=name in do)
                fixed[name] = array
            elif not vertex.plated:
                raise EvidenceError(
                    f"{name!r} is a {vertex.kind}, shared by all samples, not evidence; "
                    f"change it with net.set_value({name!r}, value)"
                )
            elif missing is None or (vertex.kind == "likelihood" and not missing.all()):
                observed[name] = array
            elif not missing.all():
                observed[name] = np.where(missing, array.dtype.type(0), array)
                masks[name] = ~missing
        return cls(net, count, observed, masks, fixed)

    @cached_property
    def conditionals(self) -> dict[str, Conditional]:
        """For each partly observed vertex with noise, its noise given the observed entries."""
        noises = {name: self.net.noise(name) for name in self.masks}
        return {name: q.given(self.masks[name]) for name, q in noises.items() if q is not None}

    def rows(self, index: Array) -> Evidence:
        """Some of the rows."""

        def pick(arrays: Mapping[str, Array]) -> dict[str, Array]:
            return {n: a[index] if self.net.vertices[n].plated else a for n, a in arrays.items()}

        return Evidence(self.net, len(index), pick(self.values), pick(self.masks), pick(self.do))

    def patterns(self) -> tuple[Array, Array]:
        """Rows grouped by what they miss: the first row of each pattern, and the pattern of every row."""
        parts = [mask.reshape(self.samples, -1) for mask in self.masks.values()]
        labels = [np.isnan(self.values[n]).reshape(self.samples, -1) for n in self.values if self._is_label(n)]
        if not parts and not labels:
            return np.zeros(1, int), np.zeros(self.samples, int)
        missing = np.concatenate(parts + labels, axis=1)
        _, first, which = np.unique(missing, axis=0, return_index=True, return_inverse=True)
        return first, which.reshape(-1)

    def _is_label(self, name: str) -> bool:
        return self.net.vertices[name].kind == "likelihood"


def columns(vertex: Vertex) -> list[str]:
    """Names of the entries of a vertex as columns of a table: ``name`` for a single one, else ``name[i, j]``."""
    if vertex.size == 1:
        return [vertex.name]
    return [f"{vertex.name}[{', '.join(map(str, index))}]" for index in np.ndindex(vertex.shape)]


def named_arrays(net: GaussianBayesNet, given: Any, argument: str = "evidence") -> dict[str, Any]:
    """Evidence by vertex: a mapping as it is, a pandas table by its columns.

    A column is named ``vertex`` where the vertex has one entry, ``vertex[i]`` or ``vertex[i, j]`` for one entry of a
    larger one; entries without a column are missing.  A categorical label takes its class as ``label`` (``label[i]``
    where there are labels at several places), or a probability for each class as ``label[class, ...]``.  Rows are
    samples, in order (the table's index is not read); a Series is one row.

    Raises:
        UnknownNameError: a column of no vertex, with near matches.
        ShapeError, EvidenceError: naming the column or the argument.
    """
    if given is None:
        return {}
    pandas = sys.modules.get("pandas")  # whoever has a table has imported it
    if pandas is not None and isinstance(given, pandas.Series):
        given = given.to_frame().T
    if pandas is not None and isinstance(given, pandas.DataFrame):
        return _from_table(net, given)
    if not isinstance(given, Mapping):
        raise EvidenceError(
            f"{argument}: got {type(given).__name__}, expected a mapping from names to arrays, or a pandas DataFrame"
        )
    return dict(given)


def _from_table(net: GaussianBayesNet, table: Any) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    taken: dict[tuple[str, tuple[int, ...]], str] = {}
    for position, column in enumerate(table.columns):
        vertex, index, shape = _place(net, column)
        array = arrays.setdefault(vertex.name, np.full((len(table), *shape), np.nan))
        if array.shape[1:] != shape:
            raise EvidenceError(f"column {column!r}: give either the label {vertex.name!r} or its classes, not both")
        if (vertex.name, index) in taken:
            raise EvidenceError(f"column {column!r} gives the same entry as column {taken[vertex.name, index]!r}")
        taken[vertex.name, index] = column
        entry: Any = (slice(None), *index)
        array[entry] = _numbers(table.iloc[:, position], column)
    return arrays


def _place(net: GaussianBayesNet, column: Any) -> tuple[Vertex, tuple[int, ...], tuple[int, ...]]:
    """What a column speaks of: the vertex, the index into an array of it, and the shape of that array's rows."""
    name, suffix = column, ""
    index: tuple[int, ...] = ()
    found = None if column in net.vertices else _ENTRY.fullmatch(str(column))
    if found:
        name, suffix = found["name"], f"[{found['index']}]"
        index = tuple(int(i) for i in found["index"].split(","))
    if name not in net.vertices:
        raise UnknownNameError("column", column, [n + suffix for n, v in net.vertices.items() if v.plated])
    vertex = net.vertices[name]
    if not vertex.plated:
        raise EvidenceError(
            f"column {column!r}: {name!r} is a {vertex.kind}, shared by all samples; a table holds what differs by row"
        )
    event = vertex.shape
    if vertex.op == "categorical" and len(index) == len(event) - 1:
        event = event[1:]
    elif not found and vertex.size == 1:
        index = (0,) * len(event)
    if len(index) != len(event) or any(i >= size for i, size in zip(index, event, strict=True)):
        known = columns(vertex)
        raise ShapeError(
            f"column {column!r}: {name!r} has the shape {vertex.shape}; expected "
            + (f"the column {known[0]!r}" if len(known) == 1 else f"columns {known[0]!r} to {known[-1]!r}")
        )
    return vertex, index, event


def _numbers(series: Any, column: str) -> Array:
    try:
        array: Array = series.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise EvidenceError(f"column {column!r}: expected numbers, got {series.dtype} ({error})") from None
    return array


def offered(net: GaussianBayesNet, name: object) -> list[str]:
    """What an unknown name may have meant: vertices with a value per sample, all vertices where a weight is closest."""
    closest = difflib.get_close_matches(str(name), net.vertices, n=1)
    plated = [n for n, vertex in net.vertices.items() if vertex.plated]
    return plated if not closest or closest[0] in plated else list(net.vertices)


def _read(net: GaussianBayesNet, name: str, value: Any, intervention: bool) -> Array:
    """One array with its sample axis, of the net's dtype, labels encoded: a read-only copy, for answers are lazy."""
    if name not in net.vertices:
        known = offered(net, name) if intervention else [n for n, vertex in net.vertices.items() if vertex.plated]
        raise UnknownNameError("vertex", name, known)
    array = _numeric(net, name, value)
    vertex = net.vertices[name]
    if not vertex.plated:
        if array.shape != vertex.shape:
            raise ShapeError(f"value of {name!r}: got shape {array.shape}, expected {vertex.shape}")
    elif vertex.kind == "likelihood":
        array = array[None] if array.ndim == 0 else array
        array = np.array(net.label_of(name).encode(array, vertex.shape, name, net.dtype))
    else:
        array = _with_samples(vertex, array)
    array.flags.writeable = False
    return array


def _numeric(net: GaussianBayesNet, name: str, value: Any) -> Array:
    """A copy, of the net's dtype; labels as they come."""
    vertex = net.vertices[name]
    try:
        array = np.asarray(detached(value))
        array = array.astype(np.float64) if array.dtype.kind == "O" else array
        if array.dtype.kind not in "buif":
            raise TypeError(f"entries of type {array.dtype}")
        return array if vertex.kind == "likelihood" else np.array(array, dtype=net.dtype, order="C")
    except (TypeError, ValueError) as error:
        wanted = "class numbers 0, 1, ..." if vertex.op == "categorical" else "numbers"
        raise EvidenceError(f"evidence for {name!r}: expected {wanted}, got {type(value).__name__} ({error})") from None


def _with_samples(vertex: Vertex, array: Array) -> Array:
    event = vertex.shape
    if array.ndim == len(event) + 1 and array.shape[1:] == event:
        return array
    if array.shape == event:
        return array[None]
    if event == (1,) and array.ndim <= 1:
        return array.reshape(-1, 1)
    expected = ", ".join(["samples", *map(str, event)])
    raise ShapeError(
        f"evidence for {vertex.name!r}: got shape {array.shape}, expected ({expected}), or {event} for one row"
    )


def _count(net: GaussianBayesNet, arrays: Mapping[str, Array], samples: int | None) -> int:
    sizes = {name: len(array) for name, array in arrays.items() if net.vertices[name].plated}
    several = {name: size for name, size in sizes.items() if size != 1}
    if samples is not None and all(size in (1, samples) for size in sizes.values()):
        return samples
    if len(set(several.values())) > 1:
        listed = ", ".join(f"{name!r}: {size}" for name, size in several.items())
        raise EvidenceError(f"evidence has arrays of different numbers of samples ({listed}); expected the same, or 1")
    return next(iter(several.values()), 1)


def _demand_complete(name: str, missing: Array | None, intervention: bool) -> None:
    if missing is not None:
        what = "an intervention sets every entry" if intervention else "an input without a prior must be observed whole"
        remedy = "" if intervention else f"; give it a prior with net.set_prior({name!r}, mean, cov)"
        raise EvidenceError(f"{name!r}: {int(missing.sum())} entries are NaN, but {what}{remedy}")


def _missing(name: str, array: Array) -> Array | None:
    """Where entries are NaN; None where all are there.  Raises EvidenceError at infinities."""
    flat = array.ravel(order="K")
    # One product at memory speed says that all is finite; where it overflows, a closer look follows.
    if math.isfinite(flat @ flat):
        return None
    if np.isinf(array).any():
        raise EvidenceError(f"evidence for {name!r}: got an infinite value, expected finite numbers or NaN")
    missing = np.isnan(array)
    return missing if missing.any() else None
