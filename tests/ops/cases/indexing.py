"""Cases of ops that read or write at given positions."""

import numpy as np
from hypothesis import strategies as st

from tests.ops.cases.base import Case, generator, normal, optional, shapes


def indices(rng, shape, size):
    return rng.integers(-size, size, shape).astype(float)


@st.composite
def gather(draw):
    shape, rng = draw(shapes(1, 3)), generator(draw)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    attributes = {"axis": axis} if axis % len(shape) else optional(draw, {"axis": axis})
    return Case([normal(rng, shape), indices(rng, draw(shapes(0, 2)), shape[axis])], attributes)


def part_of(draw, shape, axis):
    """A shape of indices: any size along the axis, no greater ones elsewhere."""
    sizes = [draw(st.integers(1, size)) for size in shape]
    sizes[axis] = draw(st.integers(1, 4))
    return tuple(sizes)


@st.composite
def gather_elements(draw):
    shape, rng = draw(shapes(1, 3)), generator(draw)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    attributes = {"axis": axis} if axis % len(shape) else optional(draw, {"axis": axis})
    return Case([normal(rng, shape), indices(rng, part_of(draw, shape, axis), shape[axis])], attributes)


def tuples(rng, chosen, sizes):
    columns = [indices(rng, chosen, size) for size in sizes]
    return np.stack(columns, -1)


@st.composite
def gather_nd(draw):
    shape, rng = draw(shapes(1, 4)), generator(draw)
    batch = draw(st.integers(0, len(shape) - 1))
    depth = draw(st.integers(batch + 1, len(shape)))
    chosen = (*shape[:batch], *draw(shapes(0, 2)))
    attributes = {"batch_dims": batch} if batch else optional(draw, {"batch_dims": 0})
    return Case([normal(rng, shape), tuples(rng, chosen, shape[batch:depth])], attributes)


@st.composite
def scatter_elements(draw):
    """Without addition, no place twice."""
    shape, rng = draw(shapes(1, 3)), generator(draw)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    attributes = {"axis": axis} if axis % len(shape) else optional(draw, {"axis": axis})
    size = shape[axis]
    sizes = list(part_of(draw, shape, axis))
    if draw(st.booleans()):
        attributes["reduction"] = "add"
        index = indices(rng, sizes, size)
    else:
        sizes[axis] = draw(st.integers(1, size))
        full = np.moveaxis(np.empty(sizes), axis, -1)
        order = np.array([rng.permutation(size)[: sizes[axis]] for _ in np.ndindex(*full.shape[:-1])])
        index = np.moveaxis(order.reshape(full.shape), -1, axis).astype(float)
        index -= size * rng.integers(0, 2, sizes)
    return Case([normal(rng, shape), index, normal(rng, tuple(sizes))], attributes)


@st.composite
def scatter_nd(draw):
    shape, rng = draw(shapes(1, 3)), generator(draw)
    depth = draw(st.integers(1, len(shape)))
    if draw(st.booleans()):
        attributes, chosen = {"reduction": "add"}, draw(shapes(1, 2))
        index = tuples(rng, chosen, shape[:depth])
    else:
        places = int(np.prod(shape[:depth]))
        attributes, chosen = {}, (draw(st.integers(1, places)),)
        flat = rng.permutation(places)[: chosen[0]]
        index = np.stack(np.unravel_index(flat, shape[:depth]), -1).astype(float)
        index -= np.array(shape[:depth]) * rng.integers(0, 2, index.shape)
    return Case([normal(rng, shape), index, normal(rng, (*chosen, *shape[depth:]))], attributes)


@st.composite
def reverse_sequence(draw):
    shape, rng = draw(shapes(2, 4)), generator(draw)
    batch = draw(st.integers(0, 1))
    attributes = {} if batch and draw(st.booleans()) else {"batch_axis": batch, "time_axis": 1 - batch}
    lengths = rng.integers(0, shape[1 - batch] + 1, shape[batch]).astype(float)
    return Case([normal(rng, shape), lengths], attributes)


@st.composite
def one_hot(draw):
    """Some indices lie outside."""
    shape, depth = draw(shapes(1, 3)), draw(st.integers(1, 4))
    index = generator(draw).integers(-depth - 1, depth + 2, shape).astype(float)
    attributes = optional(draw, {"axis": draw(st.integers(-len(shape) - 1, len(shape)))})
    return Case([index], {"depth": depth, "values": [-0.5, 2.0]} | attributes)


CASES = {
    "Gather": gather(),
    "GatherElements": gather_elements(),
    "GatherND": gather_nd(),
    "OneHot": one_hot(),
    "ReverseSequence": reverse_sequence(),
    "ScatterElements": scatter_elements(),
    "ScatterND": scatter_nd(),
}
