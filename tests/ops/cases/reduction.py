"""Cases of reduction ops."""

from hypothesis import strategies as st

from tests.ops.cases.base import Case, generator, normal, optional, shapes


@st.composite
def reduction(draw):
    shape = draw(shapes(1, 4))
    attributes = optional(draw, {"keepdims": draw(st.integers(0, 1))})
    chosen = sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    axes = [axis - len(shape) * draw(st.integers(0, 1)) for axis in chosen]
    return Case([normal(generator(draw), shape)], attributes | optional(draw, {"axes": axes}))


CASES = {
    "ReduceMean": reduction(),
    "ReduceSum": reduction(),
}
