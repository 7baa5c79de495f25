"""The plate layer, against the same op on the source tensors themselves."""

from typing import Any

import numpy as np
import pytest

from converters._plates import OUTSIDE, PLAIN, Layout, Plates, Refused, Samples, Value
from gbn import ops
from gbn.net import GaussianBayesNet

N = 3
TN, NT, ANB = Layout(0, 2, 1), Layout(0, 1, 2), Layout(0, 2, 5)


class Graph:
    """A net under construction, and the source tensors beside it."""

    def __init__(self, seed: int = 0, baked: int | None = None) -> None:
        self.net = GaussianBayesNet()
        self.plates = Plates(self.net, baked)
        self.rng = np.random.default_rng(seed)
        self.given: dict[str, np.ndarray] = {}
        self.source: dict[int, np.ndarray] = {}
        self.kept: list[Value] = []

    def keep(self, value: Value, array: np.ndarray) -> Value:
        self.kept.append(value)
        self.source[id(value)] = array
        return value

    def input(self, row: tuple[int, ...], layout: Layout) -> Value:
        """A source tensor whose shape for one sample is ``row``."""
        event = row if layout.axis is None else (*row[: layout.axis], *layout.factors, *row[layout.axis + 1 :])
        name = self.net.add_input(f"x{len(self.given)}", event)
        value = Value(name, layout, tuple(event), True)
        rows = 1 if layout.axis is None else N
        self.given[name] = self.rng.uniform(0.5, 2.0, (rows, *self.net[name].shape))
        return self.keep(value, self.plates.source(value, self.given[name].reshape(rows, *event)))

    def weight(self, *shape: int) -> Value:
        value = self.plates.parameter(f"w{len(self.net)}", self.rng.uniform(0.5, 2.0, shape))
        return self.keep(value, self.net[value.handle].value)

    def result(self, value: Value) -> np.ndarray:
        """The source tensor that the net computes for a value."""
        vertex = self.plates.vertex(value)
        out = self.net.forward(self.given)[vertex] if self.given else self.net[vertex].value
        if not value.plated and value.layout is not None:
            return self.plates.source(value, np.broadcast_to(out, (N, *value.event)))
        return self.plates.source(value, out)

    def check(self, op: str, *operands: Value, real: dict[str, Any] | None = None, **attributes: Any) -> Value:
        """``op`` through the layer is ``op`` on the source tensors; ``real``: attributes with N put in."""
        value = self.plates.emit(op, operands, name="y", **attributes)
        arrays = [self.source[id(operand)] for operand in operands]
        expected = ops.get(op)(*arrays, **(attributes | (real or {})))[0]
        got = self.result(value)
        assert got.shape == expected.shape
        assert tuple(s.factor * N if isinstance(s, Samples) else s for s in value.shape) == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)
        return self.keep(value, expected)


LAYOUTS = [
    (PLAIN, (1, 4, 5)), (Layout(1), (4, 1, 5)), (Layout(2), (4, 5, 1)), (TN, (2, 4, 5)), (NT, (2, 4, 5)),
    (ANB, (10, 4, 5)), (Layout(1, 2, 1), (4, 2, 5)), (Layout(1, 1, 2), (4, 2, 5)), (OUTSIDE, (3, 4, 5)),
]  # fmt: skip
every_layout = pytest.mark.parametrize("layout, row", LAYOUTS, ids=str)


@every_layout
def test_entrywise(layout: Layout, row: tuple[int, ...]) -> None:
    g = Graph()
    x, z = g.input(row, layout), g.input(row, layout)
    y = g.check("Mul", x, g.check("Add", x, z))
    own = [1 if k == layout.axis else size for k, size in enumerate(row)]
    for shape in (own, [1, *own[1:]], own[1:], own[2:], [1] * 3, []):
        y = g.check("Sub", y, g.weight(*shape))
        y = g.check("Add", g.weight(*shape), y)
    g.check("Tanh", y)


@every_layout
def test_a_higher_rank_on_the_left(layout: Layout, row: tuple[int, ...]) -> None:
    g = Graph()
    g.check("Add", g.weight(6, 2, *[1 if k == layout.axis else s for k, s in enumerate(row)]), g.input(row, layout))


@every_layout
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_along_an_axis(layout: Layout, row: tuple[int, ...], axis: int) -> None:
    g = Graph()
    x = g.input(row, layout)
    if layout.axis == axis % 3:
        for op, attributes in (("Softmax", {"axis": axis}), ("ReduceSum", {"axes": [axis]})):
            with pytest.raises(Refused, match=f"axis {axis % 3} holds the samples"):
                g.plates.emit(op, [x], name="y", **attributes)
        return
    g.check("Softmax", x, axis=axis)
    g.check("ReduceMean", x, axes=[axis], keepdims=0)
    g.check("ReduceSum", x, axes=[axis], keepdims=1)
    g.check("Slice", x, starts=[1], ends=[-1], axes=[axis], steps=[1])
    g.check("Slice", x, starts=[-1], ends=[-9], axes=[axis], steps=[-1])
    g.check("Pad", x, pads=[1, 2], axes=[axis % 3])
    g.check("Concat", x, g.check("Neg", x), axis=axis)


