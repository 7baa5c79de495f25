"""ONNX files as untrusted input: the model, and its tensors as arrays.

The model's own message is parsed by the onnx package; weights that lie beside it are read here.  Their place is checked
before a file is opened, and every size before memory is taken for it.
"""

from __future__ import annotations

import math
import stat
from os import PathLike
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from gbn.errors import ConversionError

__all__ = ["CONSTANT_LIMIT", "LIMIT", "array_of", "load", "sparse_array_of"]

Array = np.ndarray[Any, Any]

# Entries that a result may have, for one sample, where its operands have fewer: what is read has its bytes in a file.
LIMIT = 1 << 26
# The same for a constant that the graph computes, which may be a weight.
CONSTANT_LIMIT = 1 << 27
_KIND = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
    # numpy has no bfloat16: its bits are the upper half of a float32's.
    TensorProto.BFLOAT16: np.uint16,
    TensorProto.INT8: np.int8,
    TensorProto.INT16: np.int16,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
    TensorProto.UINT8: np.uint8,
    TensorProto.UINT16: np.uint16,
    TensorProto.UINT32: np.uint32,
    TensorProto.UINT64: np.uint64,
    TensorProto.BOOL: np.bool_,
}
# The field that holds the entries where they are not in raw_data.
_FIELD = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def load(obj: Any) -> tuple[onnx.ModelProto, Path | None]:
    """The model of a path, of bytes, or itself; and the folder where its external data is.

    Raises:
        ConversionError: no ONNX model, or one without a graph.
    """
    folder = None
    if isinstance(obj, (str, PathLike)):
        path = Path(obj)
        folder = path.parent
        try:
            obj = path.read_bytes()
        except OSError as error:
            raise ConversionError(f"{path.name}: cannot be read ({error})") from error
    if isinstance(obj, (bytes, bytearray, memoryview)):
        model = onnx.ModelProto()
        try:
            model.ParseFromString(bytes(obj))
        except (DecodeError, ValueError, RuntimeError) as error:
            raise ConversionError(f"not an ONNX model, or a damaged one: {error}") from error
        obj = model
    if not obj.HasField("graph") or not obj.graph.output:
        raise ConversionError("not an ONNX model: it has no graph with outputs; export the model again")
    return obj, folder


def array_of(tensor: TensorProto, folder: Path | None) -> Array:
    """The entries of a tensor; half precision is widened to float32.

    Raises:
        ConversionError: a type that holds no plain numbers, data that is not as long as its shape says, or external
            data outside the model's folder.
    """
    name = tensor.name or "a constant"
    if any(size < 0 for size in tensor.dims):
        raise ConversionError(f"tensor {name!r}: got the shape {tuple(tensor.dims)}, expected no negative sizes")
    if tensor.data_type not in _KIND:
        raise ConversionError(f"tensor {name!r}: {_type_name(tensor.data_type)} holds no plain numbers")
    if tensor.HasField("segment"):
        raise ConversionError(f"tensor {name!r}: it is a segment of a larger one, which is not supported")
    dtype = np.dtype(_KIND[tensor.data_type])
    count = math.prod(tensor.dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        values = _external(tensor, folder, count, dtype)
    elif tensor.HasField("raw_data"):
        _check_length(name, tensor.dims, len(tensor.raw_data), count * dtype.itemsize, "bytes")
        values = np.frombuffer(tensor.raw_data, dtype.newbyteorder("<")).astype(dtype)
    else:
        values = _typed(tensor, count, dtype)
    return _widened(values, tensor.data_type).reshape(tuple(tensor.dims))


def sparse_array_of(tensor: onnx.SparseTensorProto, folder: Path | None) -> Array:
    """A sparse tensor, filled up with zeros."""
    name = tensor.values.name
    shape = tuple(tensor.dims)
    values, indices = array_of(tensor.values, folder).reshape(-1), array_of(tensor.indices, folder)
    if any(size < 1 for size in shape) or math.prod(shape) > CONSTANT_LIMIT:
        raise ConversionError(
            f"sparse tensor {name!r}: got the shape {shape}, expected at most {CONSTANT_LIMIT} entries"
        )
    if indices.ndim == 2 and indices.shape[1] == len(shape):
        places = tuple(indices.T)
    elif indices.ndim == 1:
        places = np.unravel_index(indices, shape) if _within(indices, math.prod(shape)) else ()
    else:
        places = ()
    if len(places) != len(shape) or not all(_within(p, size) for p, size in zip(places, shape, strict=True)):
        raise ConversionError(f"sparse tensor {name!r}: its indices do not fit its shape {shape}")
    dense = np.zeros(shape, values.dtype)
    dense[places] = values
    return dense


def _within(indices: Array, size: int) -> bool:
    return not indices.size or (indices.min() >= 0 and indices.max() < size)


def _widened(values: Array, data_type: int) -> Array:
    if data_type == TensorProto.BFLOAT16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32) if data_type == TensorProto.FLOAT16 else values


