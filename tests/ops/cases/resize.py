"""Cases of resampling."""

from hypothesis import assume
from hypothesis import strategies as st

from tests.ops.cases.base import Case, generator, normal, optional, shapes

TRANSFORMATIONS = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
# Single precision holds them.
SCALES = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0]


@st.composite
def resize(draw):
    shape = draw(shapes(1, 3, largest=5))
    chosen = list(draw(st.permutations(range(len(shape))))[: draw(st.integers(1, len(shape)))])
    named = len(chosen) < len(shape) or draw(st.booleans())
    axes = chosen if named else list(range(len(shape)))
    attributes = {"axes": axes} if named else {}
    if draw(st.booleans()):
        attributes["scales"] = [draw(st.sampled_from(SCALES)) for _ in axes]
        assume(all(int(shape[axis] * scale) for axis, scale in zip(axes, attributes["scales"], strict=True)))
    else:
        attributes["sizes"] = [draw(st.integers(1, 6)) for _ in axes]
        policy = draw(st.sampled_from(["stretch", "stretch", "not_larger", "not_smaller"]))
        ratios = [size / shape[axis] for size, axis in zip(attributes["sizes"], axes, strict=True)]
        assume(policy != "not_larger" or all(min(ratios) * shape[axis] >= 0.5 for axis in axes))
        attributes |= {"keep_aspect_ratio_policy": policy} if policy != "stretch" else {}
    attributes["mode"] = draw(st.sampled_from(["nearest", "linear", "cubic"]))
    attributes["coordinate_transformation_mode"] = draw(st.sampled_from(TRANSFORMATIONS))
    if attributes["mode"] == "nearest":
        modes = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
        attributes |= optional(draw, {"nearest_mode": draw(st.sampled_from(modes))})
    if attributes["mode"] == "cubic":
        attributes |= optional(draw, {"cubic_coeff_a": -0.5}) | optional(draw, {"exclude_outside": 1})
    return Case([normal(generator(draw), shape)], attributes)


@st.composite
def upsample(draw):
    shape = draw(shapes(1, 4))
    scales = [draw(st.sampled_from([1.0, 1.5, 2.0, 3.0])) for _ in shape]
    return Case([normal(generator(draw), shape)], {"scales": scales} | optional(draw, {"mode": "linear"}))


CASES = {"Resize": resize(), "Upsample": upsample()}
