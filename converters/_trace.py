"""The PyTorch route end to end: export, build, and compare the net with the module."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from converters._export import (
    Exported,
    arguments_of,
    axes_of,
    evaluation_copy,
    export_module,
    leaves,
    rows,
    wrap_program,
)
from converters._graph import Builder
from converters._plates import OUTSIDE, Value
from gbn.errors import ConversionError
from gbn.net import GaussianBayesNet

__all__ = ["convert_module", "convert_program"]

_CHECK_ROWS = 2
_TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def convert_module(module: nn.Module, example: Any, sample_axis: Any) -> GaussianBayesNet:
    """Convert a module, tracing it with an example."""
    args, axes = arguments_of(module, example, sample_axis)
    module = evaluation_copy(module)
    exported = export_module(module, args, axes)
    builder = Builder(exported, {path: type(layer).__name__ for path, layer in module.named_modules()})
    net = builder.build()
    _compare(builder, module, rows(args, axes, _CHECK_ROWS))
    return net


def convert_program(program: ExportedProgram, example: Any, sample_axis: Any) -> GaussianBayesNet:
    """Convert an exported program; the example, where it has one, is what the net is checked with.

    A program of fixed shapes that mixes its samples is converted as a function of its whole inputs, with a warning.
    """
    try:
        return _convert_program(program, example, sample_axis)
    except ConversionError as error:
        if sample_axis is None or _is_free(program):
            raise
        try:
            net = _convert_program(program, example, None)
        except ConversionError:
            raise error from None
        warnings.warn(
            f"the program has fixed shapes and does not treat axis {sample_axis} of its inputs as samples, so the "
            f"whole of each input is one sample of the net, as with sample_axis=None: {error}",
            stacklevel=5,
        )
        return net


def _is_free(program: ExportedProgram) -> bool:
    """Whether any size of its inputs is open; torch leaves some fixed ones in symbolic form."""
    exported = Exported(program, ())
    return any(not isinstance(size, int) for node in exported.placeholders() for size in exported.shape(node))


def _convert_program(program: ExportedProgram, example: Any, sample_axis: Any) -> GaussianBayesNet:
    axes = axes_of([node.meta["val"].dim() for node in Exported(program, ()).placeholders()], sample_axis)
    exported = wrap_program(program, axes)
    builder = Builder(exported, {})
    net = builder.build()
    module = program.module()
    if example is not None:
        args, axes = arguments_of(module, example, sample_axis)
    elif program.example_inputs is not None:
        args = program.example_inputs[0]
    else:
        return net
    _compare(builder, module, rows(args, axes, _CHECK_ROWS) if exported.free else args)
    return net


def _compare(builder: Builder, module: nn.Module, args: Any) -> None:
    """Raise ConversionError where the net's forward pass is not the module's."""
    net, plates = builder.net, builder.plates
    with torch.no_grad():
        expected = leaves(module(*args))
    given = {
        name: plates.rows(value, _array(tensor, net))
        for name, value, tensor in zip(net.inputs, builder.inputs, leaves(args), strict=True)
    }
    samples = next((len(rows_) for rows_ in given.values()), 1)
    if any(value.layout == OUTSIDE for value in builder.inputs):
        given = {name: np.repeat(v, samples // len(v), axis=0) for name, v in given.items()}
    values, _ = net.evaluate({n: v.reshape(samples, *net[n].shape) for n, v in given.items()}, samples)
    gaps = [
        _gap(plates.source(value, values[name]), tensor)
        for name, value, tensor in zip(net.outputs, builder.outputs, expected, strict=True)
    ]
    if all(gap <= _TOLERANCE[net.dtype.name] for gap in gaps):
        return
    first = _first_difference(builder, leaves(args), values)
    raise ConversionError(
        f"the converted net does not compute what the model does: its outputs {list(net.outputs)} differ by "
        f"{', '.join(f'{gap:.1e}' for gap in gaps)} relative to their norms"
        + (f"; first at {first!r}" if first else "")
    )


def _array(tensor: torch.Tensor, net: GaussianBayesNet) -> np.ndarray[Any, Any]:
    return tensor.detach().cpu().numpy().astype(net.dtype)


def _gap(value: Any, expected: torch.Tensor) -> float:
    """Relative to the norm; infinite for another shape."""
    target = expected.detach().cpu().numpy()
    if value.shape != target.shape and np.broadcast_shapes(value.shape, target.shape) != target.shape:
        return float("inf")
    scale = float(np.linalg.norm(target)) or 1.0
    gap = float(np.linalg.norm(value - target)) / scale
    return gap if np.isfinite(gap) else float("inf")


class _Recorder(torch.fx.Interpreter):
    """Runs the exported graph and keeps the value of every node."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)


def _first_difference(builder: Builder, tensors: list[torch.Tensor], values: dict[str, Any]) -> str | None:
    """The first vertex whose value is not that of its node; None where the graph cannot be replayed."""
    program = builder.program
    signature = program.graph_signature
    inputs = iter(tensors)
    flat = [
        program.state_dict.get(s.target, program.constants.get(s.target)) if s.target else next(inputs, None)
        for s in signature.input_specs
    ]
    recorder = _Recorder(program.graph_module)
    try:
        with torch.no_grad():
            recorder.run(*flat)
    except Exception:  # a diagnosis must not hide the error that it is for
        return None
    tolerance = _TOLERANCE[builder.net.dtype.name]
    for node, value in builder.values.items():
        found = recorder.env.get(node)
        if not isinstance(value, Value) or not isinstance(value.handle, str) or not isinstance(found, torch.Tensor):
            continue
        if value.plated and _gap(builder.plates.source(value, values[value.handle]), found) > tolerance:
            return value.handle
    return None
