"""From a file to a net, built by the net's own methods once every claim of the header is checked."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from types import NoneType
from typing import IO, Any

import numpy as np

from gbn import ops
from gbn.errors import FileFormatError
from gbn.gaussian import Covariance
from gbn.io.archive import DAMAGED, TOO_LARGE, Array, Arrays, Record, Refusal, check_fields, open_archive, shape_of
from gbn.io.writing import FORMAT, VERSION
from gbn.net import GaussianBayesNet
from gbn.ops.footprint import entries, footprint
from gbn.source import SourceArray

__all__ = ["from_bytes", "load"]

_DTYPES = ("float16", "float32", "float64", "float128")
# What a model keeps beside its weights: counters, masks.
_COUNTS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_SOURCE_DTYPES = (*_DTYPES, *_COUNTS, "bool", "complex64", "complex128")

_NET_FIELDS: dict[str, tuple[type, ...]] = {
    "format": (str,),
    "version": (int,),
    "dtype": (str,),
    "noises": (list,),
    "vertices": (list,),
    "outputs": (list, NoneType),
}
# Only nets that were converted have it.
_MORE_NET_FIELDS: dict[str, tuple[type, ...]] = {"sources": (list,)}
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
_SOURCE_FIELDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "dtype": (str,),
    "vertex": (str, NoneType),
    "value": (dict, NoneType),
}
# What each kind of vertex has of: a value, an op, parents, attributes, noise ("may" where both are right).
_KINDS: dict[str, dict[str, str]] = {
    "input": {"value": "may", "op": "no", "parents": "no", "attributes": "no", "noise": "may"},
    "parameter": {"value": "yes", "op": "no", "parents": "no", "attributes": "no", "noise": "may"},
    "constant": {"value": "yes", "op": "no", "parents": "no", "attributes": "no", "noise": "no"},
    "op": {"value": "no", "op": "yes", "parents": "yes", "attributes": "may", "noise": "may"},
    "likelihood": {"value": "no", "op": "yes", "parents": "yes", "attributes": "no", "noise": "no"},
}


def load(path: str | os.PathLike[str], *, max_bytes: int = 4 << 30) -> GaussianBayesNet:
    """Read a net that :func:`save` wrote.  Nothing in the file is executed.

    Ops are tried out on two samples, as when a net is built by hand, so loading costs about three forward passes.

    Args:
        max_bytes: the most memory that the file's arrays may take, and that one sample of all vertices may take.

    Raises:
        FileFormatError: truncated, damaged, of another format or version, inconsistent, or larger than ``max_bytes``.
        OSError: there is no such file, or it cannot be read.
    """
    with open(path, "rb") as file:
        return _checked(file, os.fspath(path), max_bytes)


def from_bytes(data: bytes, *, max_bytes: int = 4 << 30) -> GaussianBayesNet:
    """The net of :func:`gbn.io.to_bytes`, read as carefully as a file.

    Raises:
        FileFormatError: as :func:`load`.
    """
    return _checked(BytesIO(data), "the net's bytes", max_bytes)


def _checked(file: IO[bytes], name: Any, max_bytes: int) -> GaussianBayesNet:
    try:
        return _read(file, max_bytes)
    except Refusal as refusal:
        raise FileFormatError(f"{name}: {refusal}") from None
    # Damaged bytes surface as almost any exception of the zip, number and text parsers below.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:300].rstrip(": ")
        raise FileFormatError(f"{name}: got {reason}, expected a .gbn file; {DAMAGED}") from error


def _read(file: IO[bytes], max_bytes: int) -> GaussianBayesNet:
    header, stored = open_archive(file, max_bytes)
    _check_header(header)
    net = GaussianBayesNet(_dtype(header["dtype"], _DTYPES))
    noises = _read_noises(header["noises"], stored)
    _check_sizes(net, header["vertices"], max_bytes)
    for record in header["vertices"]:
        _add_vertex(net, record, noises, stored, max_bytes)
    # The builders refuse a vertex named as a noise, which all noises of single vertices are.
    net.noises = noises
    for record in header.get("sources", ()):
        _add_source(net, record, stored)
    stored.check_all_used()
    _set_outputs(net, header["outputs"])
    return net


def _check_header(header: Any) -> None:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise Refusal("a header without its format", f'"format": "{FORMAT}"')
    version = header.get("version")
    if type(version) is not int or version != VERSION:
        remedy = "upgrade gaussian-bayes-net, or save the net again with this version of it"
        raise Refusal(f"format version {version!r:.40}", f"version {VERSION}", remedy)
    check_fields(header, _NET_FIELDS | {k: v for k, v in _MORE_NET_FIELDS.items() if k in header}, "the header")


def _dtype(name: str, known: Sequence[str]) -> np.dtype[Any]:
    if name not in known or not hasattr(np, name):
        raise Refusal(f"dtype {name!r:.40}", "one of " + ", ".join(d for d in known if hasattr(np, d)))
    return np.dtype(name)


def _read_noises(records: Sequence[Any], stored: Arrays) -> dict[str, Covariance]:
    noises: dict[str, Covariance] = {}
    for record in records:
        check_fields(record, _NOISE_FIELDS, "a noise")
        name, event = record["name"], shape_of(record["event"], "noise with event")
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
        check_fields(record, _VERTEX_FIELDS, "a vertex")
        total += entries(shape_of(record["shape"], f"shape of {record['name']!r:.80}"))
    if total * net.dtype.itemsize > max_bytes:
        got = f"vertices of {total * net.dtype.itemsize} bytes a sample"
        raise Refusal(got, f"at most {max_bytes}", TOO_LARGE)


def _add_vertex(
    net: GaussianBayesNet, record: Record, noises: Mapping[str, Covariance], stored: Arrays, max_bytes: int
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
        raise Refusal(f"{where}, which cannot be built ({error!s:.300})", "a vertex that net.add would take") from error
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


def _add_source(net: GaussianBayesNet, record: Record, stored: Arrays) -> None:
    """Record an array of the converted model: one of a vertex, or one that the net does not use."""
    check_fields(record, _SOURCE_FIELDS, "a source")
    name, holder = record["name"], record["vertex"]
    where, dtype = f"source {name!r:.80}", _dtype(record["dtype"], _SOURCE_DTYPES)
    if name in net._sources or (holder is None) == (record["value"] is None):
        raise Refusal(f"{where} twice, or with a vertex and an array or neither", "one of each, once")
    if holder is None:
        value = stored.take(record["value"], dtype, where, finite=False)
        net._sources[name] = SourceArray(dtype, value=_frozen(value))
        return
    if holder not in net.vertices or net.vertices[holder].kind not in ("parameter", "constant"):
        raise Refusal(f"{where} held by {holder!r:.80}", "a parameter or constant")
    net._sources[name] = SourceArray(dtype, holder)


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


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        check_fields(value, {"tuple": (list,)}, "a tuple")
        return tuple(_decoded(value["tuple"]))
    return [_decoded(item) for item in value] if isinstance(value, list) else value
