"""Rows from files: arrays by name from ``.npz``, tables from ``.csv`` and ``.parquet``; never a pickle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import numpy as np

from gbn.errors import FileFormatError, MissingDependencyError

__all__ = ["TABLES", "read_arrays", "read_rows", "row_groups"]

Array = np.ndarray[Any, Any]

TABLES = (".csv", ".parquet")
# What an .npz file may unpack to: so many bytes, or so many times its own size.
_UNPACKED, _RATIO = 256 << 20, 20


def read_rows(path: str, group: int | None = None) -> Any:
    """Rows by vertex: a pandas table, or arrays by name, as the file's suffix says.

    Args:
        group: of a parquet file, this row group alone.

    Raises:
        FileFormatError: damaged, pickled, or of another suffix.
        MissingDependencyError: pandas or pyarrow is not installed.
        OSError: it cannot be read.
    """
    suffix = Path(path).suffix.lower()
    if suffix in TABLES:
        return _read_table(path, suffix, group)
    if suffix == ".npz":
        return read_arrays(path)
    raise FileFormatError(f"{path}: got a file of suffix {suffix!r}, expected .npz, .csv or .parquet")


def row_groups(path: str) -> int:
    """Parts in which a file can be read: the row groups of a parquet file, else 1."""
    if Path(path).suffix.lower() != ".parquet" or not os.path.isfile(path):
        return 1
    try:
        from pyarrow import parquet

        return int(parquet.ParquetFile(path).num_row_groups)
    # Whatever is wrong with it is said when it is read.
    except Exception:
        return 1


def read_arrays(path: str) -> dict[str, Array]:
    """The arrays of an .npz file by name; objects, which are pickled, are refused.

    Raises:
        FileFormatError: damaged, or with members that are no plain arrays.
        OSError: it cannot be read.
    """
    remedy = "write plain arrays with numpy.savez(path, name=array)"
    with open(path, "rb") as file:
        try:
            arrays = _opened(file)
        # Damaged bytes surface as almost any exception of the zip and number parsers.
        except Exception as error:
            if "pickle" in str(error):
                what = "it holds pickled objects, which can run any code when they are loaded, and is refused"
                raise FileFormatError(f"{path}: {what}; {remedy}") from error
            raise FileFormatError(f"{path}: not a whole .npz file: {error!s:.300}; {remedy}") from error
    if arrays is None:
        raise FileFormatError(f"{path}: got a single array without a name, expected an .npz file; {remedy}")
    strange = ", ".join(repr(name) for name, value in arrays.items() if not _is_plain(value))
    if strange:
        raise FileFormatError(f"{path}: its members {strange:.300} are not arrays of numbers or text; {remedy}")
    return arrays


def _opened(file: IO[bytes]) -> dict[str, Any] | None:
    magic = file.read(4)
    file.seek(0)
    if magic[:2] != b"PK" and magic != b"\x93NUM":
        raise ValueError(f"it begins with {magic!r}")
    if magic[:2] != b"PK":
        return None
    archive = np.load(file, allow_pickle=False)
    return _members(archive, os.fstat(file.fileno()).st_size)


def _members(archive: Any, size: int) -> dict[str, Any]:
    """The arrays of an open .npz file, which zeros that were compressed well must not blow up."""
    unpacked = sum(member.file_size for member in archive.zip.infolist())
    if unpacked > max(_UNPACKED, _RATIO * size):
        raise ValueError(f"its {size} bytes unpack to {unpacked}; write them without compression")
    return {name: archive[name] for name in archive.files}


def _is_plain(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biufcUS" and value.dtype.itemsize > 0


def _read_table(path: str, suffix: str, group: int | None) -> Any:
    try:
        import pandas
    except ImportError:
        raise MissingDependencyError("pandas", "all", f"reading {suffix} files") from None
    open(path, "rb").close()  # says in the system's words what is wrong with a path
    try:
        if suffix == ".csv":
            return pandas.read_csv(path)
        if group is None:
            return pandas.read_parquet(path)
        from pyarrow import parquet

        return parquet.ParquetFile(path).read_row_group(group).to_pandas()
    except ImportError:
        raise MissingDependencyError("pyarrow", "parquet", "reading .parquet files") from None
    # The parsers of both formats have exceptions of their own for damaged files.
    except Exception as error:
        raise FileFormatError(f"{path}: not a whole {suffix} file: {error}") from error
