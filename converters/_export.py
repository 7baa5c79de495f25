"""From a PyTorch module to an exported graph whose number of samples is free."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, default_decompositions
from torch.nn.modules import transformer
from torch.utils import _pytree as pytree

from converters._aten import ODD, RULES, Samples, Sizes
from converters._in_place import made_of_rules
from converters._opaque import whole_layers
from gbn.errors import ConversionError, UnsupportedLayer

__all__ = [
    "Exported",
    "arguments_of",
    "axes_of",
    "evaluation_copy",
    "export_module",
    "leaves",
    "rows",
    "wrap_program",
]

# Sizes 0 and 1 are special to torch.export; the second, used where the first gets fixed, must differ from it.
_ROWS, _OTHER_ROWS = 3, 5


@dataclass
class Exported:
    """A decomposed graph.

    program: the graph, with its parameters.
    axes: for each input, its axis of samples (None: it has none).
    second: the same graph exported with another number of samples, where one export cannot leave it free.
    """

    program: ExportedProgram
    axes: tuple[int | None, ...]
    second: dict[str, torch.fx.Node] | None = None

    @property
    def free(self) -> bool:
        """Whether the graph runs with any number of samples."""
        pairs = zip(self.placeholders(), self.axes, strict=True)
        return self.second is None and any(k is not None and self.shape(n)[k : k + 1] == (Samples(),) for n, k in pairs)

    @property
    def baked(self) -> int | None:
        """The number of samples that the graph was fixed for."""
        if self.second is not None or self.free:
            return None
        pairs = zip(self.placeholders(), self.axes, strict=True)
        counts = [self.shape(node)[axis] for node, axis in pairs if axis is not None]
        return int(counts[0]) if counts and isinstance(counts[0], int) else None

    def placeholders(self) -> list[torch.fx.Node]:
        """The nodes of the user's inputs that are tensors, in call order."""
        names = set(self.program.graph_signature.user_inputs)
        nodes = [node for node in self.program.graph.nodes if node.op == "placeholder" and node.name in names]
        return [node for node in nodes if isinstance(node.meta.get("val"), torch.Tensor)]

    def shape(self, node: torch.fx.Node, index: int = 0) -> Sizes:
        """Shape of a tensor node (of one of its results), with the number of samples symbolic."""
        sizes = [_measured(size) for size in _sizes(node.meta.get("val"), index)]
        if self.second is None:
            return tuple(sizes)
        others = _sizes(self.second[node.name].meta.get("val"), index)
        return tuple(_agreed(size, _measured(other)) for size, other in zip(sizes, others, strict=True))

    def arguments(self, node: torch.fx.Node) -> dict[str, Any]:
        """Arguments by schema name, sizes that depend on the number of samples in symbols."""
        first = _bind(node)
        if self.second is None:
            return first
        second = _bind(self.second[node.name])
        return {name: _agreed(value, second[name]) for name, value in first.items()}


def _sizes(value: Any, index: int = 0) -> Sequence[Any]:
    value = value[index] if isinstance(value, (tuple, list)) and value else value
    return value.shape if isinstance(value, torch.Tensor) else ()


def _measured(size: Any) -> Any:
    """A size as a number or a multiple of the number of samples; torch leaves some fixed ones in symbolic form."""
    if isinstance(size, (int, float)) or not hasattr(size, "node"):
        return size
    expression = size.node.expr
    if expression.is_number:
        return int(expression)
    first, second = (expression.subs(dict.fromkeys(expression.free_symbols, n)) for n in (_ROWS, _OTHER_ROWS))
    return _agreed(*(int(e) if e.is_integer else float(e) for e in (first, second)))


def _bind(node: torch.fx.Node) -> dict[str, Any]:
    if not hasattr(node.target, "_schema"):
        return {}
    schema = node.target._schema.arguments
    given = dict(zip([argument.name for argument in schema], node.args, strict=False)) | node.kwargs
    return {
        argument.name: _plain(
            given.get(argument.name, argument.default_value if argument.has_default_value() else None)
        )
        for argument in schema
    }


def _plain(value: Any) -> Any:
    """Lists as lists, and a node that is a size rather than a tensor as that size."""
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, torch.fx.Node) and not isinstance(value.meta.get("val"), (torch.Tensor, tuple, list)):
        return _measured(value.meta.get("val"))
    return value


