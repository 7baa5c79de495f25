"""The numbers of a net: what learning changes, what it must leave alone, and what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import FileFormatError, UnknownNameError
from gbn.gaussian import Covariance

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = ["Frozen", "numbers", "with_noise", "with_numbers", "with_values"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Frozen:
    """What learning leaves alone, bit for bit.

    values: parameters, and inputs whose prior mean stays.
    noises: names of noises.
    """

    values: frozenset[str]
    noises: frozenset[str]

    @classmethod
    def read(cls, net: GaussianBayesNet, names: str | Iterable[str]) -> Frozen:
        """What a person names: parameters, shared noises, or vertices, which stand for their whole CPD.

        A CPD is the noise of a vertex and every parameter that its mean is computed from, up to the nearest vertices
        with a value per sample and noise.  Parameters that are not trainable, and constants, are frozen anyway.

        Raises:
            UnknownNameError: with near matches.
        """
        values = {n for n, v in net.vertices.items() if v.kind == "constant" or not v.trainable}
        noises: set[str] = set()
        for name in [names] if isinstance(names, str) else names:
            if name in net.noises and name not in net.vertices:
                noises.add(name)
                continue
            if name not in net.vertices:
                raise UnknownNameError("name in freeze", name, {**net.vertices, **net.noises})
            vertex = net.vertices[name]
            if vertex.noise is not None:
                noises.add(vertex.noise)
            values |= {name} if vertex.kind in ("parameter", "input") else parameters_of(net, name)
        return cls(frozenset(values), frozenset(noises))


def parameters_of(net: GaussianBayesNet, name: str) -> set[str]:
    """The parameters that the mean of a vertex is computed from, with no other random vertex between."""
    found: set[str] = set()
    todo, seen = list(net.vertices[name].parents), set[str]()
    while todo:
        parent = todo.pop()
        if parent in seen:
            continue
        seen.add(parent)
        vertex = net.vertices[parent]
        if vertex.kind == "parameter":
            found.add(parent)
        elif not vertex.random:
            todo += vertex.parents
    return found


def numbers(net: GaussianBayesNet) -> dict[str, dict[str, Array]]:
    """All that learning may change: values of parameters and prior means, and noises by name."""
    held = {n: v.value for n, v in net.vertices.items() if v.kind in ("parameter", "input") and v.value is not None}
    return {"values": held, "noises": {name: noise.value for name, noise in net.noises.items()}}


def with_numbers(net: GaussianBayesNet, found: Mapping[str, Mapping[str, Array]]) -> GaussianBayesNet:
    """A copy of a net with numbers from :func:`numbers`.

    Raises:
        FileFormatError: they are of another net.
    """
    expected = numbers(net)
    for kind in ("values", "noises"):
        if {n: a.shape for n, a in found[kind].items()} != {n: a.shape for n, a in expected[kind].items()}:
            raise FileFormatError(f"got {kind} of another net; begin anew, or give the net that was being fitted")
    out = with_values(net, found["values"])
    return with_noise(
        out, {n: a.reshape(-1) if net.noises[n].form == "diagonal" else a for n, a in found["noises"].items()}
    )


def with_values(net: GaussianBayesNet, values: Mapping[str, Array]) -> GaussianBayesNet:
    """A copy of a net with other values of some parameters, and other prior means of some inputs."""
    out = net.copy()
    for name, value in values.items():
        array = np.array(value, dtype=net.dtype).reshape(net.vertices[name].shape)
        array.flags.writeable = False
        out.vertices[name] = replace(out.vertices[name], value=array)
    return out


def with_noise(net: GaussianBayesNet, noises: Mapping[str, Array]) -> GaussianBayesNet:
    """A copy of a net with other covariances of some noises, by the noise's name and in its form."""
    out = net.copy()
    for name, value in noises.items():
        out.noises[name] = Covariance(value, net.noises[name].event, name)
    return out
