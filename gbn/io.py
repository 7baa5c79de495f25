"""Save and load a net: one versioned ``.gbn`` file without pickles.

The file is an uncompressed zip of ``net.json``, the header, and ``arrays/0.npy``, ``arrays/1.npy``, ..., the values and
covariances that the header names by number.  Everything comes back bit for bit, memory layout included.

A file is read as if a stranger had made it.  Every claim of the header is checked, sizes before anything is allocated
for them, and the net is built by its own methods, so that a loaded net is one that could have been built by hand.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any

import numpy as np

from gbn import ops
from gbn.container import TOO_LARGE, Container, Refusal, checked_shape, opened, parse, whole_file, write
from gbn.errors import GraphError
from gbn.gaussian import Covariance
from gbn.net import GaussianBayesNet, Vertex
from gbn.ops.footprint import entries, footprint

__all__ = ["load", "save"]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Record = dict[str, Any]

FORMAT, VERSION = "gbn", 1
_HEADER = "net.json"
_DTYPES = ("float16", "float32", "float64", "float128")

_NET_FIELDS: dict[str, tuple[type, ...]] = {
    "format": (str,),
    "version": (int,),
    "dtype": (str,),
    "noises": (list,),
    "vertices": (list,),
    "outputs": (list, NoneType),
}
_NOISE_FIELDS: dict[str, tuple[type, ...]] = {"name": (str,), "event": (list,), "form": (str,), "value": (dict,)}
_VERTEX_FIELDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "kind": (str,),
    "shape": (list,),
    "plated": (bool,),
    "parents": (list,),
    "op": (str, NoneType),
    "attributes": (dict,),
    "noise": (str, NoneType),
    "value": (dict, NoneType),
    "trainable": (bool,),
    "source": (str, NoneType),
}
_ARRAY_FIELDS: dict[str, tuple[type, ...]] = {"array": (int,), "axes": (list,)}
# What each kind of vertex has of: a value, an op, parents, attributes, noise ("may" where both are right).
_KINDS: dict[str, dict[str, str]] = {
    "input": {"value": "may", "op": "no", "parents": "no", "attributes": "no", "noise": "may"},
    "parameter": {"value": "yes", "op": "no", "parents": "no", "attributes": "no", "noise": "may"},
    "constant": {"value": "yes", "op": "no", "parents": "no", "attributes": "no", "noise": "no"},
    "op": {"value": "no", "op": "yes", "parents": "yes", "attributes": "may", "noise": "may"},
    "likelihood": {"value": "no", "op": "yes", "parents": "yes", "attributes": "no", "noise": "no"},
}


def save(net: GaussianBayesNet, path: str | os.PathLike[str]) -> None:
    """Write a net to one ``.gbn`` file; equal nets give equal files.

    The file appears whole or not at all: it is written beside its place and then moved there.

    Raises:
        GraphError: an attribute of an op is not a number, a text, None, or a list or tuple of such.
        OSError: the file cannot be written; what was there before is still there.
    """
    header, arrays = _describe(net)
    with whole_file(path) as file:
        write(file, _HEADER, header, arrays)


def load(path: str | os.PathLike[str], *, max_bytes: int = 4 << 30) -> GaussianBayesNet:
    """Read a net that :func:`save` wrote.  Nothing in the file is executed.

    Ops are tried out on two samples, as when a net is built by hand, so loading costs about three forward passes.

    Args:
        max_bytes: the most memory that the file's arrays may take, and that one sample of all vertices may take.

    Raises:
        FileFormatError: truncated, damaged, of another format or version, inconsistent, or larger than ``max_bytes``.
        OSError: there is no such file, or it cannot be read.
    """
    return opened(path, _HEADER, "a .gbn file", max_bytes, lambda container: _read(container, max_bytes))


def _describe(net: GaussianBayesNet) -> tuple[Record, list[Array]]:
    """The header, and the arrays it names by number."""
    arrays: list[Array] = []

    def number(array: Array) -> Record:
        # Axes in the order of memory: the same layout gives the same roundings in later products.
        axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        arrays.append(np.ascontiguousarray(array.transpose(axes)).reshape(array.transpose(axes).shape))
        return {"array": len(arrays) - 1, "axes": axes}

    header = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": net.dtype.name,
        "noises": [
            {"name": name, "event": list(q.event), "form": q.form, "value": number(q.value)}
            for name, q in net.noises.items()
        ],
        "vertices": [_vertex_record(vertex, number) for vertex in net.vertices.values()],
        "outputs": None if net._outputs is None else list(net._outputs),
    }
    return header, arrays


def _vertex_record(vertex: Vertex, number: Callable[[Array], Record]) -> Record:
    return {
        "name": vertex.name,
        "kind": vertex.kind,
        "shape": [int(size) for size in vertex.shape],
        "plated": bool(vertex.plated),
        "parents": list(vertex.parents),
        "op": vertex.op,
        "attributes": {key: _encoded(value, vertex.name, key) for key, value in vertex.attributes.items()},
        "noise": vertex.noise,
        "value": None if vertex.value is None else number(vertex.value),
        "trainable": bool(vertex.trainable),
        "source": vertex.source,
    }


def _encoded(value: Any, vertex: str, key: str) -> Any:
    """An attribute as JSON; a tuple stays one."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, tuple):
        return {"tuple": _encoded(list(value), vertex, key)}
    if isinstance(value, list):
        return [_encoded(item, vertex, key) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise GraphError(
        f"{vertex!r}: attribute {key!r} is of type {type(value).__name__}, which a file cannot hold; "
        "expected a number, a text, None, or a list or tuple of such"
    )


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        _fields(value, {"tuple": (list,)}, "a tuple")
        return tuple(_decoded(value["tuple"]))
    return [_decoded(item) for item in value] if isinstance(value, list) else value


def _read(container: Container, max_bytes: int) -> GaussianBayesNet:
    header = _checked_header(container.header)
    stored = _Arrays(container)
    net = GaussianBayesNet(_dtype(header["dtype"]))
    noises = _read_noises(header["noises"], stored)
    _check_sizes(net, header["vertices"], max_bytes)
    for record in header["vertices"]:
        _add_vertex(net, record, noises, stored, max_bytes)
    # The builders refuse a vertex named as a noise, which all noises of single vertices are.
    net.noises = noises
    stored.check_all_used()
    _set_outputs(net, header["outputs"])
    return net


def _checked_header(header: Any) -> Record:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise Refusal("a header without its format", f'"format": "{FORMAT}"')
    version = header.get("version")
    if type(version) is not int or version != VERSION:
        remedy = "upgrade gaussian-bayes-net, or save the net again with this version of it"
        raise Refusal(f"format version {version!r:.40}", f"version {VERSION}", remedy)
    _fields(header, _NET_FIELDS, "the header")
    return header


def _dtype(name: str) -> np.dtype[Any]:
    if name not in _DTYPES or not hasattr(np, name):
        raise Refusal(f"dtype {name!r:.40}", "one of " + ", ".join(d for d in _DTYPES if hasattr(np, d)))
    return np.dtype(name)


def _fields(record: Any, fields: Mapping[str, tuple[type, ...]], where: str) -> None:
    """Refuse a record that has not exactly these fields, each of one of its types (True is no integer)."""
    if not isinstance(record, dict) or record.keys() != fields.keys():
        got = f"the fields {sorted(record)}" if isinstance(record, dict) else type(record).__name__
        raise Refusal(f"{where} with {got:.200}", f"the fields {sorted(fields)}")
    for key, types in fields.items():
        if type(record[key]) not in types:
            names = " or ".join(t.__name__ for t in types)
            raise Refusal(f"{key!r} of {where} of type {type(record[key]).__name__}", names)


class _Arrays:
    """The arrays of a file, each read when it is taken, and once."""

    def __init__(self, container: Container) -> None:
        self.container, self.unused = container, set(range(container.count))

    def take(self, reference: Record, dtype: np.dtype[Any], where: str) -> Array:
        _fields(reference, _ARRAY_FIELDS, f"array of {where}")
        index, axes = reference["array"], reference["axes"]
        if index not in self.unused:
            raise Refusal(f"array {index} for {where}", "the number of an array that nothing else takes")
        self.unused.remove(index)
        array = parse(self.container.array_bytes(index), dtype, where)
        if any(type(axis) is not int for axis in axes) or sorted(axes) != list(range(array.ndim)):
            raise Refusal(f"axes {axes!r:.100} of {where}", f"an order of {array.ndim} axes")
        if not np.isfinite(array).all():
            raise Refusal(f"NaN or infinity in {where}", "finite numbers")
        return array.transpose(np.argsort(axes))

    def check_all_used(self) -> None:
        if self.unused:
            raise Refusal(f"{len(self.unused)} arrays that no vertex takes", "a use for each")


def _read_noises(records: Sequence[Any], stored: _Arrays) -> dict[str, Covariance]:
    noises: dict[str, Covariance] = {}
    for record in records:
        _fields(record, _NOISE_FIELDS, "a noise")
        name, event = record["name"], checked_shape(record["event"], "noise with event")
        where = f"noise {name!r:.80}"
        value = stored.take(record["value"], np.dtype(np.float64), where)
        diagonal = record["form"] == "diagonal"
        if name in noises or (diagonal and value.shape != event):
            raise Refusal(f"{where} of shape {value.shape}", f"{event}, and once")
        # Over an event without axes, a number in the diagonal form looks like the scalar one unless it is flat.
        noises[name] = Covariance(value.reshape(-1) if diagonal else value, event, name)
        if noises[name].form != record["form"]:
            raise Refusal(f"{where} of form {record['form']!r:.40}", repr(noises[name].form))
    return noises


def _check_sizes(net: GaussianBayesNet, records: Sequence[Any], max_bytes: int) -> None:
    """Refuse vertices of which one sample would not fit, before any is built."""
    total = 0
    for record in records:
        _fields(record, _VERTEX_FIELDS, "a vertex")
        total += entries(checked_shape(record["shape"], f"shape of {record['name']!r:.80}"))
    if total * net.dtype.itemsize > max_bytes:
        got = f"vertices of {total * net.dtype.itemsize} bytes a sample"
        raise Refusal(got, f"at most {max_bytes}", TOO_LARGE)


def _add_vertex(
    net: GaussianBayesNet, record: Record, noises: Mapping[str, Covariance], stored: _Arrays, max_bytes: int
) -> None:
    where = f"vertex {record['name']!r:.80}"
    _check_parts(record, where)
    _check_references(net, record, noises, where)
    value = None if record["value"] is None else stored.take(record["value"], net.dtype, where)
    shape = tuple(record["shape"])
    if value is not None and value.shape != shape:
        raise Refusal(f"an array of shape {value.shape} for {where}", f"its shape, {shape}")
    try:
        _build(net, record, value, max_bytes)
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(f"{where}, which cannot be built ({error})", "a vertex that net.add would take") from error
    _complete(net, record, value, where)


def _check_parts(record: Record, where: str) -> None:
    """Refuse a vertex that has parts its kind has not, or lacks some."""
    if record["kind"] not in _KINDS:
        raise Refusal(f"{where} of kind {record['kind']!r:.40}", " or ".join(_KINDS))
    for part, wanted in _KINDS[record["kind"]].items():
        present = record[part] not in (None, [], {})
        if wanted != "may" and present != (wanted == "yes"):
            article = "an" if record["kind"] in ("input", "op") else "a"
            raise Refusal(f"{where}, {article} {record['kind']} with{'' if present else 'out'} {part}", "the opposite")


def _check_references(net: GaussianBayesNet, record: Record, noises: Mapping[str, Covariance], where: str) -> None:
    for parent in record["parents"]:
        if type(parent) is not str or parent not in net.vertices:
            raise Refusal(f"{where} with parent {parent!r:.80}", "a vertex that comes before it")
    if record["noise"] is not None:
        noise = noises.get(record["noise"])
        if noise is None or noise.event != tuple(record["shape"]):
            raise Refusal(f"{where} with noise {record['noise']!r:.80}", f"a noise over {tuple(record['shape'])}")


def _build(net: GaussianBayesNet, record: Record, value: Array | None, max_bytes: int) -> None:
    """Add the vertex by the net's own methods, which check what they are given."""
    name, kind = record["name"], record["kind"]
    if kind == "input":
        net.add_input(name, record["shape"])
    elif kind == "parameter":
        net.add_parameter(name, value)
    elif kind == "constant":
        net.add_constant(name, value)
    elif kind == "likelihood":
        net.add_likelihood(name, record["op"], *record["parents"])
    else:
        attributes = {key: _decoded(item) for key, item in record["attributes"].items()}
        _check_run(net, record, attributes, max_bytes)
        net.add(name, record["op"], record["parents"], **attributes)


def _complete(net: GaussianBayesNet, record: Record, value: Array | None, where: str) -> None:
    """Set what the builders do not, and compare the rest with what they made."""
    vertex, shape, noise = net.vertices[record["name"]], tuple(record["shape"]), record["noise"]
    if vertex.shape != shape:
        raise Refusal(f"{where} of shape {shape}", f"{vertex.shape}, what its op gives")
    # An op of shared vertices has samples once it was given noise, and keeps them when the noise is taken away.
    plated = record["plated"] if vertex.kind == "op" and noise is None else vertex.plated or vertex.kind == "op"
    if record["plated"] != plated or (vertex.plated and not plated):
        raise Refusal(f"{where} with plated {record['plated']}", str(not record["plated"]))
    if vertex.kind == "input" and noise is not None and value is None:
        raise Refusal(f"{where}, an input with noise but no mean", "both or none")
    mean = vertex.value if vertex.kind != "input" or value is None else _frozen(value)
    net.vertices[vertex.name] = replace(
        vertex, plated=plated, noise=noise, value=mean, trainable=record["trainable"], source=record["source"]
    )


def _frozen(value: Array) -> Array:
    value = np.array(value)
    value.flags.writeable = False
    return value


def _set_outputs(net: GaussianBayesNet, names: Sequence[Any] | None) -> None:
    for name in names or ():
        if type(name) is not str or name not in net.vertices:
            raise Refusal(f"output {name!r:.80}", "a vertex")
    if names is not None:
        net.set_outputs(names)


def _check_run(net: GaussianBayesNet, record: Record, attributes: Mapping[str, Any], max_bytes: int) -> None:
    """Refuse an op whose trial run would need more memory than what the file declares allows."""
    where = f"vertex {record['name']!r:.80}"
    if record["op"] not in ops.OPS:
        raise Refusal(f"{where} with op {record['op']!r:.80}", "an op of gbn.ops.OPS", "register it before loading")
    entry = ops.get(record["op"])
    entry.check(len(record["parents"]), list(attributes))
    for key, value in attributes.items():
        _check_attribute(entry, key, value, where)
    parents = [net.vertices[parent] for parent in record["parents"]]
    shapes = [(2, *parent.shape) if parent.plated else parent.shape for parent in parents]
    needed = footprint(entry.name, shapes, attributes)
    declared = entries(record["shape"]) * (2 if any(parent.plated for parent in parents) else 1)
    if needed and needed[0] != declared:
        raise Refusal(f"{where} with {declared} entries in two samples", f"the {needed[0]} that its op gives")
    total = sum(needed) + 2 * declared + 2 * sum(map(entries, shapes))
    if total * net.dtype.itemsize > max_bytes:
        got = f"{where}, which needs {total * net.dtype.itemsize} bytes for two samples"
        raise Refusal(got, f"at most {max_bytes}", TOO_LARGE)


def _check_attribute(entry: ops.Op, key: str, value: Any, where: str) -> None:
    """Refuse an attribute of another type than its default: a list for a number would broadcast."""
    default = inspect.signature(entry.function).parameters[key].default
    for kind in (str, int | float):
        if isinstance(default, kind) and not isinstance(value, kind):
            raise Refusal(f"{where} with {key}={value!r:.80}", f"the type of its default, {default!r}")
