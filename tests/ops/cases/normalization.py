"""Cases of normalization ops."""

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from tests.ops.cases.base import Case, along_axis, generator, normal, optional, positive, shapes


@st.composite
def layer_normalization(draw):
    shape, rng = draw(shapes(1, 4)), generator(draw)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    attributes = {"axis": axis} if axis % len(shape) != len(shape) - 1 else optional(draw, {"axis": axis})
    # Of two entries the normalised ones are 1 and -1, and the Jacobian is a remainder of rounding.
    assume(np.prod(shape[axis:]) > 2)
    inputs = [normal(rng, shape), normal(rng, shape[axis:])]
    inputs += [normal(rng, shape[axis:])] if draw(st.booleans()) else []
    assume(inputs[0].reshape(*shape[: axis % len(shape)], -1).std(axis=-1).min() > 0.1)
    return Case(inputs, attributes | optional(draw, {"epsilon": 0.01}))


@st.composite
def batch_normalization(draw):
    shape, rng = draw(shapes(2, 4)), generator(draw)
    channels = (shape[1],)
    x, scale, bias, mean = (normal(rng, s) for s in (shape, channels, channels, channels))
    return Case([x, scale, bias, mean, positive(rng, channels)], optional(draw, {"epsilon": 0.01, "momentum": 0.8}))


CASES = {
    "BatchNormalization": batch_normalization(),
    "Hardmax": along_axis(),
    "LayerNormalization": layer_normalization(),
    "LogSoftmax": along_axis(),
    "Softmax": along_axis(),
}
