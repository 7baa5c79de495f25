"""What commands read: nets, models made by a person's own function, files that converters read, arrays."""

from __future__ import annotations

import argparse
import contextlib
import glob
import inspect
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gbn import io
from gbn.cli.streams import InputError, named
from gbn.cli.text import quoted
from gbn.conversion import load_model, takes
from gbn.errors import MissingDependencyError, UnknownNameError
from gbn.io import rows
from gbn.io.rows import read_arrays
from gbn.net import GaussianBayesNet

__all__ = [
    "connected",
    "fixed_sizes",
    "load_net",
    "module_of",
    "read_arrays",
    "read_example",
    "read_inputs",
    "read_rows",
    "read_source",
]

Array = np.ndarray[Any, Any]

_FACTORY = re.compile(r"(.+\.py):([^:/\\]+)", re.DOTALL | re.IGNORECASE)
_PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")


def load_net(path: str) -> GaussianBayesNet:
    """The net of a ``.gbn`` file."""
    suffix = Path(path).suffix.lower()
    if suffix != ".gbn" and (_FACTORY.fullmatch(path) or suffix == ".py" or takes(path)):
        raise InputError(f"{path}: expected a .gbn file; make one with: gbn convert {path} -o net.gbn")
    return io.load(path)


def read_source(source: str) -> tuple[Any, Any]:
    """A model with its example (or None); the path itself where it names a file that converters read."""
    factory = _FACTORY.fullmatch(source)
    if factory:
        return _made_by(Path(factory[1]), factory[2])
    suffix = Path(source).suffix.lower()
    if suffix == ".py":
        raise InputError(f"{source}: expected a function in it as well, {source}:function, that returns the model")
    if suffix in _PICKLES:
        raise InputError(
            f"{source}: a {suffix} file is a pickle, which can run any code when it is loaded, and is refused; save "
            "the graph with torch.export.save to a .pt2 file, or write a Python file with a function that builds the "
            "model and loads its weights (torch.load(path, weights_only=True) runs nothing), and give file.py:function"
        )
    return source, None


def _made_by(path: Path, name: str) -> tuple[Any, Any]:
    """What a function in a person's own Python file makes: a model, and its example where it returns both."""
    code = path.read_bytes()
    with _importable(path.parent):
        with _blame(path, str(path)):
            module = _executed(path, code)
        factory = getattr(module, name, None)
        if not callable(factory):
            known = [n for n, value in vars(module).items() if inspect.isroutine(value) or inspect.isclass(value)]
            raise UnknownNameError(f"function of {path.name}", name, [n for n in known if not n.startswith("_")])
        with _blame(path, f"{path}:{name}"):
            made = factory()
    if isinstance(made, tuple) and len(made) == 2:
        return made
    if isinstance(made, (tuple, str)) or made is None:
        got = f"{len(made)} things" if isinstance(made, tuple) else repr(made)
        raise InputError(f"{path}:{name} returned {got}, expected the model, or (model, example)")
    return made, None


def _executed(path: Path, code: bytes) -> ModuleType:
    """The file as a module; compiled here, so that no bytecode is left beside it."""
    module = ModuleType(f"_gbn_source_{path.stem}")
    module.__file__ = str(path)
    # Decorators and tracers look up the module of a class or function by its name.
    sys.modules[module.__name__] = module
    exec(compile(code, str(path), "exec"), module.__dict__)
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours, as when Python runs it."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


@contextlib.contextmanager
def _blame(path: Path, what: str) -> Iterator[None]:
    """Report whatever a person's own code raises as one sentence, with the line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        steps = traceback.walk_tb(error.__traceback__)
        lines = [line for frame, line in steps if frame.f_code.co_filename == str(path)]
        where = f" (line {lines[-1]} of {path.name})" if lines else ""
        raise InputError(f"{what} raised {named(error)}{where}") from error


def module_of(path: str) -> Any:
    """The model of a file, ready to run, for a comparison with its own backprop."""
    with warnings.catch_warnings():
        # What torch deprecates in its own reader is not the caller's affair.
        warnings.simplefilter("ignore")
        module = load_model(path)
    for part in getattr(module, "modules", list)():
        # The mode of an exported graph is fixed, whatever the flag says.
        part.training = False
    return module


@contextlib.contextmanager
def fixed_sizes(path: str) -> Iterator[None]:
    """Say what to do about a graph that was exported for another number of samples than the data has."""
    try:
        yield
    except AssertionError as error:
        raise InputError(
            f"{path}: the exported graph does not take this data ({error}); export it for any number of samples: "
            "torch.export.export(model, args, dynamic_shapes=({0: torch.export.Dim.AUTO},))"
        ) from error


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """A client of the Dask scheduler at an address; None where there is none."""
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError:
        raise MissingDependencyError("distributed", "dask", "--scheduler") from None
    with Client(address) as client:
        yield client


def read_example(args: argparse.Namespace, example: Any) -> Any:
    """The example batch: from a file, of given shapes, or the one that came with the model."""
    if args.example:
        return read_inputs(read_arrays(args.example), args.example)
    if args.example_shape:
        rng, axes = np.random.default_rng(0), args.sample_axis or [0]
        axes = axes * len(args.example_shape) if len(axes) == 1 else axes
        return tuple(rng.standard_normal(_batch(*pair)) for pair in zip(args.example_shape, axes, strict=False))
    return example


def _batch(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    """The shape of two samples."""
    if axis is None:
        return shape
    place = axis % (len(shape) + 1)
    return (*shape[:place], 2, *shape[place:])


def read_inputs(arrays: Mapping[str, Array], path: str) -> tuple[Array, ...]:
    """Members x, or x0, x1, ... in this order."""
    found = [name for name in arrays if re.fullmatch(r"x\d*", name)]
    numbered = [f"x{k}" for k in range(len(found))]
    if found != ["x"] and (not found or set(found) != set(numbered)):
        raise InputError(f"{path}: got members {quoted(arrays)}, expected the inputs as x, or as x0, x1, ...")
    return tuple(arrays[name] for name in (["x"] if found == ["x"] else numbered))


def read_values(path: str) -> Any:
    """Values by vertex: a table by its suffix, else the arrays of an .npz file."""
    return rows.read_rows(path) if Path(path).suffix.lower() in rows.TABLES else read_arrays(path)


def read_rows(path: str, weights: str | None, blocks: bool = False) -> tuple[Any, Any]:
    """Rows to learn from, by a file's suffix, and the member or column of that name apart, which weighs them.

    A pattern such as ``part-*.parquet`` stands for files that are read as blocks: it is given back as it is, and so is
    the name.

    Args:
        blocks: whether to leave a single file, too, to be read in blocks.
    """
    if blocks or (glob.has_magic(path) and not os.path.exists(path)):
        return path, weights
    found = rows.read_rows(path)
    if weights is None:
        return found, None
    if weights not in found:
        raise UnknownNameError(f"member or column of {path} for the weights", weights, list(found))
    return found, found.pop(weights)
