"""ONNX: models of operator sets 6 to the newest, from a file, bytes or memory.

Each node becomes a vertex of the same name and meaning; initialisers of floating point are its weights.  Composite
operators and functions are their parts, recurrent layers and loops are written out step by step.  The model is only
read: nothing of it is run, and no other runtime is needed.  Importing this module does not import onnx.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from gbn.errors import ConversionError, MissingDependencyError
from gbn.net import GaussianBayesNet

__all__ = ["TAKES", "accepts", "convert"]

TAKES = "ONNX: .onnx file, its bytes, onnx.ModelProto"


def accepts(obj: Any) -> bool:
    """Whether this converter is the one for an object; decided without importing onnx."""
    if isinstance(obj, (str, PathLike)):
        return Path(obj).suffix.lower() == ".onnx"
    if isinstance(obj, (bytes, bytearray, memoryview)):
        return True
    kind = type(obj)
    return kind.__name__ == "ModelProto" and kind.__module__.partition(".")[0] == "onnx"


def convert(
    obj: Any, example: Any = None, *, sample_axis: int | Sequence[int | None] | None = 0, **options: Any
) -> GaussianBayesNet:
    """The computation graph of an ONNX model, without noise.

    Args:
        obj: the path of a ``.onnx`` file (with its external data beside it), the bytes of one, or a ``ModelProto``.
        example: inputs whose shapes fill in sizes that the model leaves open: an array, a tuple of them, or a mapping
            by name; needed only where axes other than that of the samples are open.
        sample_axis: see :func:`gbn.convert`; a sequence has one entry for each input.  Whether the model leaves the
            size of this axis open or fixes it, the net takes any number of samples.

    Vertices have the names of values, without slashes; ``net.source_of(name)`` is the name in the file, for parameters
    that of their initialiser.  Scalar initialisers, statistics of batch normalisation and Constant nodes are constants.

    Raises:
        ConversionError: no model, a damaged one, or one with nodes that have no counterpart, all of them listed.

    Warns:
        UserWarning: a model of fixed shapes that mixes its samples is converted as with ``sample_axis=None``.
    """
    if options:
        raise ConversionError(f"options of the ONNX converter: got {sorted(options)}, expected none")
    try:
        from converters._onnx_graph import build
        from converters._onnx_inputs import Mixed, input_sizes
        from converters._onnx_read import load
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("onnx", "google"):
            raise
        raise MissingDependencyError("onnx", "onnx", "converting an ONNX model") from error
    model, folder = load(obj)
    fixed = False
    try:
        sizes, baked = input_sizes(model, example, sample_axis)
        fixed = baked is not None
        return build(model, folder, sizes, baked).net
    except ConversionError as error:
        if not (fixed or isinstance(error, Mixed)):
            raise
        try:
            net = build(model, folder, *input_sizes(model, example, None)).net
        except ConversionError:
            raise error from None
        reason = f"{error.layers[0]}" if error.layers else str(error)
        warnings.warn(
            f"the shapes of this model are fixed, and it mixes what is on axis {sample_axis} ({reason}); its inputs "
            "are converted as one sample, with all their axes in the event",
            stacklevel=2,
        )
        return net
