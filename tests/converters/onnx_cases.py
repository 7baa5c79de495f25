"""The backend tests of the onnx package, as nets: what they are made of, and what comes out."""

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

from converters._onnx_graph import Builder, build, clean
from converters._onnx_inputs import input_sizes
from gbn.errors import ConversionError

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass
class Case:
    """One backend test: a model, its inputs, and the outputs that are expected."""

    name: str
    model: Any
    inputs: list[Any]
    outputs: list[Any]

    @property
    def op(self) -> str:
        """The operator of a model of one node; of others all of them."""
        return "+".join(node.op_type for node in self.model.graph.node)

    @property
    def single(self) -> bool:
        return len(self.model.graph.node) == 1

    @property
    def input_types(self) -> list[Any]:
        return [element_type(info) for info in self.model.graph.input]

    @property
    def output_types(self) -> list[Any]:
        return [element_type(info) for info in self.model.graph.output]


@dataclass
class Outcome:
    """What conversion made of a case: outputs in the source's layout and the ops that ran, or why it was refused."""

    outputs: list[np.ndarray] = field(default_factory=list)
    calls: list[tuple[str, dict[str, Any], list[np.ndarray]]] = field(default_factory=list)
    refusal: str = ""
    shared: bool = False


def element_type(info: Any) -> Any:
    """Of a tensor; None for sequences and others."""
    return info.type.tensor_type.elem_type if info.type.WhichOneof("value") == "tensor_type" else None


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


@functools.cache
def load(kind: str) -> dict[str, Case]:
    """The cases of a kind, by name."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return {case.name: case for case in _load(kind)}


def _load(kind: str) -> Iterator[Case]:
    for test in load_model_tests(kind=kind):
        if test.model is not None:
            inputs, outputs = test.data_sets[0][:2]
            yield Case(test.name, test.model, [_array(v) for v in inputs], [_array(v) for v in outputs])
            continue
        folder = Path(test.model_dir)
        parts = []
        for part in ("input", "output"):
            paths = sorted(folder.glob(f"test_data_set_0/{part}_*.pb"), key=lambda p: int(p.stem.rpartition("_")[2]))
            parts.append([_tensor(path) for path in paths])
        yield Case(test.name, onnx.load(folder / "model.onnx"), *parts)


def _tensor(path: Path) -> Any:
    tensor = TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


def bound(case: Case, shared: bool) -> tuple[Any, dict[str, np.ndarray]]:
    """The model with its inputs bound as initialisers: all of them, or all but the first one of floating point.

    Node tests pass weights, shapes and axes at run time, where models hold them; and they have no axis of samples.
    """
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    given: dict[str, np.ndarray] = {}
    for info, value in zip(case.model.graph.input, case.inputs, strict=False):
        if not shared and not given and element_type(info) in FLOATS and np.size(value):
            given[info.name] = np.asarray(value)
        else:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), info.name))
    return model, given


@functools.cache
def outcome(kind: str, name: str) -> Outcome:
    """The case as a net of one sample; where what it does with axes has no place for samples, of shared vertices."""
    case, refusal = load(kind)[name], ""
    for shared in (False, True):
        try:
            model, given = bound(case, shared)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                builder = build(model, None, *input_sizes(model, None, None))
        except (ConversionError, NotImplementedError) as error:
            refusal = refusal or str(error)
            continue
        return run(builder, given, shared)
    return Outcome(refusal=refusal)


def run(builder: Builder, given: dict[str, np.ndarray], shared: bool) -> Outcome:
    net, plates = builder.net, builder.plates
    rows = {clean(key): value.astype(net.dtype).reshape(1, *net[clean(key)].shape) for key, value in given.items()}
    with np.errstate(all="ignore"):
        values, _ = net.evaluate(rows, 1)
    outputs = [plates.source(ref, values[plates.vertex(ref)]) for ref in builder.results]
    calls = [
        (str(vertex.op), dict(vertex.attributes), [values[parent] for parent in vertex.parents])
        for vertex in net.vertices.values()
        if vertex.kind == "op"
    ]
    return Outcome(outputs, calls, "", shared)


def check(case: Case, found: Outcome) -> None:
    """Outputs of floating point are those expected; of -inf, a number whose exponential is 0 as well."""
    assert len(found.outputs) == len(case.outputs)
    for got, expected, kind in zip(found.outputs, case.outputs, case.output_types, strict=True):
        if kind not in FLOATS:
            continue
        target = np.asarray(expected).astype(np.float64)
        assert got.shape == target.shape
        low = np.isneginf(target)
        assert (got[low] < -1e29).all()
        # Half precision is widened here, and rounded at each step there.
        rtol, atol = (2e-2, 5e-3) if kind in HALVES else (1e-3, 1e-5)
        np.testing.assert_allclose(got[~low], target[~low], rtol=rtol, atol=atol)
