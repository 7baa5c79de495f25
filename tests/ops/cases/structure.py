"""Cases of structure ops."""

import numpy as np
from hypothesis import strategies as st

from tests.ops.cases.base import Case, generator, normal, optional, shapes, sides


@st.composite
def reshape(draw):
    shape = draw(shapes(1, 4))
    cut = draw(st.integers(0, len(shape)))
    rest = int(np.prod(shape[cut:]))
    target = [0 if draw(st.booleans()) else size for size in shape[:cut]]
    target += draw(st.sampled_from([[-1], [rest], [1, -1], [rest, 1], list(shape[cut:][::-1])]))
    return Case([normal(generator(draw), shape)], {"shape": target} | optional(draw, {"allowzero": 0}))


@st.composite
def flatten(draw):
    shape = draw(shapes(1, 4))
    return Case([normal(generator(draw), shape)], optional(draw, {"axis": draw(st.integers(-len(shape), len(shape)))}))


@st.composite
def squeeze(draw):
    shape = draw(shapes(1, 4))
    ones = [axis - len(shape) * draw(st.integers(0, 1)) for axis, size in enumerate(shape) if size == 1]
    axes = {"axes": draw(st.lists(st.sampled_from(ones), min_size=1, unique=True))} if ones else {}
    return Case([normal(generator(draw), shape)], optional(draw, axes))


@st.composite
def unsqueeze(draw):
    shape = draw(shapes(0, 3))
    new = draw(st.integers(1, 2))
    positions = draw(st.permutations(range(len(shape) + new)))[:new]
    axes = [axis - (len(shape) + new) * draw(st.integers(0, 1)) for axis in positions]
    return Case([normal(generator(draw), shape)], {"axes": axes})


@st.composite
def transpose(draw):
    shape = draw(shapes(0, 4))
    perm = list(draw(st.permutations(range(len(shape)))))
    return Case([normal(generator(draw), shape)], optional(draw, {"perm": perm}))


@st.composite
def concat(draw):
    shape, rng = draw(shapes(1, 3)), generator(draw)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    parts = [(*shape[: axis % len(shape)], size, *shape[axis % len(shape) + 1 :]) for size in sizes]
    return Case([normal(rng, part) for part in parts], {"axis": axis})


@st.composite
def slices(draw):
    shape = draw(shapes(1, 4, largest=5))
    chosen = draw(st.permutations(range(len(shape))))[: draw(st.integers(1, len(shape)))]
    named = draw(st.booleans())
    chosen = chosen if named else range(len(chosen))
    starts, ends, steps, axes = [], [], [], []
    for axis in chosen:
        size, step = shape[axis], draw(st.sampled_from([1, 1, 2, -1, -2]))
        first, last = draw(st.integers(0, size - 1)), draw(st.integers(0, size - 1))
        first, last = min(first, last), max(first, last)
        if step > 0:
            start, end = first, draw(st.sampled_from([last + 1, last + 1 - size or size, 2**31 - 1, 2**63 - 1]))
        else:
            start, end = draw(st.sampled_from([last, 2**31 - 1])), draw(st.sampled_from([first - size - 1, -(2**31)]))
        starts.append(start - size * draw(st.integers(0, 1)) if start < size else start)
        ends.append(end)
        steps.append(step)
        axes.append(axis - len(shape) * draw(st.integers(0, 1)))
    attributes = {"starts": starts, "ends": ends} | ({"axes": axes} if named else {})
    attributes |= {"steps": steps} if any(step != 1 for step in steps) else optional(draw, {"steps": steps})
    return Case([normal(generator(draw), shape)], attributes)


@st.composite
def pad(draw):
    shape = tuple(size + 1 for size in draw(shapes(1, 3)))
    mode = draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
    axes = list(draw(st.permutations(range(len(shape))))[: draw(st.integers(1, len(shape)))])
    named = len(axes) < len(shape) or draw(st.booleans())
    axes = axes if named else list(range(len(shape)))
    most = [shape[axis] - 1 if mode == "reflect" else 2 for axis in axes] * 2
    least = -1 if mode == "constant" and min(shape) > 2 else 0
    attributes = {"pads": [draw(st.integers(least, m)) for m in most]}
    attributes |= optional(draw, {"value": 1.5}) if mode == "constant" else {"mode": mode}
    signed = [axis - len(shape) * draw(st.integers(0, 1)) for axis in axes]
    return Case([normal(generator(draw), shape)], attributes | ({"axes": signed} if named else {}))


@st.composite
def expand(draw):
    (shape, other), _ = sides(draw, 2)
    return Case([normal(generator(draw), shape)], {"shape": other})


@st.composite
def tile(draw):
    shape = draw(shapes(1, 3))
    return Case([normal(generator(draw), shape)], {"repeats": [draw(st.integers(1, 3)) for _ in shape]})


@st.composite
def split(draw):
    shape = draw(shapes(1, 3, largest=5))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    attributes = {"axis": axis} if axis % len(shape) else optional(draw, {"axis": axis})
    if draw(st.booleans()):
        cuts = sorted(draw(st.lists(st.integers(0, size), max_size=3)))
        parts = np.diff([0, *cuts, size]).tolist()
        attributes |= {"split": parts}
    else:
        parts = [0] * draw(st.integers(1, size).filter(lambda count: -(-size // count) * (count - 1) < size))
        attributes |= {"num_outputs": len(parts)}
    return Case([normal(generator(draw), shape)], attributes | {"index": draw(st.integers(0, len(parts) - 1))})


@st.composite
def blocks(draw, to_space):
    n, c, h, w, b = (draw(st.integers(1, 2)) for _ in range(5))
    shape = (n, c * b * b, h, w) if to_space else (n, c, h * b, w * b)
    modes = optional(draw, {"mode": draw(st.sampled_from(["DCR", "CRD"]))})
    return Case([normal(generator(draw), shape)], {"blocksize": b} | modes)


@st.composite
def triangle(draw):
    shape = draw(shapes(2, 4))
    attributes = {"k": draw(st.integers(-3, 3)), "upper": draw(st.integers(0, 1))}
    return Case([normal(generator(draw), shape)], {k: v for k, v in attributes.items() if draw(st.booleans())})


@st.composite
def crop_pad(draw):
    shape = draw(shapes(1, 3, largest=4))
    axes = list(draw(st.permutations(range(len(shape))))[: draw(st.integers(1, len(shape)))])
    named = len(axes) < len(shape) or draw(st.booleans())
    sizes = [draw(st.integers(1, 6)) for _ in axes]
    signed = [axis - len(shape) * draw(st.integers(0, 1)) for axis in axes]
    return Case([normal(generator(draw), shape)], {"shape": sizes} | ({"axes": signed} if named else {}))


CASES = {
    "CenterCropPad": crop_pad(),
    "DepthToSpace": blocks(to_space=True),
    "Expand": expand(),
    "SpaceToDepth": blocks(to_space=False),
    "Split": split(),
    "Tile": tile(),
    "Trilu": triangle(),
    "Concat": concat(),
    "Flatten": flatten(),
    "Pad": pad(),
    "Reshape": reshape(),
    "Slice": slices(),
    "Squeeze": squeeze(),
    "Transpose": transpose(),
    "Unsqueeze": unsqueeze(),
}
