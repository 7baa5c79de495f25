"""A ``.keras`` file, read without Keras: a zip of a configuration and of an HDF5 file with the variables.

The file is not trusted.  Nothing in it is run or unpickled; sizes are checked before anything is read, links that lead
out of the file are not followed, and all arrays together hold no more than the file does.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from converters._keras.records import Shape, Variable, Weights, is_operation, kind_of
from converters._plates import Refused
from gbn.errors import ConversionError, MissingDependencyError

__all__ = ["read"]

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MOST_CONFIG = 64 << 20
_REMEDY = "write it again with model.save('name.keras')"


def read(path: Path, max_bytes: int) -> tuple[Mapping[str, Any], Weights]:
    """The serialised model of a file, and its variables.

    Raises:
        ConversionError: damaged, too large, or of another format.
        MissingDependencyError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError("h5py", "keras", "reading a .keras file") from error
    try:
        with zipfile.ZipFile(path) as archive:
            record = json.loads(_member(archive, _CONFIG, min(_MOST_CONFIG, max_bytes)))
            data = _member(archive, _WEIGHTS, max_bytes)
        if not isinstance(record, Mapping):
            raise Refused(f"{_CONFIG} holds no model")
        return record, FileWeights(_Store(h5py.File(io.BytesIO(data), "r"), len(data)), "")
    except Refused as error:
        raise ConversionError(f"{path.name}: {error}; {_REMEDY}") from error
    # Damaged bytes surface as almost any exception of the zip, JSON and HDF5 parsers.
    except Exception as error:
        raise ConversionError(f"{path.name}: not a whole .keras file: {error!s:.200}; {_REMEDY}") from error


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The contents of a member, once its size is known to be allowed."""
    names = [entry.filename for entry in archive.infolist()]
    if names.count(name) != 1:
        raise Refused(f"it has {names.count(name)} members {name!r}, expected one")
    entry = archive.getinfo(name)
    if entry.file_size > most:
        raise Refused(f"its member {name} has {entry.file_size} bytes, expected at most {most}; see max_bytes")
    with archive.open(entry) as file:
        data = file.read(entry.file_size + 1)
    if len(data) != entry.file_size:
        raise Refused(f"its member {name} has not the {entry.file_size} bytes that it declares")
    return data


class _Store:
    """The HDF5 file, and how many bytes may still be read of it."""

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.left = file, size

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Damage that HDF5 meets in the middle of a file surfaces as almost any exception."""
        try:
            yield
        except Refused:
            raise
        except Exception as error:
            raise Refused(f"variables: {what!r} cannot be read: {error!s:.200}") from error

    def names(self, path: str) -> list[str]:
        """What a group holds; nothing where there is no such group."""
        with self._guarded(path):
            group = self._group(path)
            return [] if group is None else list(group)

    def _group(self, path: str) -> Any:
        """The group or dataset at a path, or None; only links inside the file are followed."""
        import h5py

        found = self.file
        for name in path.split("/"):
            link = found.get(name, getlink=True) if isinstance(found, h5py.Group) and name in found else None
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                raise Refused(f"{path!r} of its variables is a link that leads elsewhere, which is not followed")
            found = found[name]
        return found

    def variable(self, path: str, trainable: bool) -> Variable:
        """A dataset that has not been read."""
        with self._guarded(path):
            return self._variable(path, trainable)

    def _variable(self, path: str, trainable: bool) -> Variable:
        import h5py

        dataset = self._group(path)
        if not isinstance(dataset, h5py.Dataset):
            raise Refused(f"variables: {path!r} is missing, or no array")
        if dataset.external or dataset.is_virtual:
            raise Refused(f"variables: {path!r} lies in another file, which is not read")
        shape = dataset.shape
        if shape is None or dataset.dtype.kind not in "fiu":
            raise Refused(f"variables: {path!r} has the type {dataset.dtype}, expected numbers")
        return Variable(path, path, tuple(shape), trainable, lambda: self._read(dataset))

    def _read(self, dataset: Any) -> np.ndarray[Any, Any]:
        if dataset.dtype.kind != "f":
            raise Refused(f"variables: {dataset.name!r} has the type {dataset.dtype}, expected floating-point numbers")
        size = math.prod(dataset.shape) * dataset.dtype.itemsize
        if size > self.left:
            raise Refused(f"variables: {dataset.name!r} with {size} bytes is larger than what the file holds")
        self.left -= size
        with self._guarded(str(dataset.name)):
            return np.asarray(dataset[()])


class FileWeights:
    """The variables under one path of the HDF5 file."""

    def __init__(self, store: _Store, path: str) -> None:
        self.store, self.path = store, path

    def _at(self, *names: str) -> str:
        return "/".join([*([self.path] if self.path else []), *names])

    def own(self, path: str, expected: Mapping[str, Shape]) -> list[Variable]:
        names = sorted(self.store.names(self._at("vars")), key=lambda name: (len(name), name))
        if names != [str(k) for k in range(len(names))]:
            raise Refused(f"variables: got {names[:8]}, expected numbers from 0 on")
        return [self.store.variable(self._at("vars", name), True) for name in names]

    def child(self, attribute: str) -> FileWeights:
        return FileWeights(self.store, self._at(attribute))

    def members(self, records: Sequence[Mapping[str, Any]]) -> list[Weights]:
        """Keras files layers under their classes in snake case, numbered where one occurs again."""
        used: Counter[str] = Counter()
        stores: list[Weights] = []
        for record in records:
            if is_operation(record):
                stores.append(FileWeights(self.store, self._at("layers", "(none)")))
                continue
            name = _snake_case(kind_of(record))
            number = used[name]
            used[name] += 1
            stores.append(FileWeights(self.store, self._at("layers", f"{name}_{number}" if number else name)))
        return stores


def _snake_case(name: str) -> str:
    """A class name as Keras writes it in a path: Conv2DTranspose is conv2d_transpose."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
