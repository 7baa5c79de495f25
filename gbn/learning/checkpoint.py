"""Checkpoints: the whole state of a fit in one file, without pickles, that appears whole or not at all.

What is kept is a tree of mappings, lists, numbers, texts, None and arrays; it comes back bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gbn.errors import FileFormatError
from gbn.io.archive import DAMAGED, Refusal, open_archive, write, write_whole
from gbn.learning.numbers import numbers

if TYPE_CHECKING:
    from gbn.learning.data import Data
    from gbn.net import GaussianBayesNet

__all__ = ["fingerprint", "load_state", "read_tree", "save_state"]

Array = np.ndarray[Any, Any]
Tree = dict[str, Any]

FORMAT, VERSION = "gbn.fit", 1
_DTYPES = ("bool", "int64", "uint32", "uint64", "float32", "float64")
_MOST_BYTES = 4 << 30
_REMEDY = "the file is truncated, damaged or no checkpoint: remove it to begin the fit anew"


def save_state(path: str | os.PathLike[str], state: Mapping[str, Any], form: str = FORMAT) -> None:
    """Write a tree to one file; what was there before is replaced, or still there if writing fails.

    Args:
        form: what the file says it is.
    """
    arrays: list[Array] = []

    def encoded(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {"map": [[key, encoded(item)] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return [encoded(item) for item in value]
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, np.ndarray):
            arrays.append(np.ascontiguousarray(value).reshape(value.shape))
            return {"array": len(arrays) - 1, "axes": list(range(value.ndim)), "dtype": value.dtype.name}
        return value

    header = {"format": form, "version": VERSION, "state": encoded(state)}
    write_whole(path, lambda file: write(file, header, arrays))


def load_state(path: str | os.PathLike[str], mark: str) -> Tree | None:
    """The tree that :func:`save_state` wrote there; None where there is no file.

    Args:
        mark: the fingerprint of the fit that is to go on.

    Raises:
        FileFormatError: damaged, of another version, or a checkpoint of another fit.
        OSError: it cannot be read.
    """
    try:
        state = read_tree(path, FORMAT, "checkpoint", _REMEDY)
    except FileNotFoundError:
        return None
    if state.get("fingerprint") != mark:
        raise FileFormatError(
            f"{os.fspath(path)}: a checkpoint of another fit (net, data or options differ); give the same ones to go "
            "on with it, or remove it to begin anew"
        )
    return state


def read_tree(path: str | os.PathLike[str], form: str, what: str, remedy: str) -> Tree:
    """The tree that :func:`save_state` wrote there.

    Args:
        form: what the file must say it is; what: the same for messages; remedy: what to do where it is not.

    Raises:
        FileFormatError: damaged, or of another version.
        OSError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return _read(file, form)
    except Refusal as refusal:
        told = str(refusal).replace(DAMAGED, remedy)
        raise FileFormatError(f"{os.fspath(path)}: not a whole {what}: {told}") from None
    except OSError:
        raise
    # Damaged bytes surface as almost any exception of the zip, number and text parsers.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:300].rstrip(": ")
        raise FileFormatError(f"{os.fspath(path)}: got {reason}, expected a {what}; {remedy}") from error


def _read(file: IO[bytes], form: str = FORMAT) -> Tree:
    header, stored = open_archive(file, _MOST_BYTES)
    if not isinstance(header, dict) or header.get("format") != form or header.get("version") != VERSION:
        raise Refusal("another header", f"format {form!r} of version {VERSION}", "write the file anew")

    def decoded(value: Any) -> Any:
        if isinstance(value, dict) and "map" in value:
            return {str(key): decoded(item) for key, item in value["map"]}
        if isinstance(value, dict):
            dtype = value.pop("dtype", None)
            if dtype not in _DTYPES:
                raise Refusal(f"an array of {dtype!r:.80}", "one of " + ", ".join(_DTYPES))
            array = stored.take(value, np.dtype(dtype), "the state", finite=False)
            array.flags.writeable = False
            return array
        return [decoded(item) for item in value] if isinstance(value, list) else value

    state = decoded(header.get("state"))
    if not isinstance(state, dict):
        raise Refusal("a state that is no mapping", "a mapping", "write the file anew")
    return state


def fingerprint(net: GaussianBayesNet, data: Data, options: Mapping[str, Any]) -> str:
    """A digest of everything that decides how a fit goes: the net, its numbers, the rows and the options."""
    digest = hashlib.sha256()

    def take(name: str, array: Array) -> None:
        digest.update(f"{name}{array.dtype}{array.shape}".encode("utf-8", "surrogatepass"))
        digest.update(np.ascontiguousarray(array).tobytes())

    shape = [
        (v.name, v.kind, v.shape, v.plated, v.parents, v.op, sorted(v.attributes.items()), v.noise, v.trainable)
        for v in net.vertices.values()
    ]
    digest.update(json.dumps([shape, net.dtype.name, sorted(options.items())], default=_described).encode())
    for kind, arrays in numbers(net).items():
        for name, array in arrays.items():
            take(f"{kind}:{name}", array)
    evidence = data.evidence
    for kind, held in (("values", evidence.values), ("masks", evidence.masks), ("do", evidence.do)):
        for name, array in held.items():
            take(f"{kind}:{name}", array)
    take("weights", data.counts)
    return digest.hexdigest()


def _described(value: Any) -> Any:
    """What JSON has no word for: arrays in full, other things as they present themselves."""
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), np.asarray(value).tolist()]
    if hasattr(value, "digest"):
        return value.digest()
    return sorted(value) if isinstance(value, set | frozenset) else repr(value)
