"""Cases of normalization ops."""

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from tests.ops.cases.base import Case, along_axis, away_from_zero, generator, normal, optional, positive, shapes


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


@st.composite
def rms_normalization(draw):
    shape, rng = draw(shapes(1, 4)), generator(draw)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    attributes = {"axis": axis} if axis % len(shape) != len(shape) - 1 else optional(draw, {"axis": axis})
    assume(np.prod(shape[axis:]) > 1)
    inputs = [away_from_zero(rng, shape), normal(rng, shape[axis:])]
    return Case(inputs, attributes | optional(draw, {"epsilon": 0.01}))


@st.composite
def by_groups(draw, instance=False):
    groups, each = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    spatial, rng = draw(shapes(1, 3)), generator(draw)
    channels = groups * each
    x = normal(rng, (draw(st.integers(1, 2)), channels, *spatial))
    apart = x.reshape(len(x), channels if instance else groups, -1)
    assume(apart.shape[-1] > 2 and apart.std(-1).min() > 0.1)
    attributes = optional(draw, {"epsilon": 0.01}) | ({} if instance else {"num_groups": groups})
    return Case([x, normal(rng, (channels,)), normal(rng, (channels,))], attributes)


@st.composite
def mean_variance_normalization(draw):
    shape = draw(shapes(4, 4))
    chosen = sorted(draw(st.sets(st.integers(0, 3), min_size=1)))
    axes = [axis - 4 * draw(st.integers(0, 1)) for axis in chosen]
    x = normal(generator(draw), shape)
    given = optional(draw, {"axes": axes})
    used = tuple(given.get("axes", (0, 2, 3)))
    assume(np.prod([shape[axis] for axis in used]) > 2 and x.std(axis=used).min() > 0.1)
    return Case([x], given)


@st.composite
def lp_normalization(draw):
    shape = draw(shapes(1, 4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    assume(shape[axis] > 1)
    attributes = {"axis": axis} if axis % len(shape) != len(shape) - 1 else optional(draw, {"axis": axis})
    attributes |= optional(draw, {"p": draw(st.integers(1, 2))})
    return Case([away_from_zero(generator(draw), shape)], attributes)


@st.composite
def local_response_normalization(draw):
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 6)), *draw(shapes(0, 2)))
    # Of a weight that shows; powers of two, which single precision holds.
    given = optional(draw, {"beta": 0.5}) | optional(draw, {"bias": 2.0})
    return Case([normal(generator(draw), shape)], {"size": draw(st.integers(1, 7)), "alpha": 0.25} | given)


CASES = {
    "GroupNormalization": by_groups(),
    "InstanceNormalization": by_groups(instance=True),
    "LRN": local_response_normalization(),
    "LpNormalization": lp_normalization(),
    "MeanVarianceNormalization": mean_variance_normalization(),
    "RMSNormalization": rms_normalization(),
    "BatchNormalization": batch_normalization(),
    "Hardmax": along_axis(),
    "LayerNormalization": layer_normalization(),
    "LogSoftmax": along_axis(),
    "Softmax": along_axis(),
}
