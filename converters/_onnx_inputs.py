"""Which sizes the inputs of an ONNX model have, and where they hold the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from gbn.errors import ConversionError, UnsupportedLayer, near_matches

__all__ = ["Mixed", "input_sizes"]

Sizes = dict[str, list[int | None]]


class Mixed(ConversionError):
    """The sizes of the inputs are fixed, and not to one number of samples."""


def input_sizes(
    model: onnx.ModelProto, example: Any, sample_axis: int | Sequence[int | None] | None
) -> tuple[Sizes, int | None]:
    """Shapes of the inputs, None at the axis of the samples, and the number of samples that they were fixed for.

    Raises:
        ConversionError: inputs that are no tensors, or have sizes that neither the model nor the example gives.
        Mixed: axes of samples of fixed and different sizes.
    """
    given = {tensor.name for tensor in model.graph.initializer}
    given |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    infos = [info for info in model.graph.input if info.name not in given]
    axes = list(sample_axis) if isinstance(sample_axis, Sequence) else [sample_axis] * len(infos)
    if len(axes) != len(infos):
        raise ConversionError(f"sample_axis: got {len(axes)} axes, expected one for each of {len(infos)} inputs")
    examples = _shapes(infos, example)
    faults: list[UnsupportedLayer] = []
    dims = {
        info.name: _dims(info, axis, examples.get(info.name), faults) for info, axis in zip(infos, axes, strict=True)
    }
    if faults:
        raise ConversionError("the inputs of the model cannot be converted", faults)
    places = {name: _axis(name, dims[name], axis) for name, axis in zip(dims, axes, strict=True)}
    sampled = {name: dims[name][axis] for name, axis in places.items() if axis is not None}
    fixed = {name: size for name, size in sampled.items() if isinstance(size, int)}
    for name, size in fixed.items():
        # Beside inputs for any number of samples, one of fixed size is no row for each; one row serves all.
        if len(fixed) < len(sampled) and size != 1:
            places[name] = None
    found: Sizes = {
        name: [None if k == places[name] else _known(name, k, size, faults) for k, size in enumerate(sizes)]
        for name, sizes in dims.items()
    }
    if faults:
        raise ConversionError(
            "inputs have axes of any size, where a net has a fixed event; give an example, whose sizes are taken",
            faults,
        )
    if len(fixed) < len(sampled) or not fixed:
        return found, None
    if len(set(fixed.values())) > 1:
        listed = ", ".join(f"{name!r}: {count}" for name, count in fixed.items())
        raise Mixed(f"the axes of the samples are fixed to different sizes ({listed}), so they hold no samples")
    return found, next(iter(fixed.values()))


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
    info: onnx.ValueInfoProto, axis: int | None, example: tuple[int, ...] | None, faults: list[UnsupportedLayer]
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
        return ["samples" if k == _place(axis, len(example)) else size for k, size in enumerate(example)]
    sizes: list[int | str] = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]
    if any(isinstance(size, int) and size < 1 for size in sizes):
        faults.append(UnsupportedLayer(info.name, "input", f"its shape is {tuple(sizes)}; sizes must be positive"))
    if example is None:
        return sizes
    # The number of samples in an example says nothing about the model's.
    place = _place(axis, len(sizes))
    pairs = [(a, b) for k, (a, b) in enumerate(zip(sizes, example, strict=False)) if k != place]
    if len(example) != len(sizes) or any(isinstance(a, int) and a != b for a, b in pairs):
        faults.append(UnsupportedLayer(info.name, "input", f"the example has the shape {example}, it {tuple(sizes)}"))
        return sizes
    return [a if k == place or isinstance(a, int) else b for k, (a, b) in enumerate(zip(sizes, example, strict=True))]


def _place(axis: int | None, rank: int) -> int | None:
    return None if axis is None else axis % max(rank, 1)
