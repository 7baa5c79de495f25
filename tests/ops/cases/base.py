"""What cases are made of: inputs in float64 away from kinks, and attributes."""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st


@dataclass
class Case:
    inputs: list
    attributes: dict = field(default_factory=dict)

    def __iter__(self):
        return iter((self.inputs, self.attributes))


def generator(draw):
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def shapes(low=0, high=4, largest=3):
    return st.lists(st.integers(1, largest), min_size=low, max_size=high).map(tuple)


def optional(draw, value):
    return {} if draw(st.booleans()) else value


def normal(rng, shape):
    return rng.standard_normal(shape)


def away_from_zero(rng, shape):
    return np.asarray(rng.choice([-1.0, 1.0], shape) * (0.1 + np.abs(rng.standard_normal(shape))))


def positive(rng, shape):
    return np.asarray(0.5 + np.abs(rng.standard_normal(shape)))


def distinct(rng, shape):
    """No two entries nearer than 0.05, so that the greatest one is clear."""
    size = int(np.prod(shape))
    return (0.05 * (rng.permutation(size) - size / 2)).reshape(shape)


@st.composite
def unary(draw, fill=normal, **attributes):
    values = {name: draw(strategy) for name, strategy in attributes.items()}
    return Case([fill(generator(draw), draw(shapes()))], optional(draw, values))


def whole(rng, shape):
    """Small whole numbers: some are equal, some are 0."""
    return rng.integers(-2, 3, shape).astype(float)


def between_steps(rng, shape):
    """Off the whole numbers and the halves."""
    return whole(rng, shape) + rng.choice([-1, 1], shape) * rng.uniform(0.05, 0.45, shape)


def inside(low, high):
    """Numbers of an interval."""
    return lambda rng, shape: rng.uniform(low, high, shape)


@st.composite
def kinked(draw, kinks, **attributes):
    """A unary case off the kinks, which may depend on the attributes given."""
    values = optional(draw, {name: draw(strategy) for name, strategy in attributes.items()})
    x = 1.5 * np.asarray(normal(generator(draw), draw(shapes())))
    for kink in sorted(kinks(**values)):
        x = np.where(np.abs(x - kink) < 0.02, kink + 0.03, x)
    return Case([x], values)


def sides(draw, count):
    """Shapes that broadcast with one another: each axis may be 1, or absent from the front; and their common shape."""
    full = draw(shapes())
    kept = [[size if draw(st.booleans()) else 1 for size in full] for _ in range(count)]
    each = [tuple(sizes[draw(st.integers(0, len(sizes))) :]) for sizes in kept]
    return each, np.broadcast_shapes(*each)


@st.composite
def broadcast(draw, *fills, **attributes):
    """As many inputs as fills, of shapes that broadcast."""
    rng = generator(draw)
    inputs = [fill(rng, shape) for fill, shape in zip(fills, sides(draw, len(fills))[0], strict=True)]
    return Case(inputs, optional(draw, {name: draw(strategy) for name, strategy in attributes.items()}))


def binary(second=normal, first=normal):
    return broadcast(first, second)


@st.composite
def along_axis(draw):
    shape = draw(shapes(1, 4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return Case([normal(generator(draw), shape)], optional(draw, {"axis": axis}))