def _agreed(first: Any, second: Any) -> Any:
    """What a graph with 3 and one with 5 samples have in common: numbers that follow them are symbols."""
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [_agreed(a, b) for a, b in zip(first, second, strict=True)]
    if isinstance(first, torch.fx.Node) or first == second:
        return first
    if type(first) is int and type(second) is int and first * _OTHER_ROWS == second * _ROWS and first % _ROWS == 0:
        return Samples(first // _ROWS)
    return ODD


def arguments_of(module: nn.Module, example: Any, sample_axis: Any) -> tuple[tuple[Any, ...], tuple[int | None, ...]]:
    """The example as positional tensors of the module's dtype and device, and the axis of samples of each.

    Raises:
        ConversionError: no example, no sample axis, unequal numbers of samples, or NaN and infinities.
    """
    if example is None:
        raise ConversionError(
            "example: got None, but a PyTorch module needs an example batch to trace, e.g. "
            "convert(module, torch.randn(2, 8)), or a tuple of tensors for several inputs"
        )
    floats = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    args = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    args = pytree.tree_map(lambda value: _tensor(value, floats), args)
    tensors = leaves(args)
    axes = axes_of([t.dim() for t in tensors], sample_axis)
    counts = {t.shape[axis] for t, axis in zip(tensors, axes, strict=True) if axis is not None}
    if len(counts) > 1 or 0 in counts or not tensors:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        where = "axis 0" if sample_axis == 0 else f"sample_axis={sample_axis!r}"
        raise ConversionError(
            f"example: got shapes {shapes or 'of no tensor'}, expected tensors with the same number of samples on "
            f"{where}"
        )
    _demand_finite(tensors)
    return args, axes


def _demand_finite(tensors: Sequence[torch.Tensor]) -> None:
    for number, value in enumerate(tensors):
        if value.is_floating_point() and not value.isfinite().all():
            where = tuple((~value.isfinite()).nonzero()[0].tolist())
            raise ConversionError(
                f"example: input {number} is {value[where].item()} at {where}; expected finite numbers, for the net is "
                "checked against the module on them"
            )


def axes_of(ranks: Sequence[int], sample_axis: Any) -> tuple[int | None, ...]:
    """The axis of samples of each input, from one for all or a sequence with one for each.

    Raises:
        ConversionError: of the wrong number, or an axis that an input does not have.
    """
    given = list(sample_axis) if isinstance(sample_axis, (tuple, list)) else [sample_axis] * len(ranks)
    if len(given) != len(ranks):
        raise ConversionError(f"sample_axis: got {len(given)} axes, expected one for each of {len(ranks)} inputs")
    for axis, rank in zip(given, ranks, strict=True):
        if axis is not None and (type(axis) is not int or not -rank <= axis < rank):
            raise ConversionError(
                f"sample_axis: got {axis!r} for an input with {rank} axes, where expected tensors with the number of "
                "samples on one of them; give an axis for each input, and None for those without samples"
            )
    return tuple(None if axis is None else axis % rank for axis, rank in zip(given, ranks, strict=True))


def leaves(args: Any) -> list[torch.Tensor]:
    """The tensors of an example, in call order."""
    return [value for value in pytree.tree_leaves(args) if isinstance(value, torch.Tensor)]


def _tensor(value: Any, like: Sequence[torch.Tensor]) -> Any:
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    tensor = torch.as_tensor(value).detach()
    if not like:
        return tensor
    return tensor.to(like[0].device, like[0].dtype if tensor.is_floating_point() else None)


def rows(args: Any, axes: Sequence[int | None], count: int) -> Any:
    """The example with another number of samples: its own, in turn."""
    remaining = iter(axes)

    def take(value: Any) -> Any:
        axis = next(remaining) if isinstance(value, torch.Tensor) else None
        if axis is None:
            return value
        return value.index_select(axis, torch.arange(count, device=value.device) % value.shape[axis])

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


def export_module(module: nn.Module, args: tuple[Any, ...], axes: tuple[int | None, ...]) -> Exported:
    """Export and decompose to the operations of the ATen table.

    Raises:
        ConversionError: torch.export cannot trace the module; the message has torch's reason and the layer.
    """
    exported = wrap_program(_export(module, rows(args, axes, _ROWS), axes), axes)
    if exported.free or all(axis is None for axis in axes):
        return exported
    # Some code (len(x), int(x.shape[0])) fixes the number of samples of one export.  What differs between two
    # exports is then what depends on it.
    try:
        other = wrap_program(_export(module, rows(args, axes, _OTHER_ROWS), axes), axes)
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
    return Exported(exported.program, axes, {node.name: node for node in others})


def wrap_program(program: ExportedProgram, axes: tuple[int | None, ...]) -> Exported:
    """An exported program, decomposed to the operations of the ATen table; left alone where it is made of them."""
    if made_of_rules(program):
        return Exported(program, axes)
    table = default_decompositions()
    for overload in list(table):
        namespace, _, packet = overload._schema.name.partition("::")
        if namespace == "aten" and packet in RULES:
            table.pop(overload)
    with _quiet():
        return Exported(program.run_decompositions(table), axes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch's own deprecations, log lines and printed graphs are not the caller's affair; its exceptions say enough."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _in_parts() -> Iterator[None]:
    """Attention as its parts rather than torch's fused kernels, and masks as they are given.

    Transformer layers ask whether a mask is causal by its values, which no export can answer; the answer only chooses
    between kernels.
    """
    fast, detect = torch.backends.mha.get_fastpath_enabled(), transformer._detect_is_causal_mask
    torch.backends.mha.set_fastpath_enabled(False)
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: is_causal is True
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        transformer._detect_is_causal_mask = detect


def _export(module: nn.Module, args: tuple[Any, ...], axes: Sequence[int | None]) -> ExportedProgram:
    remaining = iter(axes)

    def free(value: Any) -> Any:
        axis = next(remaining) if isinstance(value, torch.Tensor) else None
        return None if axis is None else {axis: Dim.AUTO}

    shapes = _by_signature(module, pytree.tree_map(free, args))
    try:
        with _quiet(), _in_parts(), whole_layers(), torch.no_grad():
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
