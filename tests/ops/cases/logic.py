"""Cases of comparisons, logic and rounding."""

import numpy as np
from hypothesis import strategies as st

from tests.ops.cases.base import Case, between_steps, binary, generator, optional, shapes, unary, whole


def special(rng, shape):
    return rng.choice([0.0, -1.5, np.nan, np.inf, -np.inf], shape)


@st.composite
def cast(draw):
    x = between_steps(generator(draw), draw(shapes()))
    return Case([x], {"to": draw(st.sampled_from([1, 11, 3, 6, 7, 9]))} | optional(draw, {"saturate": 1}))


switch = st.integers(0, 1)
CASES = {
    "And": binary(whole, whole),
    "Cast": cast(),
    "Ceil": unary(between_steps),
    "Equal": binary(whole, whole),
    "Floor": unary(between_steps),
    "Greater": binary(whole, whole),
    "GreaterOrEqual": binary(whole, whole),
    "IsInf": unary(special, detect_negative=switch, detect_positive=switch),
    "IsNaN": unary(special),
    "Less": binary(whole, whole),
    "LessOrEqual": binary(whole, whole),
    "Not": unary(whole),
    "Or": binary(whole, whole),
    "Round": unary(between_steps),
    "Sign": unary(between_steps),
    "Xor": binary(whole, whole),
}
