"""ONNX models made by hand, against the reference evaluator of the onnx package."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gbn
from gbn.errors import ConversionError, MissingDependencyError

onnx = pytest.importorskip("onnx")
# ruff: noqa: E402 - what follows needs onnx

from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from converters import from_onnx

FLOAT, DOUBLE, INT = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}


def model(nodes: list[Any], weights: dict[str, Any], opset: int = 17, kind: int = DOUBLE, **more: Any) -> Any:
    """A model from x (and others) to y; ``inputs`` and ``outputs`` map names to shapes."""
    inputs, outputs = more.pop("inputs", {"x": ("N", 3)}), more.pop("outputs", {"y": None})
    types = more.pop("types", {})
    infos = [
        [helper.make_tensor_value_info(name, types.get(name, kind), shape) for name, shape in part.items()]
        for part in (inputs, outputs)
    ]
    tensors = [v if isinstance(v, TensorProto) else array(k, v) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "g", *infos, tensors, value_info=more.pop("value_info", []))
    domains = [helper.make_opsetid(domain, 1) for domain in more.pop("domains", [])]
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), *domains], **more)


def array(name: str, values: Any) -> Any:
    return numpy_helper.from_array(np.asarray(values), name)


def agrees(message: Any, given: dict[str, np.ndarray], axis: int = 0, **options: Any) -> gbn.GaussianBayesNet:
    """Convert, and compare every output with the reference; samples are on ``axis`` of inputs and outputs."""
    net = from_onnx(message, sample_axis=axis, **options) if axis else from_onnx(message, **options)
    expected = ReferenceEvaluator(message).run(None, given)
    values = net.forward({name: np.moveaxis(x, axis, 0) for name, x in given.items()})
    assert len(expected) == len(net.outputs)
    for name, target in zip(net.outputs, expected, strict=True):
        value = np.moveaxis(values[name], 0, axis)
        assert value.shape == target.shape
        assert value.dtype == target.dtype
        assert np.abs(value - target).max() <= TOLERANCE[value.dtype] * max(1.0, np.abs(target).max())
    return net


def draw(*shape: int, seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


node = helper.make_node


def mlp(dtype: Any = np.float64, **more: Any) -> Any:
    nodes = [
        node("Gemm", ["x", "fc.weight", "fc.bias"], ["/fc/out"], transB=1),
        node("Tanh", ["/fc/out"], ["h"]),
        node("MatMul", ["h", "head"], ["y"]),
    ]
    weights = {"fc.weight": draw(4, 3), "fc.bias": draw(4, seed=1), "head": draw(4, 2, seed=2)}
    kind = DOUBLE if dtype == np.float64 else FLOAT
    return model(nodes, {k: v.astype(dtype) for k, v in weights.items()}, kind=kind, **more)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 5])
def test_any_number_of_samples(dtype: Any, n: int) -> None:
    net = agrees(mlp(dtype), {"x": draw(n, 3, dtype=dtype)})
    assert net.dtype == dtype


def test_names_and_sources() -> None:
    net = from_onnx(mlp())
    assert net.inputs == ("x",)
    assert net.outputs == ("y",)
    assert net.parameters == ("fc.weight", "fc.bias", "head")
    assert [net.source_of(name) for name in net.parameters] == ["fc.weight", "fc.bias", "head"]
    assert net.source_of("fc.out") == "/fc/out"  # vertices have no slashes
    assert net.latents == ("fc.out", "y")


def test_every_way_in(tmp_path: Path) -> None:
    path, x = tmp_path / "net.onnx", draw(4, 3)
    onnx.save(mlp(), path)
    nets = [gbn.convert(source) for source in (path, str(path), path.read_bytes(), mlp())]
    for net in nets:
        np.testing.assert_array_equal(net.forward({"x": x})["y"], nets[0].forward({"x": x})["y"])


def test_external_data_that_the_package_wrote(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(mlp(), path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    x = draw(4, 3)
    np.testing.assert_array_equal(from_onnx(path).forward({"x": x})["y"], from_onnx(mlp()).forward({"x": x})["y"])


def test_policy_and_likelihood() -> None:
    net = from_onnx(mlp(), latents="all", noise=0.5, output_noise=0.1, likelihood="categorical")
    assert net.labels == ("y.label",)
    assert net.latents == ("fc.out", "h")


def test_messages_are_the_gradient() -> None:
    """Of ½ |t - y|², by central differences of the reference."""
    message, x, t, step = mlp(), draw(3, 3, seed=3), draw(3, 2, seed=4), 1e-6
    net = from_onnx(message)
    found = net.query(evidence={"x": x, "y": t}, engine="pc").messages["fc.weight"]

    def loss(entry: tuple[int, ...], by: float) -> float:
        weight = draw(4, 3)
        weight[entry] += by
        moved = onnx.ModelProto()
        moved.CopyFrom(message)
        moved.graph.initializer[0].CopyFrom(array("fc.weight", weight))
        return float(0.5 * ((t - ReferenceEvaluator(moved).run(None, {"x": x})[0]) ** 2).sum())

    for entry in np.ndindex(4, 3):
        gradient = (loss(entry, step) - loss(entry, -step)) / (2 * step)
        assert found[entry] == pytest.approx(-gradient, rel=1e-6, abs=1e-8)


def test_a_fixed_number_of_samples_is_any_number() -> None:
    """Literal targets hold the 2 samples that the model was exported for; the net takes 5."""

    def flat(n: int) -> Any:
        nodes = [
            node("Reshape", ["x", "split"], ["a"]),
            node("Transpose", ["a"], ["b"], perm=[1, 0, 2]),
            node("Add", ["b", "states"], ["c"]),
            node("Transpose", ["c"], ["d"], perm=[1, 0, 2]),
            node("Reshape", ["d", "join"], ["y"]),
        ]
        weights = {"split": [n, 2, 3], "join": [n, 6], "states": np.zeros((2, n, 3))}
        return model(nodes, weights, inputs={"x": (n, 6)}, outputs={"y": (n, 6)})

    for exported in (1, 2):
        x = draw(5, 6)
        np.testing.assert_allclose(from_onnx(flat(exported)).forward({"x": x})["y"], x)
    agrees(flat(2), {"x": draw(2, 6)})


def test_shapes_computed_in_the_graph() -> None:
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axes"], ["n1"]),
        node("Concat", ["n1", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["a"]),
        node("ConstantOfShape", ["target"], ["c"], value=array("", [0.5])),
        node("Mul", ["a", "c"], ["y"]),
    ]
    weights = {"zero": np.int64(0), "axes": np.array([0]), "rest": np.array([3, 2])}
    agrees(model(nodes, weights, inputs={"x": ("N", 6)}), {"x": draw(5, 6)})


def test_a_size_that_is_no_multiple_of_the_samples_is_refused() -> None:
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Add", ["shape", "one"], ["more"]),
        node("ConstantOfShape", ["more"], ["c"]),
        node("Add", ["x", "c"], ["y"]),
    ]
    with pytest.raises(ConversionError, match="number of samples"):
        from_onnx(model(nodes, {"one": np.array([1, 0])}))


def test_functions_with_attributes_and_defaults() -> None:
    inner = helper.make_function(
        "mine", "scaled", ["a"], ["b"],
        [helper.make_node("LeakyRelu", ["a"], ["t"]), helper.make_node("Add", ["t", "a"], ["b"])],
        [helper.make_opsetid("", 17)], ["alpha"],
    )  # fmt: skip
    reference = inner.node[0].attribute.add()
    reference.name, reference.ref_attr_name, reference.type = "alpha", "alpha", onnx.AttributeProto.FLOAT
    outer = helper.make_function(
        "mine", "twice", ["a"], ["c"],
        [node("scaled", [a], [b], domain="mine", alpha=alpha) for a, b, alpha in (("a", "b", 0.25), ("b", "c", 0.5))],
        [helper.make_opsetid("mine", 1)],
    )  # fmt: skip
    nodes = [node("twice", ["x"], ["/block/t"], domain="mine"), node("Neg", ["/block/t"], ["y"])]
    message = model(nodes, {}, functions=[inner, outer], domains=["mine"])
    net, x = from_onnx(message), draw(4, 3)
    for alpha in (0.25, 0.5):
        x = np.where(x > 0, x, alpha * x) + x
    np.testing.assert_allclose(net.forward({"x": draw(4, 3)})["y"], -x)
    assert "block.t" in net
    assert "block.t.b.t" in net  # what is inside a function has the name of its result in front


def test_branches_and_loops_on_constants() -> None:
    def graph(name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> Any:
        infos = [[helper.make_tensor_value_info(n, t, s) for n, t, s in part] for part in (inputs, outputs)]
        return helper.make_graph(nodes, name, *infos)

    then = graph("then", [node("Tanh", ["x"], ["t"])], [], [("t", DOUBLE, None)])
    other = graph("else", [node("Unknown", ["x"], ["e"])], [], [("e", DOUBLE, None)])
    body = graph(
        "body",
        [node("Identity", ["c"], ["go"]), node("MatMul", ["h", "w"], ["a"]), node("Tanh", ["a"], ["g"]),
         node("ReduceSum", ["g", "one"], ["s"], keepdims=1)],
        [("i", INT, ()), ("c", TensorProto.BOOL, ()), ("h", DOUBLE, None)],
        [("go", TensorProto.BOOL, ()), ("g", DOUBLE, None), ("s", DOUBLE, None)],
    )  # fmt: skip
    nodes = [
        node("If", ["yes"], ["h"], then_branch=then, else_branch=other),
        node("Loop", ["three", "", "h"], ["z", "sums"], body=body),
        node("Transpose", ["sums"], ["turned"], perm=[1, 0, 2]),
        node("Flatten", ["turned"], ["flat"]),
        node("Concat", ["z", "flat"], ["y"], axis=1),
    ]
    weights = {"yes": np.array(True), "three": np.array(3), "w": draw(3, 3), "one": np.array([1])}
    net = from_onnx(model(nodes, weights))
    x, h, sums = draw(4, 3, seed=5), np.tanh(draw(4, 3, seed=5)), []
    for _ in range(3):
        h = np.tanh(h @ weights["w"])
        sums.append(h.sum(1, keepdims=True))
    np.testing.assert_allclose(net.forward({"x": x})["y"], np.concatenate([h, *sums], axis=1), rtol=1e-12)
    assert sum(v.kind == "parameter" for v in net.vertices.values()) == 1  # the turns share the weight


@pytest.mark.parametrize("kind, gates", [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
@pytest.mark.parametrize("reset", [0, 1])
def test_recurrent_layers_with_time_in_front(kind: str, gates: int, reset: int) -> None:
    time, size, hidden, n = 3, 2, 4, 5
    given = {"linear_before_reset": reset} if kind == "GRU" else {"clip": 0.3} if kind == "RNN" and reset else {}
    weights = {
        "W": draw(1, gates * hidden, size),
        "R": draw(1, gates * hidden, hidden),
        "B": draw(1, 2 * gates * hidden),
    }
    if kind == "LSTM":
        weights |= {"P": draw(1, 3 * hidden, seed=7)}
    inputs = ["x", "W", "R", "B", "", "h0"] + (["", "P"] if kind == "LSTM" else [])
    outputs = ["Y", "Y_h"]
    nodes = [
        node(kind, inputs, outputs, hidden_size=hidden, **({} if "clip" in given else given)),
        node("Squeeze", ["Y", "one"], ["y"]),
    ]
    message = model(
        nodes,
        weights | {"one": np.array([1])},
        inputs={"x": (time, "N", size), "h0": (1, "N", hidden)},
        outputs={"y": None, "Y_h": None},
    )
    agrees(message, {"x": draw(time, n, size, seed=3), "h0": draw(1, n, hidden, seed=4)}, axis=1)


@pytest.mark.parametrize("op", ["RNN", "Scan"])
def test_steps_of_a_long_sequence_are_cut_from_blocks(op: str) -> None:
    """Every message to a part of the sequence is as long as the sequence."""
    steps = 100
    infos = [helper.make_tensor_value_info(n, DOUBLE, None) for n in ("h", "s", "g")]
    step = [node("MatMul", ["s", "W"], ["a"]), node("Add", ["h", "a"], ["b"]), node("Tanh", ["b"], ["g"])]
    body = helper.make_graph(step, "body", infos[:2], infos[2:])
    message = model(
        [
            node("Add", ["x", "shift"], ["moved"]),
            node("RNN", ["moved", "W3", "R3", "", "", "h3"], ["", "y"], hidden_size=2)
            if op == "RNN"
            else node("Scan", ["h0", "moved"], ["y"], body=body, num_scan_inputs=1),
        ],
        {"shift": draw(2), "W": draw(2, 2), "W3": draw(1, 2, 2), "R3": draw(1, 2, 2)},
        inputs={"x": (steps, "N", 2)} | ({"h3": (1, "N", 2)} if op == "RNN" else {"h0": ("N", 2)}),
    )
    first = {"h3": draw(1, 4, 2, seed=1)} if op == "RNN" else {"h0": draw(4, 2, seed=1)}
    net = gbn.convert(message, sample_axis=(1, 1 if op == "RNN" else 0))
    given = {"x": draw(steps, 4, 2)} | first
    expected = ReferenceEvaluator(message).run(None, given)[0].reshape(4, 2)
    rows = {k: np.moveaxis(v, 1 if v.ndim == 3 else 0, 0) for k, v in given.items()}
    np.testing.assert_allclose(net.forward(rows)["y"].reshape(4, 2), expected, rtol=1e-10)
    assert sum("moved" in vertex.parents for vertex in net.vertices.values()) == 10


def test_a_projected_state_is_not_onnx() -> None:
    message = model(
        [node("LSTM", ["x", "W", "R"], ["y"], hidden_size=4)],
        {"W": draw(1, 16, 2), "R": draw(1, 16, 3)},
        inputs={"x": (3, "N", 2)},
    )
    with pytest.raises(ConversionError, match=r"shape \(1, 16, 3\), expected \(directions, 4 \* hidden, hidden\)"):
        gbn.convert(message, sample_axis=1)


FORMS: dict[str, tuple[int, list[Any], dict[str, Any]]] = {
    "Squeeze with attribute": (
        11,
        [node("Unsqueeze", ["x"], ["u"], axes=[1, 3]), node("Squeeze", ["u"], ["y"], axes=[1, 3])],
        {},
    ),
    "Clip with attributes": (6, [node("Clip", ["x"], ["y"], min=-0.5, max=0.5)], {}),
    "Clip without a minimum": (13, [node("Clip", ["x", "", "m"], ["y"])], {"m": np.array(0.25)}),
    "Pad with attributes": (10, [node("Pad", ["x"], ["y"], pads=[0, 1, 0, 2], value=1.5)], {}),
    "Pad with axes": (
        18,
        [node("Pad", ["x", "p", "v", "a"], ["y"])],
        {"p": np.array([1, 2]), "v": np.array(2.0), "a": np.array([-1])},
    ),
    "Slice with attributes": (9, [node("Slice", ["x"], ["y"], starts=[1], ends=[2**31 - 1], axes=[1])], {}),
    "Slice backwards": (
        13,
        [node("Slice", ["x", "s", "e", "a", "t"], ["y"])],
        {"s": np.array([-1]), "e": np.array([-(2**63)]), "a": np.array([1]), "t": np.array([-1])},
    ),
    "ReduceSum with attribute": (11, [node("ReduceSum", ["x"], ["y"], axes=[-1], keepdims=0)], {}),
    "ReduceMax with input": (18, [node("ReduceMax", ["x", "a"], ["y"])], {"a": np.array([1])}),
    "Split with attribute": (11, [node("Split", ["x"], ["a", "y"], axis=1, split=[1, 2])], {}),
    "Split with input": (13, [node("Split", ["x", "s"], ["y", "b"], axis=1)], {"s": np.array([2, 1])}),
    "Dropout with attribute": (10, [node("Dropout", ["x"], ["y", "mask"], ratio=0.4)], {}),
    "Softmax of all behind an axis": (
        11,
        [node("Reshape", ["x", "s"], ["r"]), node("Softmax", ["r"], ["q"], axis=1), node("Flatten", ["q"], ["y"])],
        {"s": np.array([0, 3, 1])},
    ),
    "Softmax of one axis": (13, [node("Softmax", ["x"], ["y"])], {}),
    "Cast there and back": (13, [node("Cast", ["x"], ["i"], to=INT), node("Cast", ["i"], ["y"], to=DOUBLE)], {}),
    "Gather of one entry": (
        13,
        [node("Gather", ["x", "i"], ["g"], axis=1), node("Unsqueeze", ["g", "a"], ["y"])],
        {"i": np.array(-1), "a": np.array([1])},
    ),
    "Sum of many": (13, [node("Sum", ["x", "x", "c"], ["y"])], {"c": draw(3)}),
    "constants in the graph": (
        13,
        [
            node("Constant", [], ["c"], value_floats=[1.0, 2.0, 3.0]),
            node("Cast", ["c"], ["d"], to=DOUBLE),
            node("Mul", ["x", "d"], ["y"]),
        ],
        {},
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_operators(name: str) -> None:
    opset, nodes, weights = FORMS[name]
    agrees(model(nodes, weights, opset), {"x": draw(4, 3)})


def test_upsample() -> None:
    nodes = [node("Upsample", ["x", "s"], ["y"], mode="nearest")]
    message = model(nodes, {"s": np.array([1, 1, 2, 3], np.float32)}, 9, inputs={"x": ("N", 2, 2, 2)})
    x = draw(3, 2, 2, 2)
    np.testing.assert_array_equal(from_onnx(message).forward({"x": x})["y"], x.repeat(2, axis=2).repeat(3, axis=3))


def test_integer_inputs_are_observed() -> None:
    nodes = [node("Gather", ["table", "x"], ["e"], axis=0), node("ReduceMean", ["e"], ["y"], axes=[1], keepdims=0)]
    message = model(nodes, {"table": draw(7, 4)}, inputs={"x": ("N", 5)}, types={"x": INT})
    net = from_onnx(message)
    assert net["x"].needs_data
    x = np.random.default_rng(0).integers(7, size=(3, 5))
    np.testing.assert_allclose(net.forward({"x": x})["y"], draw(7, 4)[x].mean(1))


def test_weights_and_constants() -> None:
    nodes = [
        node("BatchNormalization", ["x", "scale", "shift", "mean", "var"], ["n"]),
        node("Mul", ["n", "factor"], ["m"]),
        node("MatMul", ["m", "w"], ["a"]),
        node("Transpose", ["w"], ["wt"]),
        node("MatMul", ["a", "wt"], ["b"]),
        node("Add", ["b", "mask"], ["y"]),
    ]
    weights = {
        "scale": draw(3),
        "shift": draw(3),
        "mean": draw(3),
        "var": draw(3) ** 2,
        "factor": np.array(2.0),
        "w": draw(3, 2),
        "mask": np.array([0, -np.inf, 0]),
    }
    net = from_onnx(model(nodes, weights))
    kinds = {name: net[name].kind for name in weights}
    assert {name for name, kind in kinds.items() if kind == "parameter"} == {"scale", "shift", "w"}
    assert net["wt"].parents == ("w",)  # tied, and no copy
    assert net["mask"].value[1] == -1e30


@pytest.mark.parametrize("half", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_is_widened(half: int) -> None:
    values = np.array([[1.5, -2.25, 0.0], [0.5, 3.0, -1.0], [8.0, 0.125, 4.0]], np.float32)
    for raw in (False, True):
        data = helper.make_tensor("w", half, values.shape, values.ravel().tolist())
        if raw:
            bits = np.array(data.int32_data, dtype=np.uint16)
            data = TensorProto(name="w", data_type=half, dims=values.shape, raw_data=bits.tobytes())
        net = from_onnx(model([node("MatMul", ["x", "w"], ["y"])], {"w": data}, kind=half))
        assert net.dtype == np.float32
        np.testing.assert_array_equal(net["w"].value, values)


def test_every_unsupported_node_is_listed() -> None:
    nodes = [
        node("NonsenseA", ["x"], ["a"], name="first"),
        node("Tanh", ["a"], ["b"]),
        node("Attention", ["x"], ["c"], domain="com.microsoft", name="second"),
        node("Dropout", ["x", "", "yes"], ["d"], name="third"),
        node("NonsenseB", ["b", "c"], ["y"]),
    ]
    with pytest.raises(ConversionError) as caught:
        from_onnx(model(nodes, {"yes": np.array(True)}, domains=["com.microsoft"]))
    assert [layer.path for layer in caught.value.layers] == ["first", "second", "third", "y"]
    text = str(caught.value)
    assert "gbn.ops.op" in text
    assert "com.microsoft" in text
    assert "training mode" in text


def test_shapes_that_the_model_declares_are_checked() -> None:
    wrong = [helper.make_tensor_value_info("h", DOUBLE, ("N", 7))]
    with pytest.raises(ConversionError, match=r"'h' has the shape \('N', 4\), but the model declares \(None, 7\)"):
        from_onnx(mlp(value_info=wrong))
    right = [helper.make_tensor_value_info("h", DOUBLE, ("N", 4))]
    assert from_onnx(mlp(value_info=right)).outputs == ("y",)


def test_an_example_fills_in_open_sizes() -> None:
    message = model([node("Tanh", ["x"], ["y"])], {}, inputs={"x": ("N", "T", 2)})
    with pytest.raises(ConversionError, match="'T'"):
        from_onnx(message)
    assert from_onnx(message, draw(1, 6, 2))["x"].shape == (6, 2)
    with pytest.raises(ConversionError, match="example has the shape"):
        from_onnx(message, draw(1, 6, 3))


def test_a_fixed_model_that_mixes_samples_is_one_sample() -> None:
    message = model([node("ReduceSum", ["x", "a"], ["y"], keepdims=0)], {"a": np.array([0])}, inputs={"x": (4, 3)})
    with pytest.warns(UserWarning, match="converted as one sample"):
        net = from_onnx(message)
    x = draw(2, 4, 3)
    np.testing.assert_allclose(net.forward({"x": x})["y"], x.sum(1))


def test_an_open_model_that_mixes_samples_is_refused() -> None:
    message = model([node("ReduceSum", ["x", "a"], ["y"], keepdims=0)], {"a": np.array([0])})
    with pytest.raises(ConversionError, match="mixes samples"):
        from_onnx(message)


def test_versions_that_are_not_supported() -> None:
    with pytest.raises(ConversionError, match="version_converter"):
        from_onnx(mlp(opset=5))
    with pytest.raises(ConversionError, match="update onnx"):
        from_onnx(mlp(opset=1000))


def test_importing_the_converter_does_not_import_onnx() -> None:
    code = "import converters.onnx, sys; converters.onnx.accepts('a.onnx'); sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("converters._onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'gaussian-bayes-net\[onnx\]'"):
        from_onnx(b"")
