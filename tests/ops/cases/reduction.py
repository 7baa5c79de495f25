"""Cases of reductions and running sums."""

from hypothesis import strategies as st

from tests.ops.cases.base import Case, away_from_zero, distinct, generator, normal, optional, positive, shapes


@st.composite
def reduction(draw, fill=normal):
    shape = draw(shapes(1, 4))
    attributes = optional(draw, {"keepdims": draw(st.integers(0, 1))})
    chosen = sorted(draw(st.sets(st.integers(0, len(shape) - 1))))
    axes = [axis - len(shape) * draw(st.integers(0, 1)) for axis in chosen]
    attributes |= optional(draw, {"axes": axes}) | optional(draw, {"noop_with_empty_axes": draw(st.integers(0, 1))})
    return Case([fill(generator(draw), shape)], attributes)


@st.composite
def position(draw):
    shape = draw(shapes(1, 4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    attributes = {"axis": axis, "keepdims": draw(st.integers(0, 1)), "select_last_index": draw(st.integers(0, 1))}
    # Halves of whole numbers: some are equal.
    x = generator(draw).integers(-2, 3, shape) / 2
    return Case([x], {key: value for key, value in attributes.items() if draw(st.booleans())})


@st.composite
def running_sum(draw):
    shape = draw(shapes(1, 4))
    attributes = {"axis": draw(st.integers(-len(shape), len(shape) - 1))}
    attributes |= optional(draw, {"exclusive": 1}) | optional(draw, {"reverse": 1})
    return Case([normal(generator(draw), shape)], attributes)


CASES = {
    "ArgMax": position(),
    "ArgMin": position(),
    "CumSum": running_sum(),
    "ReduceL1": reduction(away_from_zero),
    "ReduceL2": reduction(away_from_zero),
    "ReduceLogSum": reduction(positive),
    "ReduceLogSumExp": reduction(),
    "ReduceMax": reduction(distinct),
    "ReduceMean": reduction(),
    "ReduceMin": reduction(distinct),
    "ReduceProd": reduction(),
    "ReduceSum": reduction(),
    "ReduceSumSquare": reduction(),
}
