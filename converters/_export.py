"""From a PyTorch module to an exported graph whose number of samples is free."""

from __future__ import annotations

import copy
import inspect
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, default_decompositions
from torch.utils import _pytree as pytree

from converters._aten import FREE, RULES, Shape
from gbn.errors import ConversionError, UnsupportedLayer

__all__ = ["Exported", "arguments_of", "evaluation_copy", "export_module", "rows", "wrap_program"]

# Sizes 0 and 1 are special to torch.export; the second, used where the first gets fixed, must differ from it.
_ROWS, _OTHER_ROWS = 3, 5


@dataclass
class Exported:
    """A decomposed graph.

    program: the graph, with its parameters.
    second: the same graph exported with another number of samples, where one export cannot leave it free.
    """

    program: ExportedProgram
    second: dict[str, torch.fx.Node] | None = None

    @property
    def free(self) -> bool:
        """Whether the graph runs with any number of samples."""
        return self.second is None and any(None in self.shape(node) for node in self.placeholders())

    def placeholders(self) -> list[torch.fx.Node]:
        """The nodes of the user's inputs, in call order."""
        names = set(self.program.graph_signature.user_inputs)
        return [node for node in self.program.graph.nodes if node.op == "placeholder" and node.name in names]

    def shape(self, node: torch.fx.Node) -> Shape:
        """Shape of a tensor node; None for the size that varies with the number of samples."""
        sizes = _sizes(node.meta.get("val"))
        if self.second is None:
            return tuple(sizes)
        others = _sizes(self.second[node.name].meta.get("val"))
        return tuple(size if size == other else None for size, other in zip(sizes, others, strict=True))

    def arguments(self, node: torch.fx.Node) -> dict[str, Any]:
        """Arguments by schema name; whatever depends on the number of samples is FREE."""
        first = _bind(node)
        if self.second is None:
            return first
        second = _bind(self.second[node.name])
        return {name: _agreed(value, second[name]) for name, value in first.items()}


def _sizes(value: Any) -> Sequence[int | None]:
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    return [_size(size) for size in value.shape] if isinstance(value, torch.Tensor) else ()


def _size(size: Any) -> int | None:
    """None for a size that is still free; torch leaves some of those it has fixed in symbolic form."""
    if isinstance(size, int):
        return size
    return int(size.node.expr) if size.node.expr.is_number else None


def _bind(node: torch.fx.Node) -> dict[str, Any]:
    schema = node.target._schema.arguments
    given = dict(zip([argument.name for argument in schema], node.args, strict=False)) | node.kwargs
    return {
        argument.name: _plain(
            given.get(argument.name, argument.default_value if argument.has_default_value() else None)
        )
        for argument in schema
    }


def _plain(value: Any) -> Any:
    """Lists as lists, and FREE for a node that is a size rather than a tensor."""
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, torch.fx.Node) and not isinstance(value.meta.get("val"), (torch.Tensor, tuple, list)):
        return FREE
    return value


def _agreed(first: Any, second: Any) -> Any:
    """What two exports have in common: FREE for a number in which they differ."""
    if isinstance(first, torch.fx.Node):
        return first
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [_agreed(a, b) for a, b in zip(first, second, strict=True)]
    return first if first == second else FREE


def arguments_of(module: nn.Module, example: Any) -> tuple[Any, ...]:
    """The example as positional tensors of the module's dtype and device.

    Raises:
        ConversionError: no example, no sample axis, unequal numbers of samples, or NaN and infinities.
    """
    if example is None:
        raise ConversionError(
            "example: got None, but a PyTorch module needs an example batch to trace, e.g. "
            "convert(module, torch.randn(2, 8)), or a tuple of tensors for several inputs"
        )
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    args = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    args = pytree.tree_map(lambda value: _tensor(value, tensors), args)
    counts = {tuple(t.shape[:1]) for t in pytree.tree_leaves(args) if isinstance(t, torch.Tensor)}
    if len(counts) != 1 or () in counts or (0,) in counts:
        shapes = ", ".join(str(tuple(t.shape)) for t in pytree.tree_leaves(args) if isinstance(t, torch.Tensor))
        raise ConversionError(
            f"example: got shapes {shapes or 'of no tensor'}, expected tensors with the same number of samples on "
            "axis 0"
        )
    for number, value in enumerate(pytree.tree_leaves(args)):
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not value.isfinite().all():
            where = tuple((~value.isfinite()).nonzero()[0].tolist())
            raise ConversionError(
                f"example: input {number} is {value[where].item()} at {where}; expected finite numbers, for the net is "
                "checked against the module on them"
            )
    return args


