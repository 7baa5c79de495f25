"""Cases of convolution ops."""

from hypothesis import assume
from hypothesis import strategies as st

from tests.ops.cases.base import Case, away_from_zero, distinct, generator, normal, optional, shapes


@st.composite
def windows(draw, kernels=3, half_pads=False):
    """Spatial sizes, kernel, and the geometry's attributes; every window fits."""
    rank = draw(st.integers(1, 3))

    def sizes(low, high):
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    kernel, spatial = sizes(1, kernels), sizes(2, (0, 8, 5, 3)[rank])
    attributes = optional(draw, {"strides": sizes(1, 3)})
    attributes |= optional(draw, {"dilations": sizes(1, 2)})
    dilations = attributes.get("dilations", [1] * rank)
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    pads = [0] * (2 * rank)
    if auto == "NOTSET":
        top = [k // 2 if half_pads else 2 for k in kernel]
        pads = [draw(st.integers(0, top[i % rank])) for i in range(2 * rank)]
        attributes |= optional(draw, {"pads": pads})
        pads = attributes.get("pads", [0] * (2 * rank))
    else:
        attributes["auto_pad"] = auto
    room = [size + pads[i] + pads[rank + i] for i, size in enumerate(spatial)]
    assume(auto.startswith("SAME") or all(e <= r for e, r in zip(extents, room, strict=True)))
    return spatial, kernel, attributes


@st.composite
def conv(draw):
    spatial, kernel, attributes = draw(windows())
    groups, rng = draw(st.integers(1, 3)), generator(draw)
    channels, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    inputs = [
        normal(rng, (draw(st.integers(1, 2)), channels, *spatial)),
        normal(rng, (outputs, channels // groups, *kernel)),
    ]
    inputs += [normal(rng, (outputs,))] if draw(st.booleans()) else []
    attributes |= {"group": groups} if groups > 1 else {}
    return Case(inputs, attributes | optional(draw, {"kernel_shape": kernel}))


@st.composite
def conv_transpose(draw):
    """Sizes, pads and paddings of the result by all the ways to give them; something of it is left."""
    rank, rng = draw(st.integers(1, 3)), generator(draw)

    def sizes(low, high):
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    kernel, spatial, strides, dilations = sizes(1, 3), sizes(1, 5 - rank), sizes(1, 3), sizes(1, 2)
    attributes = {"strides": strides} if max(strides) > 1 else optional(draw, {"strides": strides})
    attributes |= {"dilations": dilations} if max(dilations) > 1 else optional(draw, {"dilations": dilations})
    full = [s * (n - 1) + d * (k - 1) + 1 for s, n, d, k in zip(strides, spatial, dilations, kernel, strict=True)]
    more = sizes(0, 3)
    attributes |= {"output_padding": more} if draw(st.booleans()) else {}
    more = attributes.get("output_padding", [0] * rank)
    way = draw(st.sampled_from(["pads", "output_shape", "SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"]))
    if way == "pads":
        pads = sizes(0, 2) + sizes(0, 2)
        assume(all(f + m > pads[i] + pads[rank + i] for i, (f, m) in enumerate(zip(full, more, strict=True))))
        attributes["pads"] = pads
    elif way == "output_shape":
        attributes["output_shape"] = [
            draw(st.integers(max(1, f + m - 3), f + m + 1)) for f, m in zip(full, more, strict=True)
        ]
        attributes |= optional(draw, {"auto_pad": "SAME_UPPER"})
    else:
        attributes["auto_pad"] = way
    groups = draw(st.integers(1, 2))
    channels, outputs = groups * draw(st.integers(1, 2)), draw(st.integers(1, 2))
    inputs = [normal(rng, (draw(st.integers(1, 2)), channels, *spatial)), normal(rng, (channels, outputs, *kernel))]
    inputs += [normal(rng, (groups * outputs,))] if draw(st.booleans()) else []
    attributes |= {"group": groups} if groups > 1 else {}
    return Case(inputs, attributes | optional(draw, {"kernel_shape": kernel}))


@st.composite
def pool(draw, average=False, fill=distinct, **more):
    spatial, kernel, attributes = draw(windows(half_pads=True))
    attributes |= optional(draw, {name: draw(strategy) for name, strategy in more.items()})
    x = fill(generator(draw), (draw(st.integers(1, 2)), draw(st.integers(1, 2)), *spatial))
    if "auto_pad" not in attributes:
        attributes |= optional(draw, {"ceil_mode": 1})
    if average:
        attributes |= optional(draw, {"count_include_pad": 1})
    return Case([x], {"kernel_shape": kernel, **attributes})


@st.composite
def global_pool(draw, fill=normal, **more):
    attributes = optional(draw, {name: draw(strategy) for name, strategy in more.items()})
    return Case([fill(generator(draw), draw(shapes(3, 5)))], attributes)


powers = st.integers(1, 3)
CASES = {
    "AveragePool": pool(average=True),
    "Conv": conv(),
    "ConvTranspose": conv_transpose(),
    "GlobalAveragePool": global_pool(),
    "GlobalLpPool": global_pool(away_from_zero, p=powers),
    "GlobalMaxPool": global_pool(distinct),
    "LpPool": pool(fill=away_from_zero, p=powers),
    "MaxPool": pool(),
}
