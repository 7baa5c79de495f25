"""Cases of arithmetic ops."""

import numpy as np
from hypothesis import strategies as st

from tests.ops.cases.base import (
    Case,
    away_from_zero,
    binary,
    broadcast,
    distinct,
    generator,
    normal,
    optional,
    positive,
    shapes,
    sides,
    whole,
)


@st.composite
def several(draw, clear=False):
    """One input or more; with ``clear`` no two numbers of different inputs are close."""
    each, _ = sides(draw, draw(st.integers(1, 4)))
    sizes = [int(np.prod(shape)) for shape in each]
    numbers = (distinct if clear else normal)(generator(draw), (sum(sizes),))
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    return Case([part.reshape(shape) for part, shape in zip(parts, each, strict=True)])


@st.composite
def prelu(draw):
    shape, rng = draw(shapes()), generator(draw)
    slope = tuple(size if draw(st.booleans()) else 1 for size in shape)[draw(st.integers(0, len(shape))) :]
    return Case([away_from_zero(rng, shape), normal(rng, slope)])


@st.composite
def mod(draw):
    """Quotients off the whole numbers, of one sign and the other."""
    (shape, _), full = sides(draw, 2)
    rng = generator(draw)
    b = away_from_zero(rng, shape)
    return Case([b * (whole(rng, full) + rng.uniform(0.1, 0.9, full)), b], optional(draw, {"fmod": 1}))


CASES = {
    "Add": binary(),
    "Div": binary(away_from_zero),
    "Max": several(clear=True),
    "Mean": several(),
    "Min": several(clear=True),
    "Mod": mod(),
    "Mul": binary(),
    "PRelu": prelu(),
    "Pow": binary(first=positive),
    "Sub": binary(),
    "Sum": several(),
    "Where": broadcast(whole, normal, normal),
}