def _tensor(value: Any, like: Sequence[torch.Tensor]) -> Any:
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    tensor = torch.as_tensor(value).detach()
    if not like:
        return tensor
    return tensor.to(like[0].device, like[0].dtype if tensor.is_floating_point() else None)


def rows(args: Any, count: int) -> Any:
    """The example with another number of samples: its rows, in turn."""

    def take(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value[torch.arange(count, device=value.device) % len(value)]

    return pytree.tree_map(take, args)


def evaluation_copy(module: nn.Module) -> nn.Module:
    """The module in evaluation mode: itself where it is, else a copy.

    Raises:
        ConversionError: a layer that behaves differently in training mode is in training mode.
    """
    training = [(path, layer) for path, layer in module.named_modules() if layer.training]
    faults = [
        UnsupportedLayer(path or "(the module)", type(layer).__name__) for path, layer in training if _differs(layer)
    ]
    if faults:
        raise ConversionError(
            "the module is in training mode, where these layers mix the samples or draw at random; call module.eval() "
            "first",
            faults,
        )
    return copy.deepcopy(module).eval() if training else module


def _differs(layer: nn.Module) -> bool:
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return layer.p > 0
    return isinstance(layer, nn.modules.batchnorm._NormBase) and not isinstance(
        layer, nn.modules.instancenorm._InstanceNorm
    )


def export_module(module: nn.Module, args: tuple[Any, ...]) -> Exported:
    """Export and decompose to the operations of the ATen table.

    Raises:
        ConversionError: torch.export cannot trace the module; the message has torch's reason and the layer.
    """
    exported = wrap_program(_export(module, rows(args, _ROWS)))
    if exported.free:
        return exported
    # Some code (len(x), int(x.shape[0])) fixes the number of samples of one export.  What differs between two
    # exports is then what depends on it.
    try:
        other = wrap_program(_export(module, rows(args, _OTHER_ROWS)))
    except ConversionError as error:
        raise ConversionError(
            f"the module fixes the number of samples (it was traced with {_ROWS}, but not with {_OTHER_ROWS}); use -1 "
            f"or x.shape[0] for the sample axis: {error}"
        ) from error
    nodes, others = list(exported.program.graph.nodes), list(other.program.graph.nodes)
    if [(n.name, n.target) for n in nodes[:-1]] != [(n.name, n.target) for n in others[:-1]]:
        raise ConversionError(
            "the module computes different graphs for different numbers of samples; make it independent of x.shape[0]"
        )
    return Exported(exported.program, {node.name: node for node in others})


def wrap_program(program: ExportedProgram) -> Exported:
    """An exported program, decomposed to the operations of the ATen table."""
    table = default_decompositions()
    for overload in list(table):
        namespace, _, packet = overload._schema.name.partition("::")
        if namespace == "aten" and packet in RULES:
            table.pop(overload)
    with warnings.catch_warnings():
        # Torch's own deprecations are not the caller's affair.
        warnings.simplefilter("ignore")
        return Exported(program.run_decompositions(table))


def _export(module: nn.Module, args: tuple[Any, ...]) -> ExportedProgram:
    shapes = _by_signature(
        module, pytree.tree_map(lambda value: {0: Dim.AUTO} if isinstance(value, torch.Tensor) else None, args)
    )
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(module, args, dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises many unrelated types
        raise _untraceable(module, error) from error


def _by_signature(module: nn.Module, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Positional values as torch.export wants them: those that forward gathers in ``*args`` as one tuple."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return values
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*values[:first], tuple(values[first:])) if len(values) > first else values


def _untraceable(module: nn.Module, error: Exception) -> ConversionError:
    lines = [line for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    return ConversionError(
        f"torch.export cannot trace this module on the example: {reason}\n"
        "If the module runs on it, its graph depends on the data: replace `if` and `.item()` on tensors by tensor "
        "operations, or convert the parts of the model that have a fixed graph",
        _where(module, error),
    )


def _where(module: nn.Module, error: Exception) -> list[UnsupportedLayer]:
    """The innermost module that was running when the export failed, with the line of its code."""
    paths = {id(layer): path for path, layer in module.named_modules()}
    found: list[UnsupportedLayer] = []
    cause: BaseException | None = error
    while cause is not None and not found:
        for frame, line in traceback.walk_tb(cause.__traceback__):
            code = frame.f_code
            layer = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
            if isinstance(layer, nn.Module) and id(layer) in paths and code.co_name == "forward":
                place = f"line {line} of {Path(code.co_filename).name}"
                found = [UnsupportedLayer(paths[id(layer)] or "(the module)", type(layer).__name__, place)]
        cause = cause.__cause__ or cause.__context__
    return found
