"""PyTorch models by way of ONNX: exported, converted, and compared with the module they come from."""

import io
import logging
import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
# ruff: noqa: E402 - what follows needs torch and onnx

from converters import from_onnx
from tests.converters.test_torch_zoo import axes, outputs, placed, rows
from tests.converters.zoo import ZOO, Model

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
EXPORTED, USED = 2, 4
# What this exporter does not export, or exports for one number of samples whatever it is told.
UNTRACED = {"seq2seq", "vision_transformer"}
# Initial states, or what is computed from them, are tables of as many rows as there were samples.
ONE_SIZE = {"names_rnn"}


def traced(model: Model, dtype: Any, fixed: bool) -> Any:
    """By TorchScript, which needs no other package."""
    args, buffer = model.example(EXPORTED, dtype), io.BytesIO()
    names = [f"x{k}" for k in range(len(args))]
    free = {name: {axis: "N"} for name, axis in zip(names, axes(model, len(args)), strict=True)}
    torch.onnx.export(
        model.module(dtype),
        args,
        buffer,
        dynamo=False,
        input_names=names,
        dynamic_axes=None if fixed else free,
        opset_version=17,
    )
    return onnx.load_model_from_string(buffer.getvalue())


def exported(model: Model, dtype: Any) -> Any:
    """By torch.export."""
    args = model.example(EXPORTED, dtype)
    shapes = tuple({axis: torch.export.Dim.DYNAMIC} for axis in axes(model, len(args)))
    return torch.onnx.export(model.module(dtype), args, dynamo=True, dynamic_shapes=shapes, verbose=False).model_proto


def compare(name: str, message: Any, dtype: Any) -> None:
    model = ZOO[name]
    net = from_onnx(message, sample_axis=model.sample_axis)
    args = model.example(USED, dtype)
    values = net.forward(
        {
            vertex: rows(x.numpy(), axis, net[vertex].shape)
            for vertex, x, axis in zip(net.inputs, args, axes(model, len(args)), strict=True)
        }
    )
    targets = [leaf.detach().numpy() for leaf in outputs(model.module(dtype), args)]
    assert len(targets) == len(net.outputs)
    for vertex, target in zip(net.outputs, targets, strict=True):
        value = placed(values[vertex], target.shape, USED)
        assert value.dtype == target.dtype
        assert np.linalg.norm(value - target) <= TOLERANCE[dtype] * np.linalg.norm(target)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """What an exporter says about its own future is not the test's affair."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", sorted(set(ZOO) - UNTRACED))
def test_traced(name: str, dtype: Any) -> None:
    compare(name, traced(ZOO[name], dtype, fixed=False), dtype)


@pytest.mark.parametrize("name", sorted(set(ZOO) - UNTRACED - ONE_SIZE))
def test_traced_for_a_fixed_number_of_samples(name: str) -> None:
    compare(name, traced(ZOO[name], torch.float64, fixed=True), torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet", "char_lstm", "vision_transformer", "two_towers"])
def test_exported(name: str) -> None:
    pytest.importorskip("onnxscript")
    compare(name, exported(ZOO[name], torch.float64), torch.float64)
