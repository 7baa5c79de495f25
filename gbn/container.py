"""The container of saved files: an uncompressed zip of one JSON header and of arrays that it names by number.

``<header>.json`` comes first, then ``arrays/0.npy``, ``arrays/1.npy``, ...; there are no pickles.  A file appears whole
or not at all.  It is read as if a stranger had made it: names and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.lib import format as npy

from gbn.errors import FileFormatError, GraphError

__all__ = ["TOO_LARGE", "Container", "Refusal", "checked_shape", "opened", "parse", "whole_file", "write"]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
T = TypeVar("T")

_MAGIC = b"PK\x03\x04"
_HEADER_BYTES = 64 << 20
_RANK = 32
_DAMAGED = "the file is truncated, damaged or not written by gbn: save it again"
TOO_LARGE = "if you trust the file, give load a larger max_bytes"


class Refusal(Exception):
    """A claim of a file that does not hold."""

    def __init__(self, got: str, expected: str, remedy: str = _DAMAGED) -> None:
        super().__init__(f"got {got}, expected {expected}; {remedy}")


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write that appears whole or not at all: it is written beside its place and then moved there.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder; make it first", str(target.parent))
    temporary = target.with_name(f".{secrets.token_hex(8)}.gbn.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write(file: IO[bytes], header_name: str, header: Mapping[str, Any], arrays: Sequence[Array]) -> None:
    """Write a header and the arrays that it names by number; equal contents give equal files."""
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    if len(text) > _HEADER_BYTES:
        raise GraphError(f"too many vertices for one file: a header of {len(text)} bytes, not {_HEADER_BYTES}")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(header_name), text)
        for index, array in enumerate(arrays):
            portable = array.astype(array.dtype.newbyteorder("<"), copy=False)
            with archive.open(zipfile.ZipInfo(_member(index)), "w", force_zip64=array.nbytes > 1 << 30) as member:
                npy.write_array(member, portable, version=(1, 0), allow_pickle=False)


def _member(index: int) -> str:
    return f"arrays/{index}.npy"


def opened(
    path: str | os.PathLike[str], header_name: str, kind: str, max_bytes: int, read: Callable[[Container], T]
) -> T:
    """What ``read`` makes of a file.

    Args:
        kind: what the file should be, for messages.
        max_bytes: the most memory that its arrays may take.

    Raises:
        FileFormatError: whatever is wrong with the file, ``read`` included.
        OSError: there is no such file, or it cannot be read.
    """
    with open(path, "rb") as file:
        try:
            magic = file.read(len(_MAGIC))
            if magic != _MAGIC:
                raise Refusal(f"a file that begins with {magic!r}", f"{kind}, which begins with {_MAGIC!r}")
            with zipfile.ZipFile(file) as archive:
                return read(Container(archive, header_name, max_bytes, os.fstat(file.fileno()).st_size))
        except Refusal as refusal:
            raise FileFormatError(f"{os.fspath(path)}: {refusal}") from None
        # Damaged bytes surface as almost any exception of the zip, number and text parsers below.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise FileFormatError(f"{os.fspath(path)}: got {reason}, expected {kind}; {_DAMAGED}") from error


class Container:
    """An open file whose members are in order.

    count: how many arrays it has.
    header: whatever its JSON says.
    """

    def __init__(self, archive: zipfile.ZipFile, header_name: str, max_bytes: int, file_size: int) -> None:
        self._archive = archive
        self.count = _check_members(archive, header_name, max_bytes, file_size)
        self.header: Any = json.loads(self._contents(header_name).decode("utf-8", "surrogatepass"))

    def array_bytes(self, index: int) -> bytes:
        """An array as a ``.npy`` file."""
        return self._contents(_member(index))

    def _contents(self, name: str) -> bytes:
        """A member's bytes, no more than its checked size, and its checksum tested."""
        size = self._archive.getinfo(name).file_size
        with self._archive.open(name) as member:
            data = member.read(size)
            if len(data) != size or member.read(1):
                raise Refusal(f"other than {size} bytes in {name!r}", "as many as the zip's directory says")
        return data


def _check_members(archive: zipfile.ZipFile, header_name: str, max_bytes: int, file_size: int) -> int:
    """The number of arrays, once the members' names and declared sizes are in order."""
    members = archive.infolist()
    count = len(members) - 1
    if sorted(info.filename for info in members) != sorted([header_name, *map(_member, range(count))]):
        raise Refusal(
            f"{len(members)} members of other names", f"{header_name!r} and {_member(0)!r} onwards, once each"
        )
    # Without compression no member is larger than the file: what is read has been paid for on disk.
    if any(info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size for info in members):
        raise Refusal("compressed members", "members stored as they are")
    total = sum(info.file_size for info in members)
    if total > file_size:
        raise Refusal(f"members of {total} bytes in a file of {file_size}", "no more than the file has")
    text = archive.getinfo(header_name).file_size
    if text > _HEADER_BYTES:
        raise Refusal(f"a header of {text} bytes", f"at most {_HEADER_BYTES}")
    if total - text > max_bytes:
        raise Refusal(f"arrays of {total - text} bytes", f"at most {max_bytes}", TOO_LARGE)
    return count


def parse(data: bytes, dtype: np.dtype[Any], where: str) -> Array:
    """The array in a ``.npy`` file of this dtype; what its header declares must be what follows."""
    stream = io.BytesIO(data)
    version = npy.read_magic(stream)
    if version != (1, 0):
        raise Refusal(f".npy version {version} in {where}", "version (1, 0)")
    declared, fortran, stored = npy.read_array_header_1_0(stream)
    little = dtype.newbyteorder("<")
    if stored != little or fortran:
        raise Refusal(f"an array of {stored}{' in Fortran order' * fortran} for {where}", f"{dtype} in C order")
    shape, start = checked_shape(declared, f"array of {where} with shape"), stream.tell()
    if math.prod(shape) * little.itemsize != len(data) - start:
        raise Refusal(f"{len(data) - start} bytes for {where}", f"those of {shape} numbers of {dtype}")
    return np.ndarray(shape, little, data, start).astype(dtype, copy=False)


def checked_shape(values: Sequence[Any], where: str) -> Shape:
    """A shape that numpy can have; refused otherwise."""
    if len(values) > _RANK or any(type(size) is not int or size < 0 for size in values):
        raise Refusal(f"{where} {values!r:.100}", f"at most {_RANK} whole numbers, none negative")
    return tuple(values)
