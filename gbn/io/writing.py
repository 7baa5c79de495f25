"""From a net to the header and the arrays of its file."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np

from gbn.errors import GraphError
from gbn.io import archive
from gbn.io.archive import Array, Record
from gbn.net import GaussianBayesNet, Vertex

__all__ = ["FORMAT", "VERSION", "save", "to_bytes"]

FORMAT, VERSION = "gbn", 1


def save(net: GaussianBayesNet, path: str | os.PathLike[str]) -> None:
    """Write a net to one ``.gbn`` file; equal nets give equal files.

    The file appears whole or not at all: it is written beside its place and then moved there.

    Raises:
        GraphError: an attribute of an op is not a number, a text, None, or a list or tuple of such.
        OSError: the file cannot be written; what was there before is still there.
    """
    header, arrays = _describe(net)
    archive.write_whole(path, lambda file: archive.write(file, header, arrays))


def to_bytes(net: GaussianBayesNet) -> bytes:
    """What :func:`save` writes.

    Raises:
        GraphError: as there.
    """
    file = BytesIO()
    archive.write(file, *_describe(net))
    return file.getvalue()


def _describe(net: GaussianBayesNet) -> tuple[Record, list[Array]]:
    """The header, and the arrays it names by number."""
    arrays: list[Array] = []

    def number(array: Array) -> Record:
        # Axes in the order of memory: the same layout gives the same roundings in later products.
        axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        arrays.append(np.ascontiguousarray(array.transpose(axes)).reshape(array.transpose(axes).shape))
        return {"array": len(arrays) - 1, "axes": axes}

    header: Record = {
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
    if net._sources:
        header["sources"] = [
            {
                "name": name,
                "dtype": entry.dtype.name,
                "vertex": entry.vertex,
                "value": None if entry.value is None else number(entry.value),
            }
            for name, entry in net._sources.items()
        ]
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