@every_layout
def test_layer_normalization(layout: Layout, row: tuple[int, ...]) -> None:
    g = Graph()
    x = g.input(row, layout)
    for count in (1, 2, 3):
        shape = row[3 - count :]
        weights = [g.weight(*shape), g.weight(*shape)]
        if layout.axis is not None and layout.axis >= 3 - count:
            with pytest.raises(Refused, match="mix"):
                g.plates.emit("LayerNormalization", [x, *weights], name="y", axis=-count)
        else:
            g.check("LayerNormalization", x, *weights, axis=-count)


@every_layout
@pytest.mark.parametrize("perm", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_transposition(layout: Layout, row: tuple[int, ...], perm: tuple[int, ...]) -> None:
    g = Graph()
    g.check("Softplus", g.check("Transpose", g.input(row, layout), perm=list(perm)))


def test_moving_the_samples_is_no_vertex() -> None:
    g = Graph()
    x = g.input((1, 4, 5), PLAIN)
    before = len(g.net)
    turned = g.check("Transpose", x, perm=[1, 0, 2])
    merged = g.check("Reshape", turned, shape=[Samples(4), 5], real={"shape": [4 * N, 5]})
    split = g.check("Reshape", merged, shape=[4, -1, 5])
    assert len(g.net) == before
    assert (turned.layout, merged.layout, split.layout) == (Layout(1), Layout(0, 4), Layout(1))


@pytest.mark.parametrize(
    "layout, row, target",
    [
        (PLAIN, (1, 4, 6), [Samples(4), 6]), (PLAIN, (1, 4, 6), [-1, 2, 3]), (PLAIN, (1, 4, 6), [0, -1]),
        (PLAIN, (1, 4, 6), [0, 0, 2, 3]), (PLAIN, (1, 24), [1, 1, Samples(2), 4, 3]), (TN, (2, 6), [2, -1, 3, 2]),
        (TN, (2, 6), [2, Samples(3), 2]), (ANB, (10, 6), [2, Samples(5), 6]), (ANB, (10, 6), [2, Samples(1), 30]),
        (Layout(1), (4, 1, 6), [2, 2, -1, 3]), (Layout(1), (4, 1, 6), [-1, 6]),
        (Layout(1), (4, 1, 6), [2, Samples(12)]),
        (NT, (2, 6), [Samples(1), 12]), (NT, (2, 6), [Samples(12)]),
    ],
)  # fmt: skip
def test_reshape(layout: Layout, row: tuple[int, ...], target: list[Any]) -> None:
    g = Graph()
    real = [s.factor * N if isinstance(s, Samples) else s for s in target]
    y = g.check("Reshape", g.input(row, layout), shape=target, real={"shape": real})
    g.check("Exp", y)


@pytest.mark.parametrize(
    "layout, row, target, message",
    [
        (PLAIN, (1, 4, 6), [4, Samples(1), 6], "mixes samples"),
        (Layout(1), (4, 1, 6), [Samples(1), 24], "mixes samples"),
        (PLAIN, (1, 4), [1, 4], "fixes the number"),
        (PLAIN, (1, 4), [Samples(2), 3], "do not fill"),
        (PLAIN, (1, 4), [Samples(1), Samples(4)], "several axes"),
    ],
)
def test_reshape_that_mixes(layout: Layout, row: tuple[int, ...], target: list[Any], message: str) -> None:
    g = Graph()
    with pytest.raises(Refused, match=message):
        g.plates.emit("Reshape", [g.input(row, layout)], name="y", shape=target)


@pytest.mark.parametrize("baked", [1, N])
def test_shapes_of_numbers(baked: int) -> None:
    """A graph whose sizes were fixed for some number of samples works for any."""
    g = Graph(baked=baked)
    x = g.input((1, 4, 6), PLAIN)
    # Of several axes of size 1 the first is taken for the samples.
    leading: list[Any] = [([1, baked, 24], [1, N, 24])] if baked > 1 else []
    for target, real in (
        ([baked, 24], [N, 24]), ([-1, 6], [-1, 6]), ([4 * baked, 6], [4 * N, 6]), ([baked, 4, 2, 3], [N, 4, 2, 3]),
        ([baked, -1], [N, 24]), *leading,
    ):  # fmt: skip
        g.check("Reshape", x, shape=target, real={"shape": real})
    turned = g.check("Transpose", x, perm=[1, 0, 2])
    again = g.check("Reshape", turned, shape=[2, 2, baked, 6], real={"shape": [2, 2, N, 6]})
    assert again.layout == Layout(2)
    with pytest.raises(Refused, match=r"no place|mixes|fixes"):
        Graph(baked=2).plates.emit("Reshape", [x], name="y", shape=[3, 16])


@every_layout
def test_squeeze_and_unsqueeze(layout: Layout, row: tuple[int, ...]) -> None:
    g = Graph()
    x = g.input(row, layout)
    for axis in (0, 1, 2, 3, -1):
        y = g.check("Unsqueeze", x, axes=[axis])
        g.check("Squeeze", y, axes=[axis])
    g.check("Unsqueeze", x, axes=[0, 2])
    g.check("Flatten", g.input((1, 4, 5), PLAIN), axis=1)
    g.check("Flatten", x, axis=2)


@every_layout
def test_matmul_with_weights(layout: Layout, row: tuple[int, ...]) -> None:
    g = Graph()
    x = g.input(row, layout)
    own = [1 if k == layout.axis else s for k, s in enumerate(row)]
    for right in ((own[2], 3), (own[0], own[2], 3), (own[2],), (2, own[0], own[2], 3)):
        if layout.axis == 2:
            with pytest.raises(Refused, match=r"sums over the samples|mixes samples"):
                g.plates.emit("MatMul", [x, g.weight(*right)], name="y")
        else:
            g.check("MatMul", x, g.weight(*right))
    for left in ((3, own[1]), (own[0], 3, own[1]), (own[1],), (2, own[0], 3, own[1])):
        if layout.axis == 1:
            with pytest.raises(Refused, match="mixes samples"):
                g.plates.emit("MatMul", [g.weight(*left), x], name="y")
        else:
            g.check("MatMul", g.weight(*left), x)


@pytest.mark.parametrize("layout, row", [c for c in LAYOUTS if c[0].axis in (0, None)], ids=str)
def test_matmul_of_two(layout: Layout, row: tuple[int, ...]) -> None:
    g = Graph()
    x = g.input(row, layout)
    turned = g.check("Transpose", g.input(row, layout), perm=[0, 2, 1])
    y = g.check("MatMul", x, turned)
    if layout == OUTSIDE:
        g.check("MatMul", y, g.input((4,), layout))
        g.check("MatMul", g.input((4,), layout), y)
        g.check("MatMul", g.input((2, 3, 6, 4), layout), y)
    else:
        lifted = g.check("Unsqueeze", y, axes=[0])
        g.check("MatMul", g.check("Tanh", y), lifted)


def test_products_that_pair_samples() -> None:
    g = Graph()
    x, z = g.input((1, 4), PLAIN), g.input((4, 1), Layout(1))
    with pytest.raises(Refused, match=r"rows of one|mixes samples"):
        g.plates.emit("MatMul", [x, z], name="y")
    with pytest.raises(Refused, match="mixes samples"):
        g.plates.emit("MatMul", [z, x], name="y")
    with pytest.raises(Refused, match=r"axis 0 of size 2\*N \(1, N, 2\) and axis 0 of size 2\*N \(2, N, 1\)"):
        g.plates.emit("Add", [g.input((2, 4), TN), g.input((2, 4), NT)], name="y")


@pytest.mark.parametrize(
    "layout, row", [(PLAIN, (1, 4)), (TN, (2, 4)), (NT, (2, 4)), (ANB, (10, 4)), (OUTSIDE, (3, 4))]
)
@pytest.mark.parametrize("turned", [0, 1])
def test_gemm(layout: Layout, row: tuple[int, ...], turned: int) -> None:
    g = Graph()
    x = g.input(row, layout)
    g.check("Gemm", x, g.weight(5, 4), g.weight(5), transB=1, alpha=0.5, beta=2.0)
    c = g.check("Gemm", x, g.weight(4, 5), g.weight(1, 5))
    g.check("Gemm", x, g.weight(4, 5), c)
    z = g.check("Transpose", x, perm=[1, 0])
    g.check("Gemm", z, g.weight(4, 5), g.weight(5), transA=1)
    rows = g.weight(6, 4)
    g.check("Gemm", rows, x, transB=1, alpha=0.5)
    g.check("Gemm", rows, z, g.weight(6, 1), beta=0.5)
    if layout != OUTSIDE:
        with pytest.raises(Refused, match="sums over the samples"):
            g.plates.emit("Gemm", [x, g.weight(row[0], 2)], name="y", transA=1)


IMAGES = [(PLAIN, 1), (TN, 2), (NT, 2), (ANB, 10), (OUTSIDE, 3), (OUTSIDE, 1)]


@pytest.mark.parametrize("layout, images", IMAGES)
def test_windows(layout: Layout, images: int) -> None:
    g = Graph()
    x = g.input((images, 4, 6, 6), layout)
    g.check("Conv", x, g.weight(4, 2, 3, 2), g.weight(4), strides=[2, 1], pads=[1, 0, 1, 1], group=2, dilations=[1, 2])
    g.check("MaxPool", x, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0])
    g.check("AveragePool", x, kernel_shape=[2, 2])
    g.check("GlobalAveragePool", x)
    g.check("BatchNormalization", x, *[g.weight(4) for _ in range(4)])
    rows = g.input((images, 4), layout)
    g.check("BatchNormalization", rows, *[g.weight(4) for _ in range(4)])
    with pytest.raises(Refused, match="which holds the samples"):
        g.plates.emit("GlobalAveragePool", [g.input((2, 1, 4, 4), Layout(1))], name="y")


