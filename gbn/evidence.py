"""What is observed: arrays with NaN for missing entries, labels, and interventions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import EvidenceError, ShapeError, UnknownNameError
from gbn.gaussian import Conditional

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet, Vertex

__all__ = ["Evidence"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence in one form: every array has a sample axis and the net's dtype.

    samples: number of rows.
    values: observed vertex -> (samples, *event); missing entries are 0 in Gaussian vertices, NaN in labels.
    masks: vertex -> True where observed, for the Gaussian vertices with missing entries only.
    do: vertices set from outside, their CPDs cut: interventions, and inputs without a prior.
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
        values: Mapping[str, Any] | None = None,
        do: Mapping[str, Any] | None = None,
        samples: int | None = None,
    ) -> Evidence:
        """Check and normalise what a person gives.

        Args:
            values: name -> array of shape (samples, *event), NaN where missing; one row may come without its sample
                axis.  Labels: see :mod:`gbn.likelihoods`.
            do: name -> array; complete.
            samples: number of rows, where no array says it (default 1).

        Raises:
            UnknownNameError: with near matches.
            ShapeError, EvidenceError: naming the vertex, what was got and what was expected.
        """
        values, do = dict(values or {}), dict(do or {})
        both = sorted(set(values) & set(do))
        if both:
            raise EvidenceError(f"{both[0]!r} is given both as evidence and in do=, which cuts it off; choose one")
        arrays = {name: _read(net, name, value) for name, value in (values | do).items()}
        count = _count(net, arrays, samples)
        if not count:
            raise EvidenceError("evidence has no rows; expected at least one sample")
        observed: dict[str, Array] = {}
        masks: dict[str, Array] = {}
        fixed: dict[str, Array] = {}
        for name, array in arrays.items():
            vertex = net.vertices[name]
            if vertex.plated and len(array) != count:
                array = np.broadcast_to(array, (count, *array.shape[1:]))
            missing = _missing(name, array)
            if name in do or vertex.needs_data:
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


def _read(net: GaussianBayesNet, name: str, value: Any) -> Array:
    """One array with its sample axis, of the net's dtype; labels encoded."""
    if name not in net.vertices:
        raise UnknownNameError("vertex", name, net.vertices)
    vertex = net.vertices[name]
    try:
        array = np.asarray(value)
        if array.dtype != net.dtype and vertex.kind != "likelihood":
            array = array.astype(net.dtype)
    except (TypeError, ValueError) as error:
        raise EvidenceError(f"evidence for {name!r}: expected numbers, got {type(value).__name__} ({error})") from None
    if not vertex.plated:
        if array.shape != vertex.shape:
            raise ShapeError(f"value of {name!r}: got shape {array.shape}, expected {vertex.shape}")
        return array
    if vertex.kind == "likelihood":
        if array.ndim == 0:
            array = array[None]
        return net.label_of(name).encode(array, vertex.shape, name, net.dtype)
    return _with_samples(vertex, array)


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
    with np.errstate(over="ignore", invalid="ignore"):
        complete = np.isfinite(flat @ flat)
    if complete:
        return None
    if np.isinf(array).any():
        raise EvidenceError(f"evidence for {name!r}: got an infinite value, expected finite numbers or NaN")
    missing = np.isnan(array)
    return missing if missing.any() else None
