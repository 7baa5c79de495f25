"""ONNX files from strangers: whatever is in them, conversion ends soon, with a net or with a ConversionError."""

import contextlib
import io
import os
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbn.errors import ConversionError
from gbn.net import GaussianBayesNet

onnx = pytest.importorskip("onnx")
# ruff: noqa: E402 - what follows needs onnx

from onnx import TensorProto, helper, numpy_helper

from converters.onnx import convert

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
# What a refusal may take; the shapes below claim terabytes.
MEMORY = 1 << 31


def model(nodes: list[Any], initialisers: Any = (), x: Any = ("N", 3), y: Any = None, **more: Any) -> Any:
    """A model of one input x and one output y."""
    inputs, outputs = [("x", x)], [("y", y)]
    infos = [[helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in part] for part in (inputs, outputs)]
    graph = helper.make_graph(nodes, "g", *infos, list(initialisers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], **more)


def array(name: str, values: Any, dtype: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.asarray(values, dtype=dtype), name)


def ints(name: str, values: Any) -> Any:
    return array(name, values, np.int64)


def small() -> Any:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["a"], transB=1),
        helper.make_node("Tanh", ["a"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["r"]),
        helper.make_node("Conv", ["r", "k"], ["c"], pads=[1, 1]),
        helper.make_node("Flatten", ["c"], ["y"]),
    ]
    weights = [array("w", rng.normal(size=(4, 3))), array("b", rng.normal(size=4)), ints("shape", [-1, 2, 2])]
    return model(nodes, [*weights, array("k", rng.normal(size=(2, 2, 3)))])


def attempt(source: Any) -> GaussianBayesNet:
    """Convert in bounded memory."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return convert(source)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY, f"took {peak >> 20} MiB"


def refused(source: Any, match: str) -> None:
    with pytest.raises(ConversionError, match=match):
        attempt(source)


def test_the_small_model_itself_converts() -> None:
    assert attempt(small()).outputs == ("y",)


@pytest.mark.parametrize("seed", range(20))
def test_mutated_bytes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = small().SerializeToString()
    for _ in range(10):
        data = bytearray(whole)
        kind = rng.integers(4)
        if kind == 0:
            data = data[: rng.integers(len(data))]
        elif kind == 1:
            for place in rng.integers(0, len(data), size=rng.integers(1, 8)):
                data[place] = rng.integers(256)
        elif kind == 2:
            start, stop = sorted(rng.integers(0, len(data), size=2))
            data[start:stop] = rng.bytes(int(rng.integers(0, 40)))
        else:
            data = bytearray(rng.bytes(int(rng.integers(1, 400))))
        with contextlib.suppress(ConversionError):
            attempt(bytes(data))


@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"not a model", b"\x08\x07" * 50])
def test_bytes_that_are_no_model(data: bytes) -> None:
    refused(data, "not an ONNX model")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(small().SerializeToString()[:-30])
    refused(path, "net|model|tensor")
    refused(tmp_path, "cannot be read")


def external(location: str, shape: tuple[int, ...] = (4, 3), **entries: Any) -> Any:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], [tensor])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, with a secret beside it."""
    inside = tmp_path / "models"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(bytes(48))
    (inside / "data").write_bytes(np.arange(16, dtype=np.float32).tobytes())
    return inside


def saved(folder: Path, message: Any) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(message.SerializeToString())
    return path


def test_external_data_is_read_at_its_offset(folder: Path) -> None:
    net = convert(saved(folder, external("data", offset=16, length=48)))
    np.testing.assert_array_equal(net["w"].value, np.arange(4, 16).reshape(4, 3))


@pytest.mark.parametrize(
    "location",
    ["../secret", "sub/../../secret", "/etc/passwd", "C:\\secret", "..\\secret", "\\\\host\\secret", "", "."],
)
def test_external_data_outside_the_folder(folder: Path, location: str) -> None:
    refused(saved(folder, external(location)), "folder")


@pytest.mark.parametrize("name", ["missing", "a\0b"])
def test_external_data_that_is_not_there(folder: Path, name: str) -> None:
    refused(saved(folder, external(name)), "'w'")


def test_links_that_lead_outside(folder: Path) -> None:
    os.symlink(folder.parent / "secret", folder / "link")
    os.symlink(folder.parent, folder / "up")
    for location in ("link", "up/secret"):
        refused(saved(folder, external(location)), "outside")


