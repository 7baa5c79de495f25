"""Keras on PyTorch, in float64, as an oracle for tests; importing it skips a test module where Keras is missing.

Keras is told its backend and where to keep its settings by the environment, which is put back at once.
"""

import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

with tempfile.TemporaryDirectory() as home, mock.patch.dict(os.environ, KERAS_BACKEND="torch", KERAS_HOME=home):
    keras = pytest.importorskip("keras")

from gbn.conversion import convert
from gbn.inference import gradient
from gbn.net import GaussianBayesNet

if keras.backend.backend() != "torch":
    pytest.skip("Keras was loaded with another backend", allow_module_level=True)
# Outside TensorFlow Keras narrows what its operations give to float32, which would blunt the oracle.
_dtypes = importlib.import_module("keras.src.backend.common.dtypes")
_dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
# No other test loads Keras, so that its settings are these tests' own.
keras.config.set_floatx("float64")
keras.config.set_dtype_policy("float64")


@contextmanager
def floats(name: str) -> Iterator[None]:
    """Models built inside have this precision."""
    keras.config.set_floatx(name)
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")


def randomize(model: Any, seed: int = 0) -> None:
    """Variables as training leaves them: no zeros, no ones."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.dtype.startswith("float"):
            low, high = (0.5, 1.5) if "variance" in variable.path else (-0.8, 0.8)
            variable.assign(rng.uniform(low, high, variable.shape))


def converted(model: Any, **options: Any) -> GaussianBayesNet:
    return convert(model, **options)


def batch(model: Any, samples: int, seed: int = 1) -> list[np.ndarray]:
    """One array for each input; whole numbers for those of an integer type."""
    rng = np.random.default_rng(seed)
    arrays = []
    for tensor in model.inputs:
        shape = (samples, *tensor.shape[1:])
        whole = tensor.dtype.startswith("int")
        arrays.append(rng.integers(0, 4, shape) if whole else rng.standard_normal(shape).astype(tensor.dtype))
    return arrays


def results(model: Any, arrays: list[np.ndarray]) -> list[Any]:
    """The model's outputs, in the order of their flattened structure."""
    sequential = isinstance(model, keras.Sequential)
    given = arrays[0] if sequential else keras.tree.pack_sequence_as(model._inputs_struct, arrays)
    return keras.tree.flatten(model(given, training=False))


def given(net: GaussianBayesNet, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {name: x.reshape(len(x), *net[name].shape) for name, x in zip(net.inputs, arrays, strict=True)}


def runs_alike(model: Any, net: GaussianBayesNet, tolerance: float) -> None:
    """The net's outputs are those of the model, at one sample and at three."""
    for samples in (1, 3):
        arrays = batch(model, samples)
        values = net.forward(given(net, arrays))
        expected = results(model, arrays)
        assert len(expected) == len(net.outputs)
        for name, target in zip(net.outputs, expected, strict=True):
            target = target.detach().numpy()
            assert values[name].dtype == target.dtype
            np.testing.assert_allclose(values[name], target, rtol=tolerance, atol=tolerance, err_msg=name)


def gradients_agree(model: Any, net: GaussianBayesNet, tolerance: float) -> None:
    """∂F/∂θ from messages is the gradient of ½ Σ |y - ŷ|² by torch autograd, for every trainable variable."""
    arrays = batch(model, 3)
    outputs = results(model, arrays)
    rng = np.random.default_rng(2)
    targets = [out.detach().numpy() + rng.standard_normal(out.shape) for out in outputs]
    loss = sum(0.5 * ((out - torch.as_tensor(y)) ** 2).sum() for out, y in zip(outputs, targets, strict=True))
    variables = {variable.path: variable for variable in model.trainable_variables}
    assert len(variables) == len(model.trainable_variables)
    found = gradient(net, given(net, arrays) | dict(zip(net.outputs, targets, strict=True)))
    assert {net.source_of(name) for name in found} == set(variables)
    if not variables:
        return
    expected = dict(zip(variables, torch.autograd.grad(loss, [v.value for v in variables.values()]), strict=True))
    for name, g in found.items():
        target = expected[str(net.source_of(name))].numpy()
        assert g.shape == target.shape
        scale = max(1.0, float(np.abs(target).max()))
        np.testing.assert_allclose(g / scale, target / scale, rtol=0, atol=tolerance, err_msg=name)