def test_blocks_of_samples() -> None:
    """Two batches one after the other, taken apart again."""
    g = Graph()
    x, z = g.input((1, 4), PLAIN), g.input((2, 4), TN)
    both = g.check("Concat", x, z, axis=0)
    assert both.shape == (Samples(3), 4)
    first = {"starts": [0], "axes": [0], "steps": [1]}
    y = g.check("Slice", both, ends=[Samples(1)], real={"ends": [N]}, **first)
    assert y.layout == PLAIN
    later = {"starts": [Samples(1)], "ends": [Samples(3)], "axes": [0], "steps": [1]}
    g.check("Slice", both, real={"starts": [N], "ends": [3 * N]}, **later)
    assert g.check("Slice", both, ends=[2**63 - 1], **first).handle == both.handle
    with pytest.raises(Refused, match="some of the samples"):
        g.plates.emit("Slice", [both], name="y", ends=[2], **first)
    g.check("Concat", g.input((10, 4), ANB), g.input((5, 4), Layout(0, 1, 5)), axis=0)


@every_layout
def test_a_table_beside_what_varies(layout: Layout, row: tuple[int, ...]) -> None:
    """A row repeated for each sample, as class tokens are, joins along another axis."""
    if layout.axis is None:
        return
    g = Graph()
    x = g.input(row, layout)
    axis = 1 if layout.axis != 1 else 2
    own = [1 if k == layout.axis else s for k, s in enumerate(row)]
    own[axis] = 2
    token = g.plates.emit(
        "Concat", [x, g.plates.constant("t", np.full([*own[: layout.axis], row[layout.axis], *own[layout.axis + 1 :]],
                                                     2.0), layout), x], name="y", axis=axis)  # fmt: skip
    array = g.source[id(x)]
    full = np.full([*array.shape[:axis], 2, *array.shape[axis + 1 :]], 2.0)
    np.testing.assert_allclose(g.result(token), np.concatenate([array, full, array], axis))


