"""Affine CPDs written out, for formats that know scalars only: v = Σ_p W_p vec(v_p) + b + e."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gbn.errors import ConversionError
from gbn.net import GaussianBayesNet, Vertex

__all__ = ["AffineCPD", "affine_cpds", "check_distinct", "check_plain", "entries", "entry_names"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class AffineCPD:
    """One CPD, of a vertex of ``size`` entries.

    weights: parent -> W_p, shape (size, size of the parent).
    bias: b, shape (size,).
    """

    weights: Mapping[str, Array]
    bias: Array


def affine_cpds(net: GaussianBayesNet, names: Collection[str]) -> dict[str, AffineCPD]:
    """The CPDs of vertices whose mean is affine in their parents, in float64; plain parameters are folded in.

    The bias is the mean where all parents are 0: nothing is subtracted, so numbers come out as they were put in.
    """
    means: dict[str, Array] = {}

    def keep(name: str, mean: Array) -> Array:
        means[name] = mean
        return np.zeros_like(mean)

    plated = {name: vertex for name, vertex in net.vertices.items() if vertex.plated and vertex.kind != "likelihood"}
    roots = {n: np.zeros((1, *v.shape), net.dtype) for n, v in plated.items() if v.kind == "input"}
    rules: dict[str, Callable[[Array], Array]] = {n: partial(keep, n) for n in plated}
    _, makers = net.evaluate(roots, 1, rules)
    found = {}
    for name in names:
        vertex = net.vertices[name]
        weights: dict[str, Array] = {}
        for parent, make in zip(vertex.parents, makers.get(name, ()), strict=True):
            if parent in plated and make is not None:
                block = make().blocks(net.dtype)[0].astype(np.float64)
                weights[parent] = weights[parent] + block if parent in weights else block
        mean = means[name] if vertex.kind == "op" else np.zeros(vertex.size) if vertex.value is None else vertex.value
        found[name] = AffineCPD(weights, mean.reshape(-1).astype(np.float64))
    return found


def check_plain(net: GaussianBayesNet, purpose: str) -> None:
    """Raise ConversionError where labels or random parameters leave no Gaussian CPDs of scalars with fixed weights."""
    if net.labels:
        raise ConversionError(
            f"{purpose}: {net.labels[0]!r} is a label, which is not Gaussian; convert the model with "
            "likelihood='gaussian'"
        )
    uncertain = [name for name in net.parameters if net.vertices[name].random]
    if uncertain:
        raise ConversionError(
            f"{purpose}: parameter {uncertain[0]!r} has a prior, and weights must be numbers; make it plain with "
            f"net.set_noise({{{uncertain[0]!r}: None}})"
        )


def check_distinct(names: Iterable[str], purpose: str) -> None:
    """Raise ConversionError where two scalars have one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConversionError(
                f"{purpose}: two scalars would be named {name!r}, a vertex of that name and an entry of another; "
                "rename one of the vertices"
            )
        seen.add(name)


def entry_names(vertex: Vertex) -> list[str]:
    """Names of the scalars of a vertex: ``name[i]``, ``name[i,j]``, ...; plain ``name`` where there is one by shape."""
    if vertex.shape in ((), (1,)):
        return [vertex.name]
    return [f"{vertex.name}[{','.join(map(str, index))}]" for index in np.ndindex(vertex.shape)]


def entries(weights: Array, row: int, names: Sequence[str]) -> Iterator[tuple[str, float]]:
    """The edges into one scalar, as (parent, weight).  A zero is no edge, except between two scalar vertices."""
    for name, weight in zip(names, weights[row].tolist(), strict=True):
        if weight or weights.size == 1:
            yield name, weight
