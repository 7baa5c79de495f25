"""The PyTorch route end to end: export, build, and compare the net with the module."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from converters._export import arguments_of, evaluation_copy, export_module, rows, wrap_program
from converters._graph import Builder
from gbn.errors import ConversionError
from gbn.net import GaussianBayesNet

__all__ = ["convert_module", "convert_program"]

_CHECK_ROWS = 2
_TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def convert_module(module: nn.Module, example: Any) -> GaussianBayesNet:
    """Convert a module, tracing it with an example."""
    args = arguments_of(module, example)
    module = evaluation_copy(module)
    exported = export_module(module, args)
    builder = Builder(exported, {path: type(layer).__name__ for path, layer in module.named_modules()})
    net = builder.build()
    _compare(builder, module, rows(args, _CHECK_ROWS))
    return net


def convert_program(program: ExportedProgram, example: Any) -> GaussianBayesNet:
    """Convert an exported program; the example, where it has one, is what the net is checked with."""
    exported = wrap_program(program)
    builder = Builder(exported, {})
    net = builder.build()
    module = program.module()
    if example is not None:
        args = arguments_of(module, example)
    elif program.example_inputs is not None:
        args = program.example_inputs[0]
    else:
        return net
    _compare(builder, module, rows(args, _CHECK_ROWS) if exported.free else args)
    return net


def _compare(builder: Builder, module: nn.Module, args: Any) -> None:
    """Raise ConversionError where the net's forward pass is not the module's."""
    net = builder.net
    with torch.no_grad():
        expected = [t for t in pytree.tree_leaves(module(*args)) if isinstance(t, torch.Tensor)]
    tensors = [t for t in pytree.tree_leaves(args) if isinstance(t, torch.Tensor)]
    given = {
        name: t.detach().cpu().numpy().astype(net.dtype).reshape(len(t), *net[name].shape)
        for name, t in zip(net.inputs, tensors, strict=True)
    }
    values, _ = net.evaluate(given, len(tensors[0]))
    gaps = [_gap(values[name], t) for name, t in zip(net.outputs, expected, strict=True)]
    if all(gap <= _TOLERANCE[net.dtype.name] for gap in gaps):
        return
    first = _first_difference(builder, tensors, values)
    raise ConversionError(
        f"the converted net does not compute what the model does: its outputs {list(net.outputs)} differ by "
        f"{', '.join(f'{gap:.1e}' for gap in gaps)} relative to their norms"
        + (f"; first at {first!r}" if first else "")
    )


def _gap(value: Any, expected: torch.Tensor) -> float:
    """Relative to the norm; infinite for another shape."""
    target = expected.detach().cpu().numpy()
    if value.shape != target.shape:
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
    for node, name in builder.vertex.items():
        value = recorder.env.get(node)
        if isinstance(value, torch.Tensor) and _gap(values[name], value) > tolerance:
            return name
    return None
