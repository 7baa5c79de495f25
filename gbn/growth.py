"""More units for a layer, without a change to what the net computes.

New units read the layer's inputs by random weights and biases, and are read by zeros: every other vertex keeps its
value, and the old weights their gradients.  The zeros have gradients of their own, by which learning takes the new
units up.  The idea is that of Net2Net (Chen, Goodfellow & Shlens, ICLR 2016), without the copies of old units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gbn import ops
from gbn.errors import GraphError
from gbn.gaussian import Covariance
from gbn.net import GaussianBayesNet
from gbn.vertex import Vertex

__all__ = ["widen"]

Array = np.ndarray[Any, Any]
_REMEDY = "widen() follows Linear, Gemm, MatMul and Conv, biases, elementwise functions, pooling and Flatten"


def widen(
    net: GaussianBayesNet,
    vertex: str,
    units: int,
    *,
    scale: float = 1.0,
    rng: np.random.Generator | int | None = 0,
) -> GaussianBayesNet:
    """A copy of a net with more units in one hidden layer; all other vertices keep their values, but for rounding.

    Args:
        vertex: the result of a Linear, Gemm, MatMul or Conv by weights of its own; a unit is one of its entries, or one
            channel.
        units: how many to add; they stand behind the old ones.
        scale: of the new incoming weights and biases, relative to the root mean square of the old ones.
        rng: a Generator, or a seed.

    Returns:
        the grown net.  The noise of new units is the mean variance of the old ones, independent of theirs.

    Raises:
        UnknownNameError: no such vertex.
        GraphError: the vertex is no such layer, or an output; its units meet an op that cannot take more of them, or
            weights or a noise that others share.
    """
    if not isinstance(units, (int, np.integer)) or units < 1:
        raise GraphError(f"units: got {units!r}, expected a whole number of at least 1")
    plan = _Plan(net, int(units))
    plan.layer(net[vertex])
    plan.follow()
    return plan.carry_out(scale, np.random.default_rng(rng))


@dataclass(frozen=True)
class _Pad:
    """What an array gets more of: so many entries at the end of an axis, random or zeros."""

    axis: int
    extra: int
    random: bool


@dataclass
class _Plan:
    """What grows.

    grown: vertex -> (axis of its event, entries more).
    pads: parameter -> what it gets.
    """

    net: GaussianBayesNet
    units: int
    grown: dict[str, tuple[int, int]] = field(default_factory=dict)
    pads: dict[str, _Pad] = field(default_factory=dict)

    def layer(self, vertex: Vertex) -> None:
        """The layer itself: its weights get more outputs."""
        if vertex.op not in _OUT:
            raise GraphError(f"{vertex.name!r} is {vertex.title}, expected a Linear, Gemm, MatMul or Conv; {_REMEDY}")
        for weight in _weights(vertex):
            self._pad(weight, vertex, _Pad(_OUT[vertex.op](vertex), self.units, random=True))
        self._bias(vertex, self.units)
        self.grown[vertex.name] = (0 if vertex.op == "Conv" else len(vertex.shape) - 1, self.units)

    def follow(self) -> None:
        """Everything below, down to the next weights."""
        outputs = set(self.net.outputs)
        for name, vertex in self.net.vertices.items():
            if name in self.grown or not any(parent in self.grown for parent in vertex.parents):
                continue
            self._child(vertex)
        for name in self.grown:
            if name in outputs or any(name in self.net[label].parents for label in self.net.labels):
                raise GraphError(f"{name!r} is an output: more units would change what the net returns")

    def _child(self, vertex: Vertex) -> None:
        first = vertex.parents[0]
        if vertex.op in _OUT and not any(weight in self.grown for weight in _weights(vertex)):
            for data, weight in zip(_data(vertex), _weights(vertex), strict=True):
                if data in self.grown:
                    self._pad(weight, vertex, _Pad(_in(vertex), self._arriving(data, vertex), random=False))
            return
        family = ops.get(str(vertex.op)).family if vertex.kind == "op" else ""
        axis, extra = self.grown.get(first, (0, 0))
        alone = first in self.grown and len(vertex.parents) == 1
        if alone and (family == "elementwise" or (family == "pooling" and axis == 0)):
            self.grown[vertex.name] = (axis, extra)
            return
        if vertex.op == "Add" and first in self.grown and self._is_bias(vertex):
            self._pad(vertex.parents[1], vertex, _Pad(0, extra, random=True))
            self.grown[vertex.name] = (axis, extra)
            return
        if vertex.op == "Flatten" and axis == 0 and len(vertex.shape) == 1:
            rest = self.net[first].size // self.net[first].shape[0]
            self.grown[vertex.name] = (0, extra * rest)
            return
        raise GraphError(f"{vertex.name!r} ({vertex.title}) cannot take more units of {first!r}; {_REMEDY}")

    def _arriving(self, data: str, vertex: Vertex) -> int:
        """How many more inputs a weight sees."""
        axis, extra = self.grown[data]
        shape = self.net[data].shape
        if vertex.op == "Linear" and axis == 0:
            return extra * (self.net[data].size // shape[0])
        channels = vertex.op == "Conv"
        mixed = channels and vertex.attributes.get("group", 1) != 1
        if mixed or vertex.attributes.get("transA") or axis != (0 if channels else len(shape) - 1):
            raise GraphError(f"{vertex.name!r} ({vertex.title}) cannot take more units of {data!r}; {_REMEDY}")
        return extra

    def _is_bias(self, vertex: Vertex) -> bool:
        other = self.net[vertex.parents[1]]
        return other.kind == "parameter" and other.shape == vertex.shape[-1:]

    def _bias(self, vertex: Vertex, extra: int) -> None:
        if len(vertex.parents) % 2:
            bias = self.net[vertex.parents[-1]]
            self._pad(bias.name, vertex, _Pad(len(bias.shape) - 1, extra, random=True))

    def _pad(self, name: str, user: Vertex, pad: _Pad) -> None:
        parameter = self.net[name]
        readers = [n for n, v in self.net.vertices.items() if name in v.parents]
        if parameter.kind not in ("parameter", "constant") or readers != [user.name]:
            what = f"{parameter.kind} {name!r}, read by {', '.join(map(repr, readers))}"
            raise GraphError(f"{user.name!r} cannot grow by the {what}: expected a parameter of its own")
        if name in self.pads:
            raise GraphError(f"{name!r} would grow along two axes; widen one layer at a time")
        self.pads[name] = pad

    def carry_out(self, scale: float, rng: np.random.Generator) -> GaussianBayesNet:
        net = self.net.copy()
        for name, pad in self.pads.items():
            vertex = net.vertices[name]
            value = _padded(np.asarray(vertex.value), pad, scale, rng)
            net.vertices[name] = replace(vertex, value=value, shape=value.shape)
            self._noise(net, vertex, pad.axis, pad.extra)
        for name, (axis, extra) in self.grown.items():
            vertex = net.vertices[name]
            shape = _longer(vertex.shape, axis, extra)
            attributes = dict(vertex.attributes)
            if vertex.op == "Linear" and "shape" in attributes:
                attributes["shape"] = list(shape)
            net.vertices[name] = replace(vertex, shape=shape, attributes=attributes)
            self._noise(net, vertex, axis, extra)
        return net

    def _noise(self, net: GaussianBayesNet, vertex: Vertex, axis: int, extra: int) -> None:
        """The noise of a grown vertex, which is its own."""
        if vertex.noise is None:
            return
        sharing = [n for n, v in self.net.vertices.items() if v.noise == vertex.noise]
        if sharing != [vertex.name]:
            raise GraphError(f"{vertex.name!r} shares the noise {vertex.noise!r} with others; give it one of its own")
        noise = net.noises[vertex.noise]
        shape, value = _longer(vertex.shape, axis, extra), noise.value
        mean = float(noise.diagonal().mean())
        if noise.form == "diagonal":
            value = np.concatenate([value, np.full(_sized(vertex.shape, axis, extra), mean)], axis)
        elif noise.form == "full":
            value = _scattered(noise.matrix(), vertex.shape, axis, extra, mean)
        net.noises[vertex.noise] = Covariance(value, shape, vertex.name)


def _weights(vertex: Vertex) -> tuple[str, ...]:
    return vertex.parents[1 : len(vertex.parents) : 2] if vertex.op == "Linear" else vertex.parents[1:2]


def _data(vertex: Vertex) -> tuple[str, ...]:
    return vertex.parents[0 : len(vertex.parents) - 1 : 2] if vertex.op == "Linear" else vertex.parents[:1]


def _transposed(vertex: Vertex) -> bool:
    return bool(vertex.attributes.get("transB", 0))


# Axis of a weight that runs over the outputs, and over the inputs.
_OUT: dict[str, Callable[[Vertex], int]] = {
    "Linear": lambda vertex: 0,
    "Conv": lambda vertex: 0,
    "MatMul": lambda vertex: 1,
    "Gemm": lambda vertex: 0 if _transposed(vertex) else 1,
}


def _in(vertex: Vertex) -> int:
    return 1 - _OUT[str(vertex.op)](vertex)


def _padded(value: Array, pad: _Pad, scale: float, rng: np.random.Generator) -> Array:
    shape = _sized(value.shape, pad.axis, pad.extra)
    size = scale * float(np.sqrt(np.mean(value.astype(np.float64) ** 2))) if pad.random else 0.0
    more = (size * rng.standard_normal(shape)).astype(value.dtype)
    out = np.concatenate([value, more], axis=pad.axis)
    out.flags.writeable = False
    return out


def _longer(shape: tuple[int, ...], axis: int, extra: int) -> tuple[int, ...]:
    return tuple(size + extra * (k == axis) for k, size in enumerate(shape))


def _sized(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return tuple(size if k == axis else old for k, old in enumerate(shape))


def _scattered(matrix: Array, shape: tuple[int, ...], axis: int, extra: int, mean: float) -> Array:
    """A covariance over the longer event, diagonal at what is new."""
    longer = _longer(shape, axis, extra)
    places = np.arange(int(np.prod(longer))).reshape(longer)
    old = places.take(range(shape[axis]), axis=axis).reshape(-1)
    out = mean * np.eye(places.size)
    out[np.ix_(old, old)] = matrix
    return out
