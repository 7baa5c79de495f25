"""The way back: what a net has learned, as arrays of the model that it came from, and into that model.

Every parameter of a converted net knows its name in the source; ``net.state`` says of the whole source which vertex
holds which of its arrays, other names of tied weights and what the net does not use included.  A framework is one
function here, from a model to its :class:`Slot` s; what is written where is checked in one place for all of them.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from gbn.errors import ConversionError, MissingDependencyError, near_matches
from gbn.net import GaussianBayesNet

__all__ = ["Slot", "load_into", "to_state_dict"]

Array = np.ndarray[Any, Any]
_MOST_BYTES = 4 << 30


@dataclass(frozen=True)
class Slot:
    """A place for one array in a model.

    shape: of the array there.
    put: writes an array of that shape, in the dtype of the place.
    needed: whether a net must have an array for it.
    place: equal for two names of one place; None for a place of its own.
    fault: why nothing can be written there, if so.
    """

    shape: tuple[int, ...]
    put: Callable[[Array], object]
    needed: bool = False
    place: object = None
    fault: str = ""


def to_state_dict(net: GaussianBayesNet, *, tensors: bool = False) -> dict[str, Any]:
    """The arrays of the source model as the net holds them now: name there -> array of the shape and dtype there.

    Every array of the source is in it: frozen ones, buffers, all names of tied weights, and what the net does not use
    as it was when the model was converted.  A weight with a prior is its mean.

    Args:
        tensors: give torch tensors, which ``module.load_state_dict`` wants; numpy arrays otherwise.

    Raises:
        ConversionError: the net was not converted from a model whose arrays have names.
    """
    if not net.source_arrays:
        raise ConversionError(
            "to_state_dict: no parameter of this net comes from a model, so there are no names to give; the arrays "
            "of a net that was built by hand are {name: net[name].value for name in net.parameters}"
        )
    arrays = {name: np.array(_held(net, name), dtype=entry.dtype) for name, entry in net.source_arrays.items()}
    if not tensors:
        return arrays
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("torch", "torch", "a state dict of tensors") from error
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def load_into(target: Any, net: GaussianBayesNet, output: str | PathLike[str] | None = None) -> Any:
    """Write the parameters of a net back into a model of the form that it was converted from.

    All names and shapes are checked before anything is written, so that a model is written whole or not at all.  Arrays
    keep the dtype and the device that they have in the model, frozen ones stay frozen, and what the net does not use
    (counters, the weights of a head that is not called) stays as it is.

    Args:
        target: a ``torch.nn.Module``, a fitted estimator of scikit-learn, a ``keras.Model`` or an
            ``onnx.ModelProto``, changed in place; or the path of an ``.onnx`` or ``.keras`` file, which is only read.
        output: where to write the new file, for a path.

    Returns:
        the model; the path of the new file, for a path.

    Raises:
        ConversionError: the target is of another kind, or does not fit; the message lists every array at fault.
        OSError: a file cannot be read or written.
    """
    if isinstance(target, (str, PathLike)):
        return _load_into_file(Path(target), net, output)
    if output is not None:
        raise ConversionError(
            f"output: got {os.fspath(output)!r}, but a {type(target).__name__} is changed in place; leave it out"
        )
    slots = _reader(target)(target)
    for put, value in _matched(net, slots, type(target).__name__):
        put(value)
    return target


def _load_into_file(path: Path, net: GaussianBayesNet, output: str | PathLike[str] | None) -> Path:
    write = _FILES.get(path.suffix.lower())
    if write is None:
        raise ConversionError(
            f"target: got the path {str(path)!r}, expected an .onnx or .keras file, or a model in memory; load the "
            "model first"
        )
    if output is None:
        raise ConversionError("output: got None, expected the path of the new file: load_into(path, net, output)")
    from gbn.io import write_whole

    data = write(path, net)
    write_whole(output, lambda file: file.write(data))
    return Path(output)


def _onnx_file(path: Path, net: GaussianBayesNet) -> bytes:
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("onnx", "onnx", "writing an ONNX model") from error
    return load_into(onnx.load(path), net).SerializeToString()  # type: ignore[no-any-return]


def _keras_file(path: Path, net: GaussianBayesNet) -> bytes:
    """The zip anew, with other numbers in the arrays of its HDF5 file."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError("h5py", "keras", "writing a .keras file") from error
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > _MOST_BYTES:
                raise ValueError(f"its members hold {size} bytes, expected at most {_MOST_BYTES}")
            members = {entry: archive.read(entry) for entry in archive.infolist()}
        (weights,) = (entry for entry in members if entry.filename == "model.weights.h5")
        held = io.BytesIO(members[weights])
        file = h5py.File(held, "r+")
        slots = _hdf5_slots(file)
    # Damaged bytes surface as almost any exception of the zip and HDF5 parsers.
    except Exception as error:
        raise ConversionError(f"{path.name}: not a whole .keras file: {error}") from error
    with file:
        for put, value in _matched(net, slots, f"file {path.name}"):
            put(value)
    members[weights] = held.getvalue()
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for entry, data in members.items():
            archive.writestr(entry, data)
    return whole.getvalue()