def test_a_link_to_itself(folder: Path) -> None:
    os.symlink(folder / "loop", folder / "loop")
    refused(saved(folder, external("loop")), "'w'")


def test_a_pipe_is_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    refused(saved(folder, external("pipe")), "no file")


@pytest.mark.parametrize(
    "entries",
    [{"offset": 32}, {"offset": -4}, {"offset": "1e3"}, {"length": 4}, {"length": 1 << 60}, {"offset": 10**30}],
)
def test_external_data_of_wrong_extent(folder: Path, entries: dict[str, Any]) -> None:
    refused(saved(folder, external("data", **entries)), "'w'")


def test_external_data_that_claims_too_much(folder: Path) -> None:
    refused(saved(folder, external("data", shape=(1 << 20, 1 << 20))), "'w'")


def test_external_data_of_a_model_in_memory() -> None:
    refused(external("data"), "convert the model by its path")


@pytest.mark.parametrize("dims", [(1 << 40,), (1 << 20, 1 << 20), (4, -3), (5, 3)])
def test_initialisers_that_claim_what_they_have_not(dims: tuple[int, ...]) -> None:
    for field in ("raw_data", "float_data"):
        tensor = TensorProto(name="w", data_type=FLOAT, dims=dims)
        value: Any = bytes(48) if field == "raw_data" else [0.0] * 12
        if field == "raw_data":
            tensor.raw_data = value
        else:
            tensor.float_data.extend(value)
        refused(model([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], [tensor]), "'w'|w:")


