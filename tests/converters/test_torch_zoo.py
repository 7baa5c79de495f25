"""Whole models: forward passes and the gradient of every parameter, against torch's own."""

from typing import Any

import numpy as np
import pytest

import gbn

torch = pytest.importorskip("torch")
# ruff: noqa: E402 - what follows needs torch

from torch.utils import _pytree as pytree

from converters import from_torch
from tests.converters.zoo import ZOO, Model

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
TRACED, USED = 2, 4


def outputs(module: Any, args: tuple[Any, ...]) -> list[Any]:
    return [leaf for leaf in pytree.tree_leaves(module(*args)) if isinstance(leaf, torch.Tensor)]


def rows(array: np.ndarray, axis: int, event: tuple[int, ...]) -> np.ndarray:
    """Samples in front."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], *event)


def axes(model: Model, count: int) -> list[Any]:
    return list(model.sample_axis) if isinstance(model.sample_axis, tuple) else [model.sample_axis] * count


def converted(name: str, dtype: Any) -> tuple[Any, gbn.GaussianBayesNet, tuple[Any, ...], dict[str, np.ndarray]]:
    """The module, its net, and inputs of another number of samples than it was converted with."""
    model = ZOO[name]
    module = model.module(dtype)
    net = from_torch(module, model.example(TRACED, dtype), sample_axis=model.sample_axis, likelihood="gaussian")
    args = model.example(USED, dtype)
    given = {
        vertex: rows(x.numpy(), axis, net[vertex].shape)
        for vertex, x, axis in zip(net.inputs, args, axes(model, len(args)), strict=True)
    }
    return module, net, args, given


def placed(value: np.ndarray, shape: tuple[int, ...], n: int) -> np.ndarray:
    """An output of the net where the model has its samples: on the axis of that size."""
    if value.shape == shape:
        return value
    (axis,) = (k for k, size in enumerate(shape) if size == n)
    return np.moveaxis(value, 0, axis)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", ZOO)
def test_forward(name: str, dtype: Any) -> None:
    module, net, args, given = converted(name, dtype)
    values = net.forward(given)
    targets = [leaf.detach().numpy() for leaf in outputs(module, args)]
    assert len(targets) == len(net.outputs)
    for vertex, target in zip(net.outputs, targets, strict=True):
        value = placed(values[vertex], target.shape, USED)
        assert value.dtype == target.dtype
        assert np.linalg.norm(value - target) <= TOLERANCE[dtype] * np.linalg.norm(target)


@pytest.mark.parametrize("name", ZOO)
def test_gradient_of_every_parameter(name: str) -> None:
    module, net, args, given = converted(name, torch.float64)
    found = outputs(module, args)
    targets = [torch.randn(leaf.shape, generator=torch.Generator().manual_seed(9)).double() for leaf in found]
    loss = sum((0.5 * ((leaf - target) ** 2).sum() for leaf, target in zip(found, targets, strict=True)))
    parameters = dict(module.named_parameters())
    expected = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    observed = {}
    for vertex, target in zip(net.outputs, targets, strict=True):
        axis = target.shape.index(USED)
        observed[vertex] = rows(target.numpy(), axis, net[vertex].shape)
    got = gbn.gradient(net, given | observed)
    assert set(net.parameters) == set(expected)
    for key, gradient in expected.items():
        scale = float(gradient.norm()) or 1.0
        assert np.linalg.norm(got[key] - gradient.numpy()) <= 1e-9 * scale, key


def test_names() -> None:
    """What a user looks for in the models above."""
    net = converted("char_lstm", torch.float64)[1]
    assert {"embed", "lstm.l0.t3.cell", "lstm.l1.t4.hidden", "lstm.l0.t0.gates", "lstm", "head"} <= set(net)
    net = converted("bidirectional_gru", torch.float64)[1]
    assert {"gru.t0.hidden", "gru.reverse.t3.n", "gru", "gru.h_n"} <= set(net)
    net = converted("vision_transformer", torch.float64)[1]
    assert net.outputs == ("head", "weights")
    assert any(net[name].op == "Softmax" and name.startswith("attention.") for name in net)
    assert converted("two_towers", torch.float64)[1].outputs[1:] == ("add", "code")