def _typed(tensor: TensorProto, count: int, dtype: np.dtype[Any]) -> Array:
    field = getattr(tensor, _FIELD.get(tensor.data_type, "int32_data"))
    _check_length(tensor.name or "a constant", tensor.dims, len(field), count, "entries")
    if tensor.data_type in _HALVES:
        return np.array(field, dtype=np.uint16).view(dtype)
    try:
        return np.asarray(numpy_helper.to_array(tensor)).reshape(-1)
    except (ValueError, TypeError, OverflowError) as error:
        raise ConversionError(f"tensor {tensor.name!r}: its data cannot be read ({error})") from error


def _check_length(name: str, dims: Any, got: int, expected: int, unit: str) -> None:
    if got != expected:
        raise ConversionError(
            f"tensor {name!r}: got {got} {unit} of data for the shape {tuple(dims)}, expected {expected}; the file is "
            "damaged or incomplete"
        )


def _type_name(number: int) -> str:
    known = TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(number)) if number in known else f"data type {number}"


def _external(tensor: TensorProto, folder: Path | None, count: int, dtype: np.dtype[Any]) -> Array:
    """Read what lies in a file beside the model."""
    name = tensor.name or "a constant"
    given = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = _number(name, given, "offset", 0), _number(name, given, "length", count * dtype.itemsize)
    _check_length(name, tensor.dims, length, count * dtype.itemsize, "bytes")
    path = _beside(name, given.get("location", ""), folder)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if offset + length > size:
                raise ConversionError(
                    f"tensor {name!r}: bytes {offset} to {offset + length} of {path.name!r}, which has {size}; the "
                    "file is damaged or incomplete"
                )
            file.seek(offset)
            values = np.fromfile(file, dtype.newbyteorder("<"), count)
    except OSError as error:
        raise ConversionError(f"tensor {name!r}: its data {path.name!r} cannot be read ({error})") from error
    _check_length(name, tensor.dims, len(values), count, "entries")
    return values.astype(dtype, copy=False)


def _number(name: str, given: dict[str, str], key: str, default: int) -> int:
    text = given.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ConversionError(f"tensor {name!r}: {key} of its external data: got {text[:40]!r}, expected a number")
    return int(text)


def _beside(name: str, location: str, folder: Path | None) -> Path:
    """The file at ``location``, which must be a plain one inside the model's folder, links resolved."""
    if folder is None:
        raise ConversionError(f"tensor {name!r}: its data is in the file {location!r}; convert the model by its path")
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    outside = posix.is_absolute() or windows.is_absolute() or bool(windows.drive) or ".." in windows.parts
    if not location or "\0" in location or outside:
        raise ConversionError(
            f"tensor {name!r}: the location of its data, {location!r}, is not a path inside the model's folder"
        )
    root = folder.resolve()
    try:
        path = (root / location).resolve(strict=True)
        plain = stat.S_ISREG(path.stat().st_mode)
    except (OSError, RuntimeError) as error:
        raise ConversionError(f"tensor {name!r}: its data {location!r} cannot be read ({error})") from error
    if not path.is_relative_to(root) or not plain:
        raise ConversionError(
            f"tensor {name!r}: the location of its data, {location!r}, leads outside the model's folder or to no file"
        )
    return path
