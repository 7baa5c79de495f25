"""Cases of contraction ops."""

import numpy as np
from hypothesis import strategies as st

from tests.ops.cases.base import Case, generator, normal, optional, shapes


@st.composite
def gemm(draw):
    m, k, n = (draw(st.integers(1, 4)) for _ in range(3))
    lead = draw(shapes(0, 2))
    trans_a, trans_b = draw(st.booleans()), draw(st.booleans())
    rng = generator(draw)
    inputs = [normal(rng, (*lead, *((k, m) if trans_a else (m, k)))), normal(rng, (n, k) if trans_b else (k, n))]
    attributes = {"transA": int(trans_a), "transB": int(trans_b)}
    if draw(st.booleans()):
        attributes["alpha"] = draw(st.sampled_from([0.5, -2.0]))
    if draw(st.booleans()):
        inputs.append(normal(rng, draw(st.sampled_from([(), (1,), (n,), (1, n), (m, 1), (m, n)]))))
        attributes |= optional(draw, {"beta": draw(st.sampled_from([0.25, -1.0]))})
    return Case(inputs, attributes)


@st.composite
def matmul(draw):
    m, k, n = (draw(st.integers(1, 4)) for _ in range(3))
    batch, rng = draw(shapes(0, 2)), generator(draw)

    def side(vector, matrix):
        if draw(st.integers(0, 3)) == 0:
            return vector
        kept = [size if draw(st.booleans()) else 1 for size in batch]
        return (*kept[draw(st.integers(0, len(kept))) :], *matrix)

    return Case([normal(rng, side((k,), (m, k))), normal(rng, side((k,), (k, n)))])


@st.composite
def linear(draw):
    n, events, rng = draw(st.integers(1, 3)), draw(st.lists(shapes(1, 2), max_size=3)), generator(draw)
    shape = draw(shapes(1, 2))
    out = int(np.prod(shape))
    inputs = []
    for event in events:
        inputs += [normal(rng, (n, *event)), normal(rng, (out, int(np.prod(event))))]
    if not inputs or draw(st.booleans()):
        inputs.append(normal(rng, (out,)))
    return Case(inputs, {"shape": shape} if len(shape) > 1 or draw(st.booleans()) else {})


CASES = {
    "Gemm": gemm(),
    "Linear": linear(),
    "MatMul": matmul(),
}
