"""Where the weights of a description come from: random numbers, an .npz file, or the description itself."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converters._call import Refused
from converters._keras.records import Shape, Variable, Weights
from gbn.errors import ConversionError

__all__ = ["INITS", "Archive", "Budget", "Drawn", "Given"]

Array = np.ndarray[Any, Any]
# Variables that are no kernels start at what leaves values as they are.
_ONES = ("gamma", "scale", "moving_variance")
_ZEROS = ("beta", "bias", "moving_mean", "alpha")


def _glorot(rng: np.random.Generator, shape: Shape, enter: int, leave: int) -> Array:
    """Uniform, ± √(6 / (fan-in + fan-out)).  Source: Glorot and Bengio 2010, eq. 16."""
    bound = math.sqrt(6 / (enter + leave))
    return rng.uniform(-bound, bound, shape)


def _he(rng: np.random.Generator, shape: Shape, enter: int, leave: int) -> Array:
    """Normal, variance 2 / fan-in.  Source: He et al. 2015, eq. 10."""
    return rng.standard_normal(shape) * math.sqrt(2 / enter)


def _normal(rng: np.random.Generator, shape: Shape, enter: int, leave: int) -> Array:
    """Normal, variance 1 / fan-in."""
    return rng.standard_normal(shape) / math.sqrt(enter)


def _zeros(rng: np.random.Generator, shape: Shape, enter: int, leave: int) -> Array:
    return np.zeros(shape)


INITS = {"glorot": _glorot, "he": _he, "normal": _normal, "zeros": _zeros}


@dataclass(frozen=True)
class Drawn:
    """Random weights: the draw of each depends on the seed and its name only, not on what else the net has."""

    init: str = "glorot"
    seed: int = 0

    def array(self, name: str, shape: Shape) -> tuple[Array, str]:
        """Numbers for a variable, and where they come from."""
        last = name.rpartition(".")[2]
        if last in _ONES:
            return np.ones(shape), "ones"
        if last in _ZEROS:
            return np.zeros(shape), "zeros"
        places = math.prod(shape[:-2])
        enter = places * shape[-2] if len(shape) > 1 else max(1, math.prod(shape))
        leave = places * shape[-1] if len(shape) > 1 else enter
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        return INITS[self.init](rng, shape, enter, leave), f"random ({self.init}, seed {self.seed})"


class Archive:
    """An .npz file; each member's shape is checked before it is read, and pickles are refused.

    Raises:
        ConversionError: no such file, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.used: set[str] = set()
        try:
            with zipfile.ZipFile(path) as archive:
                self.names = {entry.filename.removesuffix(".npy") for entry in archive.infolist()}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ConversionError(f"{path.name}: not a whole .npz file: {error}") from error

    def array(self, name: str, shape: Shape) -> tuple[Array, str]:
        """The member of that name, which must have the shape."""
        self.used.add(name)
        try:
            found = self._read(name, shape)
        except Refused:
            raise
        # Damaged bytes surface as almost any exception of the zip and number parsers.
        except Exception as error:
            raise Refused(f"{self.path.name}: its member {name!r} cannot be read: {error!s:.200}") from error
        return found, f"{self.path.name}: {name}"

    def _read(self, name: str, shape: Shape) -> Array:
        if name not in self.names:
            raise Refused(f"{self.path.name}: it has no member {name!r}, of shape {shape}")
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            got, _, dtype = read[version](file)
        if got != shape or dtype.kind not in "fiu":
            raise Refused(
                f"{self.path.name}: its member {name!r} has shape {got} of {dtype}, expected numbers of {shape}"
            )
        with np.load(self.path, allow_pickle=False) as archive:
            return np.asarray(archive[name])


@dataclass
class Budget:
    """How many bytes of weights may still be made."""

    left: int


@dataclass
class Given:
    """The weights of one layer: those that its description holds, and for the others a common source."""

    layer: str
    source: Drawn | Archive
    budget: Budget
    inline: Mapping[str, Any] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def own(self, path: str, expected: Mapping[str, Shape]) -> list[Variable]:
        return [self._variable(f"{path}.{name}", shape) for name, shape in expected.items()]

    def _variable(self, name: str, shape: Shape) -> Variable:
        size = 8 * math.prod(shape)
        if size > self.budget.left:
            raise Refused(f"weights: {name!r} of shape {shape} needs {size} bytes, more than what max_bytes leaves")
        self.budget.left -= size
        # The description names a layer's variables without the layer.
        short = name.removeprefix(f"{self.layer}.")
        if short in self.inline:
            self.used.add(short)
            value, source = _numbers(self.inline[short], short), "the description"
        else:
            value, source = self.source.array(name, shape)
        if value.shape != shape:
            raise Refused(f"weights.{short}: got shape {value.shape}, expected {shape}")
        return Variable(name, source, shape, True, lambda: value)

    def child(self, attribute: str) -> Given:
        return self

    def members(self, records: Sequence[Mapping[str, Any]]) -> list[Weights]:
        return [self for _ in records]


def _numbers(value: Any, name: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise Refused(f"weights.{name}: expected numbers in rows of one length: {error}") from None
    if array.dtype.kind not in "fiu":
        raise Refused(f"weights.{name}: got {str(value)[:40]}, expected numbers")
    return array