def test_nothing_is_added_where_samples_are_plain() -> None:
    g = Graph()
    x = g.input((1, 4, 6, 6), PLAIN)
    steps: list[tuple[str, list[Value], dict[str, Any]]] = [
        ("Conv", [g.weight(4, 4, 3, 3)], {}),
        ("Add", [g.weight(4, 1, 1)], {}),
        ("MaxPool", [], {"kernel_shape": [2, 2]}),
        ("Flatten", [], {"axis": 1}),
        ("Gemm", [g.weight(36, 3), g.weight(3)], {}),
        ("Softmax", [], {"axis": -1}),
    ]
    for k, (op, weights, attributes) in enumerate(steps):
        count = len(g.net)
        x = g.plates.emit(op, [x, *weights], name=f"v{k}", **attributes)
        assert len(g.net) == count + 1
        vertex = g.net[f"v{k}"]
        assert (vertex.op, x.layout) == (op, PLAIN)
        assert {key: value for key, value in vertex.attributes.items() if key in attributes} == attributes


def test_constants_fold() -> None:
    g = Graph()
    a = g.plates.constant("a", np.arange(6.0).reshape(2, 3))
    b = g.plates.emit("Softmax", [g.plates.emit("Transpose", [a], name="t", perm=[1, 0])], name="s", axis=0)
    assert len(g.net) == 0
    assert b.data is not None
    np.testing.assert_allclose(b.data.sum(0), 1.0)
    y = g.plates.emit("MatMul", [g.input((1, 3), PLAIN), b], name="y")
    assert list(g.net) == ["x0", "s", "y"]
    assert y.shape == (Samples(1), 2)


def test_an_op_without_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ops.OPS, "Ours", ops.OPS["Tanh"])
    g = Graph()
    g.check("Ours", g.input((1, 4), PLAIN))
    with pytest.raises(Refused, match="Ours has no rule"):
        g.plates.emit("Ours", [g.input((2, 4), TN)], name="y")
