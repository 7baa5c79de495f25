"""For every op a strategy of cases: float64 inputs away from kinks, and attributes."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st


@dataclass
class Case:
    inputs: list
    attributes: dict = field(default_factory=dict)

    def __iter__(self):
        return iter((self.inputs, self.attributes))


def generator(draw):
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def shapes(low=0, high=4, largest=3):
    return st.lists(st.integers(1, largest), min_size=low, max_size=high).map(tuple)


def optional(draw, value):
    return {} if draw(st.booleans()) else value


def normal(rng, shape):
    return rng.standard_normal(shape)


def away_from_zero(rng, shape):
    return np.asarray(rng.choice([-1.0, 1.0], shape) * (0.1 + np.abs(rng.standard_normal(shape))))


def positive(rng, shape):
    return np.asarray(0.5 + np.abs(rng.standard_normal(shape)))


def distinct(rng, shape):
    """No two entries nearer than 0.05, so that the greatest one is clear."""
    size = int(np.prod(shape))
    return (0.05 * (rng.permutation(size) - size / 2)).reshape(shape)


@st.composite
def unary(draw, fill=normal, **attributes):
    values = {name: draw(strategy) for name, strategy in attributes.items()}
    return Case([fill(generator(draw), draw(shapes()))], optional(draw, values))


@st.composite
def binary(draw, second=normal):
    """Two shapes that broadcast: each axis may be 1, or absent from the front, on either side."""
    full = draw(shapes())
    rng = generator(draw)

    def side():
        kept = [size if draw(st.booleans()) else 1 for size in full]
        return tuple(kept[draw(st.integers(0, len(kept))) :])

    return Case([normal(rng, side()), second(rng, side())])


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
def pool(draw, average=False):
    spatial, kernel, attributes = draw(windows(half_pads=True))
    x = distinct(generator(draw), (draw(st.integers(1, 2)), draw(st.integers(1, 2)), *spatial))
    if "auto_pad" not in attributes:
        attributes |= optional(draw, {"ceil_mode": 1})
    if average:
        attributes |= optional(draw, {"count_include_pad": 1})
    return Case([x], {"kernel_shape": kernel, **attributes})


@st.composite
def along_axis(draw):
    shape = draw(shapes(1, 4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return Case([normal(generator(draw), shape)], optional(draw, {"axis": axis}))


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
def reduction(draw):
    shape = draw(shapes(1, 4))
    attributes = optional(draw, {"keepdims": draw(st.integers(0, 1))})
    chosen = sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    axes = [axis - len(shape) * draw(st.integers(0, 1)) for axis in chosen]
    return Case([normal(generator(draw), shape)], attributes | optional(draw, {"axes": axes}))


@st.composite
def global_pool(draw):
    return Case([normal(generator(draw), draw(shapes(3, 5)))])


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


alpha = st.sampled_from([0.5, 1.0, 1.7])
CASES = {
    "Abs": unary(away_from_zero),
    "Add": binary(),
    "AveragePool": pool(average=True),
    "BatchNormalization": batch_normalization(),
    "Concat": concat(),
    "Conv": conv(),
    "Div": binary(away_from_zero),
    "Dropout": unary(ratio=st.just(0.3), training_mode=st.just(0)),
    "Elu": unary(away_from_zero, alpha=alpha),
    "Erf": unary(),
    "Exp": unary(),
    "Flatten": flatten(),
    "Gelu": unary(approximate=st.sampled_from(["none", "tanh"])),
    "Gemm": gemm(),
    "GlobalAveragePool": global_pool(),
    "Identity": unary(),
    "LayerNormalization": layer_normalization(),
    "LeakyRelu": unary(away_from_zero, alpha=st.sampled_from([0.0, 0.2, -0.5])),
    "Linear": linear(),
    "Log": unary(positive),
    "LogSoftmax": along_axis(),
    "MatMul": matmul(),
    "MaxPool": pool(),
    "Mul": binary(),
    "Neg": unary(),
    "Pad": pad(),
    "ReduceMean": reduction(),
    "ReduceSum": reduction(),
    "Relu": unary(away_from_zero),
    "Reshape": reshape(),
    "Sigmoid": unary(),
    "Slice": slices(),
    "Softmax": along_axis(),
    "Softplus": unary(),
    "Sqrt": unary(positive),
    "Squeeze": squeeze(),
    "Sub": binary(),
    "Swish": unary(alpha=alpha),
    "Tanh": unary(),
    "Transpose": transpose(),
    "Unsqueeze": unsqueeze(),
}


@pytest.fixture(scope="session")
def names():
    return set(CASES)


@pytest.fixture(scope="session")
def draw_case():
    """A function of hypothesis's data and an op's name to (inputs, attributes); an op without a strategy has none."""
    return lambda data, name: data.draw(CASES[name])


@pytest.fixture(scope="session")
def strategy_of():
    return CASES.__getitem__
