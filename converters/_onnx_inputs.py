"""Which sizes the inputs of an ONNX model have, and where they hold the samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from gbn.errors import ConversionError, UnsupportedLayer, near_matches

__all__ = ["Mixed", "input_sizes"]

Sizes = dict[str, list[int | None]]


class Mixed(ConversionError):
    """The sizes of the inputs are fixed, and not to one number of samples."""


def input_sizes(model: onnx.ModelProto, example: Any, sample_axis: int | None) -> tuple[Sizes, int | None]:
    """Shapes of the inputs, None at the axis of the samples, and the number of samples that they were fixed for.

    Raises:
        ConversionError: inputs that are no tensors, or have sizes that neither the model nor the example gives.
        Mixed: axes of samples of fixed and different sizes.
    """
    given = {tensor.name for tensor in model.graph.initializer}
    given |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    infos = [info for info in model.graph.input if info.name not in given]
    examples = _shapes(infos, example)
    faults: list[UnsupportedLayer] = []
    dims = {info.name: _dims(info, examples.get(info.name), faults) for info in infos}
    if faults:
        raise ConversionError("the inputs of the model cannot be converted", faults)
    fixed = {name: _fixed(sizes, sample_axis) for name, sizes in dims.items()} if sample_axis is not None else {}
    found: Sizes = {name: [] for name in dims}
    for name, sizes in dims.items():
        axis = _axis(name, sizes, sample_axis)
        # Beside inputs for any number of samples, one of fixed size is no row for each; one row serves all.
        if axis is not None and None in fixed.values() and fixed[name] not in (None, 1):
            axis = None
        found[name] = [None if k == axis else _known(name, k, size, faults) for k, size in enumerate(sizes)]
    if faults:
        raise ConversionError(
            "inputs have axes of any size, where a net has a fixed event; give an example, whose sizes are taken", faults
        )
    counts = {count for name, count in fixed.items() if dims[name]}
    if None in counts or not counts:
        return found, None
    if len(counts) > 1:
        listed = ", ".join(f"{name!r}: {count}" for name, count in fixed.items())
        raise Mixed(f"axis {sample_axis} of the inputs is fixed to different sizes ({listed}), so it holds no samples")
    (count,) = counts
    return found, count


def _known(name: str, axis: int, size: int | str, faults: list[UnsupportedLayer]) -> int:
    if isinstance(size, int):
        return size
    faults.append(UnsupportedLayer(name, "input", f"axis {axis} has the size {size or 'of no name'!r}"))
    return 1


def _axis(name: str, sizes: list[int | str], sample_axis: int | None) -> int | None:
    if sample_axis is None or not sizes:
        return None
    if not -len(sizes) <= sample_axis < len(sizes):
        raise ConversionError(f"sample_axis: got {sample_axis}, but the input {name!r} has {len(sizes)} axes")
    return sample_axis % len(sizes)


def _fixed(sizes: list[int | str], sample_axis: int) -> int | None:
    """The size of the axis of samples where it is fixed."""
    if not -len(sizes) <= sample_axis < len(sizes):
        return None if sizes else 1
    size = sizes[sample_axis]
    return size if isinstance(size, int) else None


def _shapes(infos: list[onnx.ValueInfoProto], example: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of an example, by the names of the inputs."""
    if example is None:
        return {}
    names = [info.name for info in infos]
    if isinstance(example, Mapping):
        for name in example:
            if name not in names:
                raise ConversionError(f"example: got the input {name!r}; {near_matches(name, names)}")
        return {name: np.shape(value) for name, value in example.items()}
    values = example if isinstance(example, (tuple, list)) and not np.isscalar(example[0]) else (example,)
    if len(values) != len(names):
        raise ConversionError(f"example: got {len(values)} arrays, expected one for each of the inputs {names}")
    return {name: np.shape(value) for name, value in zip(names, values, strict=True)}


def _dims(
    info: onnx.ValueInfoProto, example: tuple[int, ...] | None, faults: list[UnsupportedLayer]
) -> list[int | str]:
    """Sizes of an input: numbers, or names of what varies; those of the example where the model leaves them open."""
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        faults.append(UnsupportedLayer(info.name, "input", f"a {kind or 'value without a type'} is no tensor"))
        return []
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        if example is None:
            faults.append(UnsupportedLayer(info.name, "input", "the model gives no shape for it; give an example"))
            return []
        return ["samples", *example[1:]]
    sizes: list[int | str] = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]
    if any(isinstance(size, int) and size < 1 for size in sizes):
        faults.append(UnsupportedLayer(info.name, "input", f"its shape is {tuple(sizes)}; sizes must be positive"))
    if example is None:
        return sizes
    pairs = list(zip(sizes, example, strict=False))
    if len(example) != len(sizes) or any(isinstance(a, int) and a != b for a, b in pairs[1:]):
        faults.append(UnsupportedLayer(info.name, "input", f"the example has the shape {example}, it {tuple(sizes)}"))
        return sizes
    # The first axis of an example counts its samples, which says nothing about the model's.
    return sizes[:1] + [a if isinstance(a, int) else b for a, b in pairs[1:]]
