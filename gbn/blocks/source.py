"""The forms in which rows come in blocks, read as one: blocks that can be had anew whenever they are needed."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.arrays import detached
from gbn.errors import EvidenceError, ShapeError
from gbn.evidence import named_arrays
from gbn.io.rows import read_rows, row_groups

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = ["Block", "Source", "check_alike", "columns_of", "in_blocks", "read_block"]

# Rows for each block where nobody says how many: enough blocks for some workers, and none too large or too small.
_BLOCKS, _FEWEST, _MOST = 64, 1024, 1 << 17
_END = object()


@dataclass(frozen=True)
class Block:
    """Some of the rows.

    number: its place, from 0.
    content: a mapping of arrays, a table, the path of a file, a function without arguments that gives one of these, or
        something that Dask has still to compute.
    weights: of its rows, likewise; None: once each, or what a column of the content says.
    what: more for messages, such as a file's name.
    """

    number: int
    content: Any
    weights: Any = None
    what: str = ""

    @property
    def label(self) -> str:
        return f"block {self.number}" + (f" ({self.what})" if self.what else "")


@dataclass(frozen=True)
class Source:
    """All blocks, in order; every iteration begins anew."""

    blocks: Callable[[], Iterable[Block]]

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks())


def in_blocks(data: Any, weights: Any = None, block_rows: int | None = None, cut: bool = False) -> Source | None:
    """The blocks that data come in; None where they are in one piece.

    Args:
        data: a mapping with Dask arrays; a Dask dataframe; the path of a file (.parquet, .csv, .npz), or a pattern such
            as "part-*.parquet"; an iterable (not an iterator) of blocks, or a function that gives one: a block is
            a mapping of arrays, a pandas table, a path, a function without arguments that gives one of these, or a Dask
            delayed of it.  A mapping or a table in one piece is cut if it is asked for.
        weights: of the rows, an array for each block, or one (of Dask or not) for arrays; a name is left to the reader.
        block_rows: rows for each block of what is cut.
        cut: whether to cut even so.

    Raises:
        EvidenceError: an iterator, which can be read once only; weights in another form.
    """
    if block_rows is not None and block_rows < 1:
        raise EvidenceError(f"block_rows: got {block_rows}, expected a number of at least 1, or None")
    given = None if isinstance(weights, str) else weights
    if isinstance(data, str | os.PathLike):
        return _listed(_files(data), given)
    if isinstance(data, Mapping):
        if any(map(_is_dask_array, data.values())):
            return _chunks(data, given)
        return _cut(data, given, block_rows) if cut or block_rows else None
    if _is_table(data):
        return _cut(data, given, block_rows) if cut or block_rows else None
    if hasattr(data, "to_delayed") and hasattr(data, "npartitions"):
        if given is not None:
            raise EvidenceError("weights: of a Dask dataframe they are one of its columns; give its name")
        return _listed(data.to_delayed(), None)
    if callable(data):
        return Source(partial(_produced, data, given))
    if data is None or hasattr(data, "__array__") or not isinstance(data, Iterable):
        return None
    if isinstance(data, Iterator):
        raise EvidenceError(
            f"data: got an iterator ({type(data).__name__}), which can be read once only, and rows are read in every "
            "round; give a list, or a function that makes the iterator"
        )
    return _listed(data, given)


def _is_table(data: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame | pandas.Series)


def _is_dask_array(value: Any) -> bool:
    return hasattr(value, "__dask_graph__") and hasattr(value, "chunks")


def _listed(items: Any, weights: Any) -> Source:
    return Source(partial(_numbered, items, weights))


def _produced(make: Callable[[], Any], weights: Any) -> Iterator[Block]:
    return _numbered(make(), weights)


def _numbered(items: Iterable[Any], weights: Any) -> Iterator[Block]:
    """Blocks with their labels, files as the parts that they consist of."""
    if weights is None:
        yield from (_block(k, item, None) for k, item in enumerate(_spread(items)))
        return
    if hasattr(weights, "__array__") or not isinstance(weights, Sequence):
        raise EvidenceError(
            f"weights: got {type(weights).__name__}, expected a list with an array for each block, or the name of a "
            "column or member of the blocks"
        )
    for k, (item, own) in enumerate(zip_longest(_spread(items), weights, fillvalue=_END)):
        if item is _END or own is _END:
            raise EvidenceError(f"weights: got {len(weights)} arrays, expected one for each block of the data")
        yield _block(k, item, own)


def _block(number: int, item: Any, weights: Any) -> Block:
    return Block(number, item.read, weights, item.name) if isinstance(item, _Part) else Block(number, item, weights)


@dataclass(frozen=True)
class _Part:
    """A file, or a part of one."""

    name: str
    read: Callable[[], Any]


def _spread(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, str | os.PathLike):
            yield from _parts(os.fspath(item))
        else:
            yield item


def _parts(path: str) -> Iterator[_Part]:
    """A file is a block, and of a parquet file every row group."""
    name, groups = Path(path).name, row_groups(path)
    if groups <= 1:
        yield _Part(name, partial(read_rows, path))
        return
    for k in range(groups):
        yield _Part(f"{name}, row group {k}", partial(read_rows, path, k))


def _files(pattern: str | os.PathLike[str]) -> list[str]:
    path = os.fspath(pattern)
    if not glob.has_magic(path) or os.path.exists(path):
        return [path]
    found = sorted(glob.glob(path))
    if not found:
        raise EvidenceError(f"{path}: no file has such a name")
    return found


def _chunks(data: Mapping[str, Any], weights: Any) -> Source:
    """Dask arrays cut as the first of them is; arrays with as many rows with them, all others for every block."""
    import dask.array as da

    first = next(name for name, value in data.items() if _is_dask_array(value))
    along = data[first].chunks[0]
    known, count = not any(np.isnan(n) for n in along), len(along)
    total = sum(along) if known else -1

    def pieces(name: str, value: Any) -> list[Any]:
        if not _is_dask_array(value):
            value = np.asarray(detached(value))
            if value.ndim == 0 or len(value) != total or total == 1:
                return [value] * count
            value = da.from_array(value, chunks=(along, *(-1,) * (value.ndim - 1)))
        rest = dict.fromkeys(range(1, value.ndim), -1)
        if known and sum(value.chunks[0]) not in (total, np.nan):
            raise ShapeError(
                f"{name!r}: got a Dask array of {sum(value.chunks[0])} rows, expected {total}, as {first!r} has"
            )
        value = value.rechunk({0: along, **rest} if known and value.chunks[0] != along else rest)
        if len(value.chunks[0]) != count:
            raise ShapeError(f"{name!r}: got {len(value.chunks[0])} chunks of rows, expected {count}, as {first!r} has")
        return list(value.to_delayed().reshape(-1))

    parts = {name: pieces(name, value) for name, value in data.items()}
    counted = [None] * count if weights is None else pieces("weights", weights)
    blocks = [Block(k, {n: p[k] for n, p in parts.items()}, counted[k]) for k in range(count)]
    return Source(lambda: blocks)


def _cut(data: Any, weights: Any, block_rows: int | None) -> Source:
    """A mapping or a table by rows.  Arrays of other lengths than the longest ones are for every block."""
    if _is_table(data):
        data = data if data.ndim == 2 else data.to_frame().T
        arrays, rows = {}, len(data)
    else:
        arrays = {name: np.asarray(detached(value)) for name, value in data.items()}
        rows = max((len(a) for a in arrays.values() if a.ndim), default=1)
    size = block_rows or min(max(-(-rows // _BLOCKS), _FEWEST), _MOST)
    counted = None if weights is None else np.asarray(weights)
    if counted is not None and counted.shape != (rows,):
        raise ShapeError(f"weights: got shape {counted.shape}, expected ({rows},), a weight for each row")

    def blocks() -> Iterator[Block]:
        for k, start in enumerate(range(0, max(rows, 1), size)):
            part = slice(start, min(start + size, rows))
            if _is_table(data):
                content = data.iloc[part]
            else:
                content = {n: a[part] if a.ndim and len(a) == rows else a for n, a in arrays.items()}
            rows_here = f"rows {part.start} to {part.stop - 1}"
            yield Block(k, content, None if counted is None else counted[part], rows_here)

    return Source(blocks)


def columns_of(content: Any) -> tuple[str, ...]:
    """Names of the members or columns of a block's content, sorted."""
    return tuple(sorted(map(str, content.keys()))) if hasattr(content, "keys") else ()


def read_block(net: GaussianBayesNet, content: Any) -> dict[str, Any]:
    """A block's arrays by vertex, at least one row of them.

    Raises:
        As :func:`gbn.evidence.named_arrays`; EvidenceError: no rows.
    """
    arrays = named_arrays(net, content, "data")
    if any(np.shape(array)[:1] == (0,) for array in arrays.values()):
        raise EvidenceError("it has no rows; leave empty blocks out, or repartition the data")
    return arrays


def check_alike(labels: Sequence[str], columns: Sequence[tuple[str, ...]]) -> None:
    """Raise EvidenceError where blocks have other columns than the first one."""
    first, wrong = set(columns[0]), []
    for label, own in zip(labels, columns, strict=True):
        lacking, more = sorted(first - {*own}), sorted({*own} - first)
        clauses = [f"lacks {', '.join(map(repr, lacking))}"] * bool(lacking)
        clauses += [f"has {', '.join(map(repr, more))} besides"] * bool(more)
        if clauses:
            wrong.append(f"{label} {' and '.join(clauses)}")
    if wrong:
        shown = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more blocks" if len(wrong) > 5 else "")
        raise EvidenceError(f"blocks must have the same columns: compared with {labels[0]}, {shown}")