HUGE = 1 << 40
BOMBS: dict[str, tuple[list[Any], list[Any]]] = {
    "ConstantOfShape": (
        [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])],
        [ints("s", [HUGE])],
    ),
    "Expand": ([helper.make_node("Expand", ["x", "s"], ["y"])], [ints("s", [HUGE, 1, 3])]),
    "Expand of a weight": (
        [helper.make_node("Expand", ["w", "s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])],
        [array("w", [1.0, 2.0, 3.0]), ints("s", [HUGE, 3])],
    ),
    "Tile": ([helper.make_node("Tile", ["x", "s"], ["y"])], [ints("s", [1, HUGE])]),
    "Pad": ([helper.make_node("Pad", ["x", "s"], ["y"])], [ints("s", [0, 0, 0, HUGE])]),
    "Range": (
        [helper.make_node("Range", ["a", "s", "d"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])],
        [ints("a", 0), ints("s", HUGE), ints("d", 1)],
    ),
    "Range of no step": (
        [helper.make_node("Range", ["a", "s", "d"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])],
        [ints("a", 0), ints("s", HUGE), ints("d", 0)],
    ),
    "OneHot": (
        [helper.make_node("OneHot", ["i", "s", "v"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])],
        [ints("i", [0, 1]), ints("s", HUGE), array("v", [0.0, 1.0])],
    ),
    "Resize": (
        [
            helper.make_node("Reshape", ["x", "s"], ["r"]),
            helper.make_node("Resize", ["r", "", "f"], ["y"], mode="nearest"),
        ],
        [ints("s", [0, 1, 1, 3]), array("f", [1.0, 1.0, 1e6, 1e6])],
    ),
    "outer sum": (
        [
            *(helper.make_node("Expand", ["w", f"s{k}"], [f"e{k}"]) for k in (0, 1)),
            helper.make_node("Add", ["e0", "e1"], ["c"]),
            helper.make_node("Add", ["x", "c"], ["y"]),
        ],
        [array("w", [[1.0]]), ints("s0", [1 << 20, 1]), ints("s1", [1, 1 << 20])],
    ),
    "growth": (
        [
            helper.make_node("Identity", ["x"], ["c0"]),
            *(helper.make_node("Concat", [f"c{k}"] * 32, [f"c{k + 1}"], axis=1) for k in range(10)),
            helper.make_node("Identity", ["c10"], ["y"]),
        ],
        [],
    ),
    "loop": (
        [
            helper.make_node(
                "Loop",
                ["s", "", "x"],
                ["y"],
                body=helper.make_graph(
                    [helper.make_node("Identity", ["cond"], ["go"]), helper.make_node("Tanh", ["h"], ["g"])],
                    "body",
                    [
                        helper.make_tensor_value_info(n, t, ())
                        for n, t in (("i", INT), ("cond", TensorProto.BOOL), ("h", FLOAT))
                    ],
                    [helper.make_tensor_value_info(n, t, ()) for n, t in (("go", TensorProto.BOOL), ("g", FLOAT))],
                ),
            )
        ],
        [ints("s", HUGE)],
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_shapes_out_of_all_proportion(name: str) -> None:
    nodes, initialisers = BOMBS[name]
    refused(model(nodes, initialisers), "cannot be converted")


def test_an_input_out_of_all_proportion() -> None:
    refused(model([helper.make_node("Tanh", ["x"], ["y"])], x=("N", HUGE)), "entries")
    refused(model([helper.make_node("Tanh", ["x"], ["y"])], x=("N", -3)), "positive")


def test_functions_that_call_each_other_twice() -> None:
    """Twenty functions, each two calls of the next, are a million nodes."""
    functions = [
        helper.make_function(
            "mine",
            f"f{k}",
            ["a"],
            ["c"],
            [
                helper.make_node(f"f{k + 1}", ["a"], ["b"], domain="mine"),
                helper.make_node(f"f{k + 1}", ["b"], ["c"], domain="mine"),
            ],
            [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)],
        )
        for k in range(20)
    ]
    leaf = helper.make_function(
        "mine", "f20", ["a"], ["c"], [helper.make_node("Tanh", ["a"], ["c"])], [helper.make_opsetid("", 17)]
    )
    bomb = model([helper.make_node("f0", ["x"], ["y"], domain="mine")], functions=[*functions, leaf])
    bomb.opset_import.append(helper.make_opsetid("mine", 1))
    refused(bomb, "nodes")


def test_a_function_that_calls_itself() -> None:
    function = helper.make_function(
        "mine",
        "f",
        ["a"],
        ["b"],
        [helper.make_node("f", ["a"], ["b"], domain="mine")],
        [helper.make_opsetid("mine", 1)],
    )
    refused(model([helper.make_node("f", ["x"], ["y"], domain="mine")], functions=[function]), "nested")


def test_subgraphs_nested_deeply() -> None:
    inner = helper.make_graph(
        [helper.make_node("Tanh", ["x"], ["z"])], "g", [], [helper.make_tensor_value_info("z", FLOAT, None)]
    )
    empty = helper.make_graph([], "g", [], [])
    for k in range(30):
        node = helper.make_node("If", ["c"], [f"z{k}"], then_branch=inner, else_branch=empty)
        inner = helper.make_graph([node], "g", [], [helper.make_tensor_value_info(f"z{k}", FLOAT, None)])
    refused(model([inner.node[0], helper.make_node("Neg", ["z29"], ["y"])], [array("c", True, np.bool_)]), "nested")


def test_cycles_and_unknown_names() -> None:
    cycle = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Tanh", ["a"], ["b"])]
    refused(model([*cycle, helper.make_node("Identity", ["b"], ["y"])]), "unsorted or cyclic")
    refused(model([helper.make_node("Tanh", ["y"], ["y"])]), "unsorted or cyclic")
    refused(model([helper.make_node("Tanh", ["x"], ["z"])]), "'y'")


def test_names_defined_twice() -> None:
    twice = [helper.make_node("Tanh", ["x"], ["y"]), helper.make_node("Relu", ["x"], ["y"])]
    refused(model(twice), "'y' is defined twice")
    weights = [array("w", np.eye(3)), array("w", np.eye(3))]
    refused(model([helper.make_node("MatMul", ["x", "w"], ["y"])], weights), "'w' is defined twice")


def test_names_that_clash_only_as_vertices() -> None:
    nodes = [helper.make_node("Tanh", ["x"], ["/a/b"]), helper.make_node("Relu", ["/a/b"], ["a.b"])]
    net = convert(model([*nodes, helper.make_node("Neg", ["a.b"], ["y"])]))
    assert {"a.b", "a.b#2"} <= set(net)
    assert net.source_of("a.b#2") == "a.b"


@pytest.mark.parametrize(
    "operation", ["RandomNormalLike", "Multinomial", "ImageDecoder", "StringNormalizer", "Unknown"]
)
def test_operators_without_counterpart(operation: str) -> None:
    refused(model([helper.make_node(operation, ["x"], ["y"])]), operation)


def test_pickles_and_archives_are_not_opened() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones(3))
    refused(buffer.getvalue(), "not an ONNX model")
