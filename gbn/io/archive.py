"""The container: a zip of one header and numbered arrays, of which nothing is believed before it is checked."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import secrets
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from gbn.errors import GraphError

__all__ = [
    "DAMAGED",
    "TOO_LARGE",
    "Array",
    "Arrays",
    "Record",
    "Refusal",
    "Shape",
    "check_fields",
    "open_archive",
    "shape_of",
    "write",
    "write_whole",
]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Record = dict[str, Any]

_HEADER = "net.json"
_MAGIC = b"PK\x03\x04"
_HEADER_BYTES = 64 << 20
_RANK = 32
DAMAGED = "the file is truncated, damaged or not written by gbn: save the net again with net.save(path)"
TOO_LARGE = "if you trust the file, give load a larger max_bytes"
_ARRAY_FIELDS: dict[str, tuple[type, ...]] = {"array": (int,), "axes": (list,)}


class Refusal(Exception):
    """A claim of a file that does not hold."""

    def __init__(self, got: str, expected: str, remedy: str = DAMAGED) -> None:
        super().__init__(f"got {got}, expected {expected}; {remedy}")


def write_whole(path: str | os.PathLike[str], fill: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its place and move it there, so that it appears whole or not at all.

    Raises:
        OSError: the file cannot be written; what was there before is still there.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder; make it first", str(target.parent))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder, expected the name of a file", os.fspath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.gbn.tmp")
    try:
        with open(temporary, "xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write(file: IO[bytes], header: Record, arrays: Sequence[Array]) -> None:
    """Write the header and the arrays that it names by number."""
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    if len(text) > _HEADER_BYTES:
        raise GraphError(f"too many vertices for one file: a header of {len(text)} bytes, not {_HEADER_BYTES}")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(_HEADER), text)
        for index, array in enumerate(arrays):
            portable = array.astype(array.dtype.newbyteorder("<"), copy=False)
            with archive.open(zipfile.ZipInfo(_member(index)), "w", force_zip64=array.nbytes > 1 << 30) as member:
                npy.write_array(member, portable, version=(1, 0), allow_pickle=False)


def _member(index: int) -> str:
    return f"arrays/{index}.npy"


def open_archive(file: IO[bytes], max_bytes: int) -> tuple[Record, Arrays]:
    """The header and the arrays of an open file, of which names and sizes are in order."""
    magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        raise Refusal(f"a file that begins with {magic!r}", f"a .gbn file, which begins with {_MAGIC!r}")
    archive = zipfile.ZipFile(file)
    count = _check_members(archive, max_bytes, os.fstat(file.fileno()).st_size)
    header = json.loads(_contents(archive, _HEADER).decode("utf-8", "surrogatepass"))
    return header, Arrays(archive, count)


def _check_members(archive: zipfile.ZipFile, max_bytes: int, file_size: int) -> int:
    """The number of arrays, once the members' names and declared sizes are in order."""
    members = archive.infolist()
    count = len(members) - 1
    if sorted(info.filename for info in members) != sorted([_HEADER, *map(_member, range(count))]):
        raise Refusal(f"{len(members)} members of other names", f"{_HEADER!r} and {_member(0)!r} onwards, once each")
    # Without compression no member is larger than the file: what is read has been paid for on disk.
    if any(info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size for info in members):
        raise Refusal("compressed members", "members stored as they are")
    total = sum(info.file_size for info in members)
    if total > file_size:
        raise Refusal(f"members of {total} bytes in a file of {file_size}", "no more than the file has")
    text = archive.getinfo(_HEADER).file_size
    if text > _HEADER_BYTES:
        raise Refusal(f"a header of {text} bytes", f"at most {_HEADER_BYTES}")
    if total - text > max_bytes:
        raise Refusal(f"arrays of {total - text} bytes", f"at most {max_bytes}", TOO_LARGE)
    return count


def _contents(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's bytes, no more than its checked size, and its checksum tested."""
    size = archive.getinfo(name).file_size
    with archive.open(name) as member:
        data = member.read(size)
        if len(data) != size or member.read(1):
            raise Refusal(f"other than {size} bytes in {name!r}", "as many as the zip's directory says")
    return data


def check_fields(record: Any, fields: Mapping[str, tuple[type, ...]], where: str) -> None:
    """Refuse a record that has not exactly these fields, each of one of its types (True is no integer)."""
    if not isinstance(record, dict) or record.keys() != fields.keys():
        got = f"the fields {sorted(record)}" if isinstance(record, dict) else type(record).__name__
        raise Refusal(f"{where} with {got:.200}", f"the fields {sorted(fields)}")
    for key, types in fields.items():
        if type(record[key]) not in types:
            names = " or ".join(t.__name__ for t in types)
            raise Refusal(f"{key!r} of {where} of type {type(record[key]).__name__}", names)


def shape_of(values: Sequence[Any], where: str) -> Shape:
    """A shape that a file declares."""
    if len(values) > _RANK or any(type(size) is not int or size < 0 for size in values):
        raise Refusal(f"{where} {values!r:.100}", f"at most {_RANK} whole numbers, none negative")
    return tuple(values)


class Arrays:
    """The arrays of a file, each read when it is taken, and once."""

    def __init__(self, archive: zipfile.ZipFile, count: int) -> None:
        self.archive, self.unused = archive, set(range(count))

    def take(self, reference: Record, dtype: np.dtype[Any], where: str, *, finite: bool = True) -> Array:
        check_fields(reference, _ARRAY_FIELDS, f"array of {where}")
        index, axes = reference["array"], reference["axes"]
        if index not in self.unused:
            raise Refusal(f"array {index} for {where}", "the number of an array that nothing else takes")
        self.unused.remove(index)
        array = _parse(_contents(self.archive, _member(index)), dtype, where)
        if any(type(axis) is not int for axis in axes) or sorted(axes) != list(range(array.ndim)):
            raise Refusal(f"axes {axes!r:.100} of {where}", f"an order of {array.ndim} axes")
        if finite and not np.isfinite(array).all():
            raise Refusal(f"NaN or infinity in {where}", "finite numbers")
        return array.transpose(np.argsort(axes))

    def check_all_used(self) -> None:
        if self.unused:
            raise Refusal(f"{len(self.unused)} arrays that no vertex takes", "a use for each")


def _parse(data: bytes, dtype: np.dtype[Any], where: str) -> Array:
    """The array in a ``.npy`` file of this dtype; what its header declares must be what follows."""
    stream = io.BytesIO(data)
    version = npy.read_magic(stream)
    if version != (1, 0):
        raise Refusal(f".npy version {version} in {where}", "version (1, 0)")
    declared, fortran, stored = npy.read_array_header_1_0(stream)
    little = dtype.newbyteorder("<")
    if stored != little or fortran:
        raise Refusal(f"an array of {stored}{' in Fortran order' * fortran} for {where}", f"{dtype} in C order")
    shape, start = shape_of(declared, f"array of {where} with shape"), stream.tell()
    if math.prod(shape) * little.itemsize != len(data) - start:
        raise Refusal(f"{len(data) - start} bytes for {where}", f"those of {shape} numbers of {dtype}")
    return np.ndarray(shape, little, data, start).astype(dtype, copy=False)