def _hdf5_slots(file: Any) -> dict[str, Slot]:
    """Arrays of numbers in the file itself: neither links nor what lies in other files."""
    import h5py

    slots = {}

    def enter(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None and not (item.external or item.is_virtual):
            kind = "" if item.dtype.kind == "f" else f"its dtype is {item.dtype}, expected floating-point numbers"
            slots[name] = Slot(item.shape, partial(item.__setitem__, ...), fault=kind)

    file.visititems(enter)
    return slots


_FILES: dict[str, Callable[[Path, GaussianBayesNet], bytes]] = {".onnx": _onnx_file, ".keras": _keras_file}


def _held(net: GaussianBayesNet, name: str) -> Array:
    entry = net.source_arrays[name]
    value = entry.value if entry.vertex is None else net.vertices[entry.vertex].value
    return value  # type: ignore[return-value]


def _matched(
    net: GaussianBayesNet, slots: Mapping[str, Slot], kind: str
) -> list[tuple[Callable[[Array], object], Array]]:
    """What to write where.  Raises ConversionError with every name, shape and tie that does not fit."""
    held = {name: _held(net, name) for name, entry in net.source_arrays.items() if entry.vertex is not None}
    lacking = [name for name, slot in slots.items() if slot.needed and name not in net.source_arrays]
    faults = [f"{name}: the net has no array for it" for name in lacking]
    written: dict[object, str] = {}
    todo = []
    for name, value in held.items():
        slot = slots.get(name)
        if slot is None:
            faults.append(f"{name}: the {kind} has no such array; {near_matches(name, slots)}")
            continue
        first = written.setdefault(name if slot.place is None else slot.place, name)
        if not _alike(slot.shape, value.shape):
            faults.append(f"{name}: got shape {value.shape} in the net, expected {slot.shape}")
        elif slot.fault:
            faults.append(f"{name}: {slot.fault}")
        elif not np.array_equal(held[first], value):
            faults.append(f"{name}: one array with {first} in the {kind}, and two that differ in the net")
        else:
            todo.append((slot.put, value.reshape(slot.shape)))
    if held and not held.keys() & slots.keys():
        faults.append(
            "no name of the net is known there: where the net comes from a file, write a new file with "
            "load_into(path, net, output), and load the new one"
        )
    if faults:
        raise ConversionError("\n  - ".join([f"the net does not fit this {kind}, and nothing was written:", *faults]))
    if not todo:
        raise ConversionError(
            f"the net has nothing to write into a {kind}: none of its parameters comes from a model; convert the "
            "model with gbn.convert"
        )
    return todo


def _alike(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two shapes differ in axes of size 1 alone, which leave the order of the entries as it is."""
    return [size for size in a if size != 1] == [size for size in b if size != 1]


def _torch_slots(module: Any) -> dict[str, Slot]:
    import torch

    def put(tensor: Any, value: Array) -> None:
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.array(value)))

    def fault(tensor: Any) -> str:
        if tensor.is_meta or tensor.is_inference():
            return "a tensor on the meta device or made in inference mode, which cannot be written; make it a plain one"
        return "" if tensor.is_floating_point() else f"its dtype is {tensor.dtype}, expected floating-point numbers"

    return {
        name: Slot(
            tuple(tensor.shape),
            partial(put, tensor),
            needed=True,
            place=(tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) if tensor.numel() else None,
            fault=fault(tensor),
        )
        for name, tensor in module.state_dict(keep_vars=True).items()
        if isinstance(tensor, torch.Tensor)
    }


def _sklearn_slots(estimator: Any) -> dict[str, Slot]:
    """Fitted attributes, ``name_`` or ``name_[k]`` where they are lists, that are arrays of numbers.

    Of a pipeline those of its predictor, for what the steps before it have learned are constants of the net.
    """
    if hasattr(estimator, "steps"):
        steps = [step for _, step in estimator.steps if step is not None and not isinstance(step, str)]
        return _sklearn_slots(steps[-1]) if steps else {}
    slots = {}
    fitted_names = ("coef", "intercept") if getattr(estimator, "fit_intercept", True) else ("coef",)
    for attribute, fitted in vars(estimator).items():
        if not attribute.endswith("_") or attribute.startswith("_"):
            continue
        several = isinstance(fitted, list)
        for k, value in enumerate(fitted if several else [fitted]):
            if np.asarray(value).dtype.kind != "f":
                continue
            if isinstance(value, np.ndarray) and value.ndim:
                # In place, for an optimiser may hold on to the array.
                put: Callable[[Array], object] = partial(np.copyto, value, casting="same_kind")
                fault = "" if value.flags.writeable else "a read-only array; fit or copy the estimator first"
            else:
                put, fault = partial(_set_number, estimator, attribute, type(value)), ""
            name = f"{attribute}[{k}]" if several else attribute
            needed = attribute.startswith(fitted_names)
            slots[name] = Slot(np.shape(value), put, needed, fault=fault)
    return slots


def _set_number(estimator: Any, attribute: str, kind: type, value: Array) -> None:
    setattr(estimator, attribute, kind(value) if issubclass(kind, (float, np.generic)) else value)


def _keras_slots(model: Any) -> dict[str, Slot]:
    trainable = {id(variable) for variable in model.trainable_variables}
    return {
        variable.path: Slot(tuple(variable.shape), variable.assign, needed=id(variable) in trainable)
        for variable in model.variables
    }


def _onnx_slots(model: Any) -> dict[str, Slot]:
    """Initialisers by name, and constants by the name of their output."""
    from onnx import TensorProto, helper, numpy_helper

    numbers = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)

    def put(tensor: Any, value: Array) -> None:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        tensor.CopyFrom(numpy_helper.from_array(value.astype(dtype), tensor.name))

    def tensors() -> Iterator[tuple[str, Any]]:
        for node in model.graph.node:
            if node.op_type == "Constant":
                yield from ((node.output[0], a.t) for a in node.attribute if a.name == "value")
        yield from ((tensor.name, tensor) for tensor in model.graph.initializer)

    def fault(tensor: Any) -> str:
        kind = TensorProto.DataType.Name(tensor.data_type)
        return "" if tensor.data_type in numbers else f"its dtype is {kind}, expected floating-point numbers"

    return {n: Slot(tuple(tensor.dims), partial(put, tensor), fault=fault(tensor)) for n, tensor in tensors()}


# (package, class) of a base -> its slots.  A Keras model is a layer, and may be a module of torch as well: it is first.
_READERS: dict[tuple[str, str], Callable[[Any], dict[str, Slot]]] = {
    ("keras", "Layer"): _keras_slots,
    ("torch", "Module"): _torch_slots,
    ("sklearn", "BaseEstimator"): _sklearn_slots,
    ("onnx", "ModelProto"): _onnx_slots,
}


def _reader(target: Any) -> Callable[[Any], dict[str, Slot]]:
    """The function for a model, told by the names of its bases alone."""
    bases = {(base.__module__.partition(".")[0], base.__name__) for base in type(target).__mro__}
    for key, slots in _READERS.items():
        if key in bases:
            return slots
    raise ConversionError(
        f"target: got {type(target).__name__}, expected a torch.nn.Module, an estimator of scikit-learn, a "
        "keras.Model, an onnx.ModelProto, or the path of an .onnx or .keras file"
    )
