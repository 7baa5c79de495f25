"""PyTorch: ``nn.Module``, ``ExportedProgram`` and ``.pt2`` files, by way of torch.export.

The graph is torch's own: ATen operations, with parameters and buffers as inputs.  Each operation becomes a vertex of
the same meaning; names are those a user knows, the paths of modules and parameters.  Importing this module does not
import torch.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from converters import keras
from gbn.errors import ConversionError, GbnError, MissingDependencyError
from gbn.net import GaussianBayesNet

__all__ = ["TAKES", "accepts", "convert"]

TAKES = "PyTorch: nn.Module (with an example batch), torch.export.ExportedProgram, .pt2 file"
_PICKLES = (".pt", ".pth", ".ckpt")
_CLASSES = frozenset({("torch.nn.modules.module", "Module"), ("torch.export.exported_program", "ExportedProgram")})


def accepts(obj: Any) -> bool:
    """Whether this converter is the one for an object; decided without importing torch.

    A layer of Keras, which is a torch module too under Keras's backend of PyTorch, is Keras's.
    """
    if isinstance(obj, (str, PathLike)):
        return Path(obj).suffix.lower() in (".pt2", *_PICKLES)
    bases = type(obj).__mro__
    return any((base.__module__, base.__name__) in _CLASSES for base in bases) and not keras.accepts(obj)


def convert(obj: Any, example: Any = None, *, sample_axis: Any = 0, **options: Any) -> GaussianBayesNet:
    """The computation graph of a PyTorch model in evaluation mode, without noise.

    Args:
        obj: an ``nn.Module``, a ``torch.export.ExportedProgram``, or the path of a ``.pt2`` file.
        example: a batch to trace the module with, shape (samples, *event), or a tuple of them for several inputs.  Only
            shapes matter.  Exported programs bring their own.
        sample_axis: see :func:`gbn.convert`; a sequence has one entry for each input.

    Raises:
        ConversionError: a module in training mode; a graph that depends on the data; operations without counterpart,
            all of them listed; or a net that does not compute what the module does.

    Warns:
        UserWarning: a program of fixed shapes that mixes its samples is converted as with ``sample_axis=None``.
    """
    if options:
        raise ConversionError(f"options of the PyTorch converter: got {sorted(options)}, expected none")
    try:
        from converters._trace import convert_module, convert_program
    except ImportError as error:
        if error.name != "torch":
            raise
        raise MissingDependencyError("torch", "torch", "converting a PyTorch model") from error
    if isinstance(obj, (str, PathLike)):
        return _convert_file(Path(obj), example, sample_axis)
    if type(obj).__name__ == "ExportedProgram":
        return convert_program(obj, example, sample_axis)
    return convert_module(obj, example, sample_axis)


def load(path: str | PathLike[str]) -> Any:
    """The module of a ``.pt2`` file, if nothing in the file would run when torch loads it.

    Raises:
        ConversionError: another file, a damaged one, or one with something in it that would run.
    """
    from converters._pt2 import load_program

    return load_program(_checked(Path(path))).module()


def _convert_file(path: Path, example: Any, sample_axis: Any) -> GaussianBayesNet:
    from converters._pt2 import load_program
    from converters._trace import convert_program

    program = load_program(_checked(path))
    try:
        return convert_program(program, example, sample_axis)
    except GbnError:
        raise
    except Exception as error:  # a graph that contradicts itself fails anywhere in torch
        raise ConversionError(
            f"{path.name}: its graph cannot be run ({type(error).__name__}: {str(error).strip()[:300]}); export the "
            "model again with torch.export.save"
        ) from error


def _checked(path: Path) -> Path:
    if path.suffix.lower() in _PICKLES:
        raise ConversionError(
            f"{path.name}: a {path.suffix} file is a pickle, which can run any code when it is loaded, and holds no "
            "graph. Build the module, load the weights with "
            "module.load_state_dict(torch.load(path, weights_only=True)), and convert the module; or save the graph "
            "itself with torch.export.save to a .pt2 file"
        )
    return path
